"""VAR: visual attention redistribution (Kang et al., ICLR 2025)."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.asking import whole_numbers
from interp.interventions import INTERVENTIONS
from interp.metrics.residual import threshold
from interp.prompt import Prompt
from interp.sites import At, Hook
from interp.steering.backbones import known
from interp.steering.found import taken
from interp.steering.intervention import Intervention, Settings
from interp.steering.moving import Moving, exact
from interp.steering.needs import (
    check_at_least,
    check_flag,
    check_share,
    image_span,
    layers_of,
    writing_stack,
)
from interp.steering.sinks import LayerSinks, SinkTest
from interp.steering.spans import after, asked, first_of, over_rows

if TYPE_CHECKING:
    from interp.model import Model
    from interp.structure import Stack

EPSILON = 1e-6  # of the image's share, for each of its tokens


@dataclass(frozen=True)
class VAR(Intervention):
    """Heads that look at the image take weight from its sinks, and text sinks, and give it to its rest.

    Kang et al., ICLR 2025. A token is a sink in a layer where max |x[d]| / rms(x) >= `tau` over the
    sink dimensions, x the stream before the layer; found once, among the prompt's tokens. In rows behind the
    image a head is chosen, row by row, where the image has at least `mass` of the weight and its
    others at least `rho` of that (paper: 0.8 in general, 0.5 against hallucination, 0.9 where detail counts).
    There sinks keep the share `keep`. Layers without a sink in the image choose no head;
    `text_sinks=True` chooses there too.

    `dims`: channels, what `interp.steering.search.sink_dims` found, or its file; left out, those of a
    known backbone, or else each text's own: the two largest channels of its first token.

    The paper moves 0.6 and leaves the last layer; the released settings move 0.4 (they say the share kept)
    and its code edits the last layer too: `official=True`.
    """

    keep: float | None = None  # 0.4; official 0.6
    rho: float = 0.5
    mass: float = 0.2
    tau: float | None = None  # 20, less for streams narrower than 4096
    dims: Any = None
    layers: Sequence[int] | int | None = None  # 2 to the last but one
    text_sinks: bool = False
    official: bool = False

    inert: ClassVar[Settings] = Settings(keep=1.0)
    strong: ClassVar[Settings] = Settings(
        keep=0.0, rho=0.0, mass=0.0, tau=1.0, dims=(0, 1), layers=(-2, -1), text_sinks=True
    )
    of: ClassVar[str] = "image"
    paper: ClassVar[str] = "Kang et al., ICLR 2025"

    def __post_init__(self) -> None:
        for name in ("rho", "mass", *(["keep"] if self.keep is not None else [])):
            check_share("VAR", name, getattr(self, name))
        if self.tau is not None:
            check_at_least("VAR", "tau", self.tau, 0)
        for name in ("text_sinks", "official"):
            check_flag("VAR", name, getattr(self, name))

    @property
    def kept(self) -> float:
        """The share that sinks keep."""
        return self.keep if self.keep is not None else 0.6 if self.official else 0.4

    def plan(self, model: "Model", prompt: Prompt) -> tuple[Prompt, list[Hook]]:
        image, stack = image_span(model, prompt, "VAR", looked_at=True), writing_stack(model, "VAR")
        layers = self._layers(stack)
        width = model.config.get_text_config().hidden_size
        dims = self._dims(model, width)
        if self.kept == 1:
            return prompt, []
        tau = threshold(width) if self.tau is None else float(self.tau)
        real, rows = asked(prompt), after(prompt, image)
        since = first_of(rows)
        since = prompt.length if since is None else since
        uniform = bool(rows[:, since:].all())
        test = SinkTest(tau, real, dims)
        run = _Edit(self, test, image & real, None if uniform else rows, layers[-1])
        where = {"layers": layers, "stack": stack.name}
        return prompt, [
            Hook("resid_pre", run.find, **where),
            Hook("pattern", run.redistribute, **where, rows=True, within=(since, None)),
        ]

    def _layers(self, stack: "Stack") -> list[int]:
        default = range(2, stack.size if self.official else stack.size - 1)
        layers = layers_of(stack, self.layers, default, "pattern")
        if not layers:
            raise ValueError(
                f"VAR edits layers 2 to the last but one, and this stack has {stack.size}: name the layers, "
                f"VAR(layers=[{stack.size - 1}])."
            )
        return layers

    def _dims(self, model: "Model", width: int) -> tuple[int, ...] | None:
        given = taken(model, self.dims, "sink dims", "VAR")
        if given is None:
            backbone = known(model)
            return None if backbone is None else backbone.dims
        if isinstance(given, (str, Path)):
            raise ValueError(f"VAR(dims={given!r}): channels, or the .json file of a finding.")
        dims = tuple(whole_numbers(given, "dims"))
        if not all(0 <= one < width for one in dims):
            raise ValueError(
                f"VAR(dims={list(dims)}): channels of the stream, 0 to {width - 1}. They are found by "
                "interp.steering.search.sink_dims(model, task)."
            )
        return dims


@dataclass(frozen=True, eq=False)
class _Edit:
    """The settings laid over one prompt; what is found in a run stays in its memo."""

    method: VAR
    test: SinkTest
    image: Bool[Tensor, "row position"]
    rows: Bool[Tensor, "row position"] | None  # None: all that are shown
    last: int  # of the layers

    def find(self, stream: Tensor, at: At) -> None:
        """Before a layer: which of the prompt's tokens are sinks in it."""
        if at.run.start:
            raise ValueError(
                f"VAR finds sinks in the whole prompt, and {at.run.start} positions before this one are in "
                "a cache already: generate without past_key_values."
            )
        found = self.test.read(stream, at)
        if found is None:
            return
        moving: dict[int, Moving | None] = at.memo.setdefault("moving", {})
        precision = torch.promote_types(stream.dtype, torch.float32)
        moving[at.layer] = self._moving(found.sinks, precision)
        if at.memo.get("counting"):
            image = self._image(found.sinks)
            counts = at.memo.setdefault("counts", {}).setdefault(at.layer, {})
            counts["visual sinks"] = int((found.sinks & image).sum())
            counts["text sinks"] = int((found.sinks & ~image).sum())
        whole = found.seen == self.image.shape[1]
        if whole and at.layer == self.last and not any(moving.values()):
            self._warn(at.memo["sinks"].values())

    def _image(self, sinks: Tensor) -> Tensor:
        return self.image.to(sinks.device).repeat_interleave(len(sinks) // len(self.image), 0)

    def _moving(self, sinks: Tensor, precision: torch.dtype) -> Moving | None:
        """What is moved in a layer; None where it has no sinks that count."""
        image = self._image(sinks)
        visual, text, others = sinks & image, sinks & ~image, image & ~sinks
        if not self.method.text_sinks:  # a text without a visual sink chooses no head
            some = visual.any(1, keepdim=True)
            text, others = text & some, others & some
        if not bool((visual | text).any()):
            return None
        # Of the image's weight s, with e added, sinks have at most 1 - rho: (1 - rho) s - v >= -(1 - rho) e.
        share, seen = 1 - self.method.rho, image.to(precision)
        count = seen.sum(1)
        mass = seen, torch.full_like(count, self.method.mass)
        ratio = share * seen - visual.to(precision), -share * EPSILON * count
        return Moving.of(others, visual | text, self.method.kept, precision, (mass, ratio))

    def redistribute(self, pattern: Tensor, at: At) -> Tensor | None:
        """Rows behind the image, and all that are written."""
        moving: Moving | None = at.memo["moving"][at.layer]
        if moving is None:
            return None
        own = None
        if self.rows is not None and at.first < self.rows.shape[1]:
            own = over_rows(self.rows, pattern, at).to(pattern.device)
            own = own[:, None].expand(-1, pattern.shape[1], -1).flatten(1)[..., None]
        changed, chosen = moving.shift(exact(pattern).flatten(1, 2), at.first_key, own)
        if at.memo.get("counting"):
            self._count(at, chosen)
        return changed.view(pattern.shape).to(pattern.dtype)

    def _count(self, at: At, chosen: Tensor) -> None:
        counts = at.memo.setdefault("counts", {}).setdefault(at.layer, {})
        for name, count in (("rows chosen", int(chosen.sum())), ("rows", chosen.numel())):
            counts[name] = counts.get(name, 0) + count

    def _warn(self, layers: Iterable[LayerSinks]) -> None:
        """Nothing will be moved: said, because it looks like an intervention without effect."""
        layers = list(layers)
        largest = max(float(layer.largest.max()) for layer in layers)
        where = "the two largest channels of the first token"
        if self.test.dims is not None:
            where = f"channels {list(self.test.dims)}"
        none = largest < self.test.tau
        what = (
            f"no token's phi reaches tau={self.test.tau:.4g}"
            if none
            else (f"no token of the image is a sink, though others reach tau={self.test.tau:.4g}")
        )
        warnings.warn(
            f"VAR changes nothing in this run: {what} (largest {largest:.4g}, in {where}). Look with "
            "analyses.ANALYSES['sinks'], or give tau= and dims= of the model's own.",
            stacklevel=2,
        )


INTERVENTIONS.add("VAR", VAR)
