"""What was asked of FCCT, checked before anything runs."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from interp.batches import as_task
from interp.prompt import Prompt
from interp.registry import unknown
from interp.task import Record
from interp.tracing.groups import boxes
from interp.tracing.known import check_writes

if TYPE_CHECKING:
    from interp.model import Model

COMPONENTS = ("attn_out", "mlp_out", "resid_post", "resid_pre")
CORRUPTIONS = ("noise", "image")
WORDS = ("object", "shape")  # spans that are the asked word


@dataclass(frozen=True)
class Asked:
    """The settings; after `checked`, `task` is a Task and `left_out` says why records are."""

    model: "Model"
    task: Any
    corruption: str
    sigma: float | None
    components: Any
    guard: float
    word: str | None
    first: bool
    seed: int
    batch: int
    budget: float
    save: str | None
    left_out: tuple[str, ...] = ()  # of each record; "" for those that are traced

    def word_of(self, record: Record) -> str | None:
        """The span of a record's asked word."""
        names = WORDS if self.word is None else (self.word,)
        return next((name for name in names if name in record.spans), None)


def checked(asked: Asked) -> Asked:
    if asked.model.kind != "vlm":
        raise ValueError(
            f"{asked.model.name} is of kind {asked.model.kind!r} and sees no image beside its text; fcct "
            "takes "
            "vision-language models. For text, causal_tracing corrupts a subject."
        )
    check_writes(asked.model, "fcct")
    if asked.corruption not in CORRUPTIONS:
        raise LookupError(unknown("corruption", asked.corruption, list(CORRUPTIONS)))
    listed = (asked.components,) if isinstance(asked.components, str) else tuple(asked.components)
    for one in listed:
        if one not in COMPONENTS:
            raise LookupError(unknown("component", one, list(COMPONENTS)))
    if not listed or len(set(listed)) < len(listed):
        raise ValueError(f"components={list(listed)}: name each once, and one at least.")
    _check_numbers(asked)
    task = _task(asked)
    left_out = tuple(_why_not(asked, record) for record in task)
    if all(left_out):
        counted = "; ".join(f"{left_out.count(why)} {why}" for why in dict.fromkeys(left_out))
        raise ValueError(f"none of the {len(task)} records can be traced: {counted}.")
    return replace(asked, components=listed, task=task, left_out=left_out)


def _check_numbers(asked: Asked) -> None:
    if asked.sigma is not None and not (
        isinstance(asked.sigma, (int, float)) and 0 <= asked.sigma < float("inf")
    ):
        raise ValueError(
            f"sigma={asked.sigma!r}: a size of noise on normalised pixels, or None to find one."
        )
    if asked.corruption == "image" and asked.sigma not in (1.0, None):
        raise ValueError(
            f"sigma={asked.sigma} is of corruption='noise'; another image has no noise."
        )
    if not isinstance(asked.guard, (int, float)) or not 0 < asked.guard < 1:
        raise ValueError(
            f"guard={asked.guard!r}: the least fall of a probability, between 0 and 1."
        )
    if asked.batch < 1:
        raise ValueError(f"batch={asked.batch}: give at least 1.")


def _task(asked: Asked) -> Any:
    if isinstance(asked.task, Prompt):
        raise TypeError("fcct needs answers and objects: give a Task, not a Prompt.")
    task = as_task(asked.task, "fcct")
    bare = [number for number, record in enumerate(task) if record.image is None]
    if bare:
        raise ValueError(f"record {bare[0]} has no image: {task[bare[0]].prompt!r}.")
    mute = [number for number, record in enumerate(task) if not record.answers]
    if mute:
        raise ValueError(f"record {mute[0]} has no answers: {task[mute[0]].prompt!r}.")
    return task


def _why_not(asked: Asked, record: Record) -> str:
    """Why a record cannot be traced; "" where it can."""
    if not boxes(record):
        return "without a box of what is asked about (nothing of it in the image, or none noted)"
    if asked.word_of(record) is None:
        named = asked.word or " or ".join(WORDS)
        return f"without a span {named!r} for the asked word"
    if asked.corruption == "image" and record.counterfactual_image is None:
        return "without a counterfactual image"
    return ""
