"""What was asked of a repair, checked before anything is measured."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from analyses.repair.spots import Case, cases
from interp.asking import choose_stack
from interp.batches import as_task, check_no_name
from interp.circuits.asked import check_senders
from interp.circuits.graph import node
from interp.pairs import METRICS
from interp.prompt import Prompt
from interp.registry import unknown
from interp.sites import whole_number
from interp.task import Task

if TYPE_CHECKING:
    from interp.model import Model
    from interp.structure import Stack

Head = tuple[int, int]  # layer, head
SIZE = 4
PLACES = ("wrong", "right")


@dataclass(frozen=True)
class Asked:
    """The settings; after `checked`, records in cases, and after `chosen`, heads."""

    model: "Model"
    task: Any
    heads: Any
    places: Any
    avoid: Any
    mass: float | None
    position: Any
    choose_on: Any
    size: int
    draws: int
    scale: float
    metric: str
    batch: int
    seed: int
    stack: str | None
    first: int = 0  # number, in the task as given, of the first record that is reported
    judged: tuple[Case, ...] = ()
    learned: tuple[Case, ...] = ()  # heads are chosen on these
    choosing: Any = None  # the table of each head alone on those
    remarks: list[str] = field(default_factory=list)  # what running turned up

    @property
    def tower(self) -> "Stack":
        return choose_stack(self.model.stacks, self.stack, self.model.name)

    @property
    def all_heads(self) -> list[Head]:
        return [(one.layer, one.head) for one in check_senders(self.tower, None, [])]

    @property
    def total(self) -> int:
        """Records that are reported."""
        return len(self.task)


def checked(asked: Asked) -> Asked:
    """Refuses what cannot be done, and says which records choose and which are reported."""
    _check_model(asked)
    _check_numbers(asked)
    places = _spans(asked.places, "places")
    if isinstance(places, str) and places not in PLACES:
        raise LookupError(unknown("places", places, [*PLACES, "a list of spans"]))
    avoid = () if asked.avoid is None else _spans(asked.avoid, "avoid")
    avoid = (avoid,) if isinstance(avoid, str) else avoid
    if avoid and isinstance(places, str):
        raise ValueError(f"avoid={asked.avoid!r} goes with places=[spans], not with {places!r}.")
    heads = None if asked.heads is None else named_heads(asked.tower, asked.heads)
    asked = replace(asked, places=places, avoid=avoid, heads=heads)
    own, other, first = _parts(asked)
    how = (asked.places, asked.avoid, asked.mass, asked.position, asked.batch, asked.seed)
    judged = cases(asked.model, own, *how)
    learned = cases(asked.model, other, *how) if other is not None else ()
    return replace(asked, task=own, first=first, judged=judged, learned=learned)


def _check_model(asked: Asked) -> None:
    model = asked.model
    if model.kind not in ("text", "vlm") or model.hf.get_output_embeddings() is None:
        raise ValueError(
            f"{type(model.hf).__name__} does not go on from its prompt, so it has no next token to mend; "
            "repair takes decoder-only and vision-language models (...ForCausalLM)."
        )
    main = next(iter(model.stacks))
    if asked.tower.name != main or model.tokenizer is None:
        why = f"the {asked.tower.name} stack's keys are no tokens of the prompt"
        if model.tokenizer is None:
            why = f"{model.name} has no tokenizer to read answers with"
        raise ValueError(
            f"{why}; repair looks for answers in the text that the {main} stack reads."
        )


def _check_numbers(asked: Asked) -> None:
    for name, value, least in (
        ("batch", asked.batch, 1), ("size", asked.size, 1), ("draws", asked.draws, 0)
    ):  # fmt: skip
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}={value!r}: a whole number, {least} or more.")
    if not isinstance(asked.scale, (int, float)) or not 0 <= asked.scale <= 1:
        raise ValueError(f"scale={asked.scale!r} is the share of the new attention, from 0 to 1.")
    if asked.mass is not None and not (
        isinstance(asked.mass, (int, float)) and 0 < asked.mass <= 1
    ):
        raise ValueError(
            f"mass={asked.mass!r} is what each place receives of a row that sums to 1: above 0, at most 1."
        )
    if asked.metric not in METRICS:
        raise LookupError(unknown("metric", asked.metric, list(METRICS)))
    if asked.heads is not None and (asked.choose_on is not None or asked.size != SIZE):
        raise ValueError(
            "heads= are given, so that choose_on= and size= have nothing to choose; leave those out."
        )


def _spans(given: Any, name: str) -> Any:
    if isinstance(given, str):
        return given
    listed = tuple(given) if isinstance(given, Sequence) else ()
    if not listed or not all(isinstance(one, str) for one in listed):
        raise TypeError(f"{name}={given!r}: names of spans, such as ['colour 0', 'colour 1'].")
    return listed


def named_heads(tower: "Stack", given: Any) -> list[Head]:
    """Heads as (layer, head), each once, that the stack has."""
    listed = [given] if isinstance(given, str) else list(given)
    if len(listed) == 2 and not any(hasattr(one, "__len__") for one in listed):
        listed = [tuple(listed)]  # one head, not in a list
    found: list[Head] = []
    for one in listed:
        pair = isinstance(one, (tuple, list)) and len(one) == 2
        one = node(tuple(whole_number(part, "layer and head") for part in one) if pair else one)
        if one.kind != "head":
            raise ValueError(f"heads= names {one}, which is no head: '2.3' or (2, 3) is.")
        found.append((one.layer, one.head))
    if not found:
        raise ValueError("heads= names none; leave it out to have them chosen.")
    check_senders(tower, [f"{layer}.{head}" for layer, head in found], [])
    if len(set(found)) < len(found):
        raise ValueError(f"heads={given!r} names one of them twice.")
    return found


def _parts(asked: Asked) -> tuple[Task, Task | None, int]:
    """Records that are reported, those that choose (None: heads are given), and where the first begin."""
    if isinstance(asked.task, Prompt):
        raise TypeError("repair needs right and wrong answers: give a Task, not a Prompt.")
    check_no_name(asked.task, "repair")
    if asked.choose_on is not None:
        check_no_name(asked.choose_on, "choose_on= of repair")
    task = as_task(asked.task, "repair")
    if asked.heads is not None:
        return task, None, 0
    if asked.choose_on is not None:
        other = as_task(asked.choose_on, "choose_on=")
        same = len({one.prompt for one in task} & {one.prompt for one in other})
        if same:
            raise ValueError(
                f"choose_on= and the task share {same} prompts: heads chosen on what is reported would look "
                "better than they are. Give other records, such as another split's."
            )
        return task, other, 0
    half = len(task) // 2
    if half < 1:
        raise ValueError(
            "one record cannot both choose heads and be judged; give more, or heads=, or choose_on=."
        )
    return task[half:], task[:half], half
