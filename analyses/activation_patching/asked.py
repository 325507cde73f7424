"""What was asked of a patching, checked before anything runs."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from interp.asking import choose_stack
from interp.pairs import METRICS, Pair, pairs
from interp.registry import unknown
from interp.sites import SITES, head_axis
from interp.structure import Stack

if TYPE_CHECKING:
    from interp.model import Model

DIRECTIONS = ("denoise", "noise")
OVER = ("position", "span")
PLACED = tuple(site for site in SITES if site != "scores")


@dataclass(frozen=True)
class Asked:
    """The settings; after `checked`, with the pairs of prompts and what `over` stands for."""

    model: "Model"
    task: Any
    sites: Any
    over: str | None
    direction: str
    metric: str
    first: bool
    spans: Any
    positions: Any
    layers: Any
    window: int
    head_places: bool
    stack: str | None
    batch: int
    budget: float
    save: str | None
    tower: Stack | None = None
    pairs: tuple[Pair, ...] = ()
    why: str = ""  # why it is spans and not positions

    @property
    def directions(self) -> tuple[str, ...]:
        return DIRECTIONS if self.direction == "both" else (self.direction,)

    @property
    def main(self) -> bool:
        """Whether it is the stack whose positions are the prompt's."""
        return self.tower is next(iter(self.model.stacks.values()))


def checked(asked: Asked) -> Asked:
    """Refuses what cannot be patched; encodes the pairs, and settles whether places are positions."""
    for noun, given, known in (
        ("metric", asked.metric, METRICS),
        ("direction", asked.direction, (*DIRECTIONS, "both")),
        *([] if asked.over is None else [("way to go over places", asked.over, OVER)]),
    ):
        if given not in known:
            raise LookupError(unknown(noun, given, list(known)))
    sites = (asked.sites,) if isinstance(asked.sites, str) else tuple(asked.sites)
    for site in sites:
        if site not in PLACED:
            raise LookupError(unknown("site to patch", site, list(PLACED)))
    if not sites or len(set(sites)) < len(sites):
        raise ValueError(f"sites={list(sites)}: name each once, and one at least.")
    tower = choose_stack(asked.model.stacks, asked.stack, asked.model.name)
    if asked.model.kind not in ("text", "vlm", "vision"):
        raise ValueError(
            f"{asked.model.name} is of kind {asked.model.kind!r}, whose answers are not read here; "
            "activation_patching takes decoder-only and vision-language models and image classifiers."
        )
    found = tuple(pairs(asked.model, asked.task, "activation_patching", asked.batch))
    asked = replace(asked, sites=sites, tower=tower, pairs=found)
    return _settled(asked)


def _settled(asked: Asked) -> Asked:
    why = _apart(asked.pairs) if asked.main else ""
    if not asked.main and (asked.over == "span" or asked.spans is not None):
        raise ValueError(
            f"spans lie on the prompt's text, and not on the positions of the {asked.stack} stack; leave "
            "over= and "
            "spans= out."
        )
    over = asked.over or ("span" if why or asked.spans is not None else "position")
    if over == "position" and why:
        raise ValueError(
            f"{why}, so that a position means different things in them; over='span' patches what has the "
            "same "
            "name in all, or give records of one template."
        )
    if over == "position" and asked.spans is not None:
        raise ValueError("spans= goes with over='span'; positions= restricts single positions.")
    if over == "span" and asked.positions is not None:
        raise ValueError(
            "positions= goes with over='position'"
            + (f", and {why}." if why else "; spans= names spans.")
        )
    return replace(asked, over=over, why=why)


def _apart(found: tuple[Pair, ...]) -> str:
    """Why a position does not mean the same in all records; "" where it does."""
    lengths = sorted({pair.clean.length for pair in found})
    if len(lengths) > 1:
        return f"records have {lengths[0]} to {lengths[-1]} tokens"
    kinds = {frozenset(record.spans) for pair in found for record in pair.records}
    if len(kinds) > 1:
        return "records have spans of different names"
    for name in sorted(next(iter(kinds))):
        masks = [pair.clean.where(name) for pair in found]
        if any(bool((mask != masks[0][:1]).any()) for mask in masks):
            return f"the span {name!r} lies at different positions in the records"
    return ""


def by_head(site: str) -> bool:
    return head_axis(site) is not None
