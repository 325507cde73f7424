"""Figures, in one house style. plotly lives in this folder alone.

The figure of an analysis has the analysis's name and takes its `Result`: `plots.sinks(result)`.
`plots.dark(figure)` is any of them for a dark page, `plots.fit(figure, 700)` for a narrow one.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.plots.fitting import fit as fit
    from interp.plots.maps import head_map as head_map
    from interp.plots.maps import head_maps as head_maps
    from interp.plots.maps import image_map as image_map
    from interp.plots.maps import metric_map as metric_map
    from interp.plots.night import dark as dark
    from interp.plots.sweep_figure import sweep_map as sweep_map

MAPS = {"dark": "night", "fit": "fitting", "head_map": "maps", "head_maps": "maps", "image_map": "maps",
        "metric_map": "maps", "sweep_map": "sweep_figure"}  # fmt: skip
# Each analysis has a file here of its own name, with a function `figure(result)`.
RESULTS = (
    "activation_patching",
    "attention",
    "attribution",
    "bigram_backcopy",
    "causal_tracing",
    "circuit",
    "circuit_reuse",
    "compare",
    "emergent_heads",
    "fcct",
    "flow",
    "head_importance",
    "heads",
    "path_patching",
    "repair",
    "rhythm",
    "sinks",
    "steer",
)


def __getattr__(name: str) -> Any:
    if name in MAPS:
        return getattr(importlib.import_module(f"interp.plots.{MAPS[name]}"), name)
    if name in RESULTS:
        return importlib.import_module(f"interp.plots.{name}_figure").figure
    raise AttributeError(f"module 'interp.plots' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *MAPS, *RESULTS])
