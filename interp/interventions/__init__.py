"""Interventions: frozen settings that steer a run, one file each, known by name in INTERVENTIONS.

    from interp.interventions import VAR
    model.generate(prompt, using=VAR(keep=0.4))

A file here holds one method and ends in `INTERVENTIONS.add(...)`.
"""

from typing import TYPE_CHECKING, Any

from interp.composing import Conflict as Conflict
from interp.registry import Registry
from interp.steering.found import Found as Found
from interp.steering.intervention import Intervention as Intervention
from interp.steering.report import Report as Report

if TYPE_CHECKING:
    from interp.interventions.act import ACT as ACT
    from interp.interventions.adaptvis import AdaptVis as AdaptVis
    from interp.interventions.autopasta import AutoPASTA as AutoPASTA
    from interp.interventions.carve import CARVE as CARVE
    from interp.interventions.iri import IRI as IRI
    from interp.interventions.pai import PAI as PAI
    from interp.interventions.paint import PAINT as PAINT
    from interp.interventions.pasta import PASTA as PASTA
    from interp.interventions.spotlight import SpotLight as SpotLight
    from interp.interventions.vaf import VAF as VAF
    from interp.interventions.var import VAR as VAR
    from interp.interventions.vcd import VCD as VCD
    from interp.interventions.vhr import VHR as VHR

__all__ = [
    "ACT", "CARVE", "INTERVENTIONS", "IRI", "PAI", "PAINT", "PASTA", "VAF", "VAR", "VCD", "VHR",
    "AdaptVis", "AutoPASTA", "Conflict", "Found", "Intervention", "Report", "SpotLight",
]  # fmt: skip

INTERVENTIONS: Registry[type[Intervention]] = Registry("intervention", "interp.interventions")


def __getattr__(name: str) -> Any:
    """VAR and its kin by name, each imported when it is first asked for."""
    if name.startswith("_"):
        raise AttributeError(name)
    if name in INTERVENTIONS:
        return INTERVENTIONS[name]
    raise AttributeError(f"module 'interp.interventions' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *INTERVENTIONS])
