"""What was asked of a tracing, checked before anything runs."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from interp.batches import as_task
from interp.pairs import METRICS
from interp.prompt import Prompt
from interp.registry import unknown
from interp.structure import Stack
from interp.task import Task
from interp.tracing.known import check_writes, known_records
from interp.tracing.severed import SEVERED

if TYPE_CHECKING:
    from interp.model import Model

SINGLE, WINDOWED = ("resid_pre", "resid_post"), ("mlp_out", "attn_out")
KINDS = (*SINGLE, *WINDOWED)
CORRUPTIONS, DIRECTIONS = ("noise", "tokens"), ("denoise", "noise")
SAMPLES, NOISE = 10, 3.0
ROME_WINDOW, ROME_LAYERS = 10, 48  # of GPT-2 XL


@dataclass(frozen=True)
class Asked:
    """The settings; after `checked`, lists are lists, and the task holds the records to be traced."""

    model: "Model"
    task: Any
    kinds: Any
    window: int | None
    samples: int
    noise: float
    corruption: str
    direction: str
    severed: Any
    known: bool
    subject: str
    metric: str
    first: bool
    seed: int
    batch: int
    budget: float
    save: str | None
    numbers: tuple[int, ...] = ()  # of the traced records in the task as it was given
    given: int = 0  # how many that task has
    remarks: list[str] = field(default_factory=list)  # what running turned up

    @property
    def stack(self) -> Stack:
        return next(iter(self.model.stacks.values()))

    @property
    def directions(self) -> tuple[str, ...]:
        return DIRECTIONS if self.direction == "both" else (self.direction,)

    @property
    def copies(self) -> int:
        return self.samples if self.corruption == "noise" else 1

    @property
    def wide(self) -> int:
        """Layers in a window."""
        scaled = max(1, round(ROME_WINDOW * self.stack.size / ROME_LAYERS))
        return scaled if self.window is None else self.window

    def wide_of(self, kind: str) -> int:
        return self.wide if kind in WINDOWED else 1


def checked(asked: Asked) -> Asked:
    """Refuses what cannot be traced, and drops the records that the model does not answer right."""
    check_writes(asked.model, "causal_tracing")
    kinds = _several(asked.kinds, "kinds", "kind", KINDS)
    if not kinds:
        raise ValueError(f"kinds={asked.kinds!r}: name one at least of {', '.join(KINDS)}.")
    severed = _several(asked.severed, "severed", "part to sever", SEVERED)
    if severed and "resid_post" not in kinds:
        raise ValueError(
            f"severed={asked.severed!r} goes with single states: kinds={list(kinds)} has no 'resid_post'."
        )
    asked = replace(asked, kinds=kinds, severed=severed)
    _check_names(asked)
    _check_numbers(asked)
    task = _task(asked)
    asked = replace(asked, task=task, given=len(task))
    kept = list(range(len(task)))
    if asked.known:
        kept = known_records(asked.model, task, "causal_tracing", _rows(asked), asked.first)
        if not kept:
            raise ValueError(
                f"the model answers none of the {len(task)} records right, so there is no knowledge to "
                "trace; "
                "known=False traces them all the same."
            )
    chosen = replace(task, records=tuple(task[number] for number in kept))
    return replace(asked, task=chosen, numbers=tuple(kept))


def _several(given: Any, name: str, noun: str, known: Sequence[str]) -> tuple[str, ...]:
    listed = () if given is None else (given,) if isinstance(given, str) else tuple(given)
    for one in listed:
        if one not in known:
            raise LookupError(unknown(noun, one, list(known), plural=f"{name}= takes"))
    if len(set(listed)) < len(listed):
        raise ValueError(f"{name}={list(listed)} names one of them twice.")
    return listed


def _check_names(asked: Asked) -> None:
    for noun, given, known in (
        ("corruption", asked.corruption, CORRUPTIONS),
        ("direction", asked.direction, (*DIRECTIONS, "both")),
        ("metric", asked.metric, METRICS),
    ):
        if given not in known:
            raise LookupError(unknown(noun, given, list(known)))
    if asked.corruption == "tokens" and (asked.samples, asked.noise) != (SAMPLES, NOISE):
        raise ValueError(
            "samples= and noise= are of corruption='noise'; a counterfactual is one run, without noise."
        )


def _check_numbers(asked: Asked) -> None:
    for name, value in (("samples", asked.samples), ("batch", asked.batch), ("window", asked.wide)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r}: a whole number, 1 or more.")
    if asked.window is not None and not set(asked.kinds) & set(WINDOWED):
        raise ValueError(
            f"window={asked.window} is of {' and '.join(WINDOWED)}, and kinds= names neither."
        )
    if not isinstance(asked.noise, (int, float)) or not 0 <= asked.noise < float("inf"):
        raise ValueError(
            f"noise={asked.noise!r}: standard deviations of the embeddings, 0 or more."
        )


def _task(asked: Asked) -> Task:
    """The task, of which every record has a subject and answers."""
    if isinstance(asked.task, Prompt):
        raise TypeError("causal_tracing needs subjects and answers: give a Task, not a Prompt.")
    task = as_task(asked.task, "causal_tracing")
    for number, record in enumerate(task):
        if asked.subject not in record.spans:
            named = ", ".join(record.spans) or "none"
            raise LookupError(
                f"record {number} has no span {asked.subject!r} to corrupt: {record.prompt!r}. Its spans: "
                f"{named}; subject= names the one that is meant."
            )
        if not record.answers:
            raise ValueError(f"record {number} has no answers: {record.prompt!r}.")
    return task


def _rows(asked: Asked) -> int:
    """Records in a plain forward that hold as many rows as those of the tracing."""
    return asked.batch * asked.copies
