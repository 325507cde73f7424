"""What heads do in any task, in the same few words: by what they feed, and where they look.

Stages of paths are those of Merullo et al. 2024 (arXiv 2310.08744), who compare two tasks so.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas
import torch
from torch import Tensor

from interp.asking import choose_stack
from interp.batches import as_task
from interp.circuits import in_stages
from interp.circuits.graph import node
from interp.circuits.staged import StageEffects
from interp.prompt import Prompt
from interp.registry import unknown
from interp.roles.columns import add_scores, add_share, empty, opposes, supports
from interp.roles.looking import Places, answers, attention, means, more
from interp.roles.random_words import SCORES, on_random_words
from interp.structure import Stack
from interp.task import Record, Task

if TYPE_CHECKING:
    from interp.model import Model

ROLES = (
    "mover",
    "suppressor",
    "reader",
    "negative mover",
    "inhibition",
    "gatherer",
    "induction",
    "duplicate token",
    "previous token",
    "own token",
    "other",
)
FEW = 3  # heads of a stage, at least, where 2 % of all are fewer
WORDS = {"previous": "previous token", "duplicate": "duplicate token", "induction": "induction"}
WORDS |= {"own": "own token"}
ANSWERS = ("right answer", "wrong answer")
UNNAMED = (*ANSWERS, "first", "previous", "own")
CLEARLY = 0.05  # an answer's place is named where no span gets nearly as much


def roles(
    model: "Model",
    task: Any,
    heads: Sequence[Any] | None = None,
    *,
    share: float = 0.02,
    least: float = 0.02,
    attends: float = 0.1,
    strong: float = 0.2,
    found: list[StageEffects] | None = None,
    stack: str | None = None,
    batch: int = 16,
    seed: int = 0,
) -> pandas.DataFrame:
    """A row for each head (of `heads`: "2.3", or (2, 3)): its stage, sign, where it looks, its role.

    Effects are exact path patching with the operator "circuit_reuse", as shares of the way from clean
    to corrupted, in stages: to the "logits", to the "queries" of the heads found there, to the "values
    and keys" of those, to the "keys" of those. Found at a stage are the `share` of all heads (3 at
    least) with the largest effects; `found=` takes what `in_stages` has found already.

    `stage` is where a head's effect is largest, among those of `least` whose 95 % interval leaves out
    0; "" if there is none; `sign` is what it does there. `looks` is the span of the record, or the first,
    previous or own token, or an answer's place, that gets most of its attention at the last position,
    `looks_share` how much. `right` and `wrong` are what answers' places get, and `more` says which of
    them gets more (told from chance). `previous`, `duplicate`, `induction` and `own` are scores on
    random words said twice. `role` is the first of these that holds, of places that get `attends`:

        mover            feeds the logits, supports, looks at the right answer's place more than at wrong ones
        suppressor       feeds the logits, supports, looks at a wrong answer's place more
        reader           feeds the logits, supports, looks at a named span that holds no answer
        negative mover   feeds the logits, works against, looks at an answer's place
        inhibition       feeds queries of those, looks at a wrong answer's place more
        gatherer         feeds queries of those, looks at a named span that holds no answer
        induction, duplicate token, previous token, own token   by its largest score on random words, if
                         that is `strong`
        other            has a stage, and none of the above; "" without a stage
    """
    tower, task = _checked(model, task, stack)
    table = empty(tower)
    if found is None:
        found = in_stages(
            model, task, share=min(1.0, max(share, FEW / len(table))), least=least,
            stack=tower.name, batch=batch, who="roles",
        )  # fmt: skip
    notes = _add_stages(table, found, least)
    _add_looks(table, model, task, tower, batch)
    scores, note = on_random_words(model, tower, seed=seed)
    add_scores(table, scores)
    named = [_role(row, attends, strong) for row in table.to_dict("records")]
    table.insert(2, "role", named)
    if heads is not None:
        table = _chosen(table, heads, model.name)
    table.attrs["notes"] = [*notes, note]
    return table


def _checked(model: "Model", task: Any, stack: str | None) -> tuple[Stack, Task]:
    if model.kind not in ("text", "vlm"):
        raise ValueError(
            f"{model.name} does not go on from a text ({model.kind}); roles are told in a model that writes "
            "the next word."
        )
    return choose_stack(model.stacks, stack, model.name), as_task(task, "roles")


def _add_stages(table: pandas.DataFrame, found: list[StageEffects], least: float) -> list[str]:
    """A column for each stage, and the stage and sign of each head."""
    notes, names = [], [one.stage.name for one in found]
    for one in found:
        effects = one.effects
        if effects is None:
            add_share(table, one.stage.name, None)
        else:
            add_share(table, one.stage.name, effects.senders, effects.share, effects.share_error)
        listed = ", ".join(map(str, one.heads))
        notes.append(f"{one.stage.name}: {listed}." if listed else f"{one.stage.name}: {one.why}")
    told = {name: supports(table, name, least) | opposes(table, name, least) for name in names}
    best, signs = [], []
    for row in range(len(table)):
        sizes = {name: table[name].tolist()[row] for name in names if bool(told[name][row])}
        own = max(sizes, key=lambda name: abs(sizes[name]), default="")
        best.append(own)
        signs.append("" if not own else "supports" if sizes[own] > 0 else "works against")
    table.insert(2, "stage", best)
    table.insert(3, "sign", signs)
    return notes


def _add_looks(
    table: pandas.DataFrame, model: "Model", task: Task, stack: Stack, batch: int
) -> None:
    """What heads look at from the last position."""
    shares = attention(model, task, stack, "last", _places(model, task), batch)
    flat = {name: values.flatten().tolist() for name, values in means(shares).items()}
    looks = []
    for row in range(len(table)):
        own = {name: values[row] for name, values in flat.items()}
        place = max((name for name in own if name not in ANSWERS), key=lambda name: own[name])
        answer = max(ANSWERS, key=lambda name: own.get(name, 0.0))
        looks.append(answer if own.get(answer, 0.0) > own[place] + CLEARLY else place)
    table["looks"] = looks
    table["looks_share"] = [flat[name][row] for row, name in enumerate(looks)]
    for name in ANSWERS:
        table[name.split()[0]] = flat.get(name, [0.0] * len(table))
    nothing = torch.zeros(len(task), *next(iter(shares.values())).shape[1:])
    right, wrong = (shares.get(name, nothing) for name in ANSWERS)
    over = zip(more(right, wrong).flatten(), more(wrong, right).flatten(), strict=True)
    table["more"] = ["right" if one else "wrong" if other else "" for one, other in over]


def _places(model: "Model", task: Task) -> Places:
    """Spans that every record has (END is the own token), first, previous, and answers' places."""
    every = [name for name in task[0].spans if all(name in record.spans for record in task)]
    names = [name for name in every if name != "END"]
    where = answers(model)

    def places(prompt: Prompt, records: Sequence[Record]) -> dict[str, Tensor]:
        found = {name: prompt.where(name) for name in (*names, "first")}
        last = prompt.where("last")
        return {**found, "previous": last.roll(-1, 1), "own": last, **where(prompt, records)}

    return places


def _role(row: dict[Any, Any], attends: float, strong: float) -> str:
    """The first rule that holds."""
    if not row["stage"]:
        return ""
    return _at_the_end(row, attends) or _on_random_words(row, strong)


def _at_the_end(row: dict[Any, Any], attends: float) -> str:
    """The role of heads that feed the logits or queries, by what they look at; "" for none."""
    stage, place = row["stage"], ""
    if max(row["right"], row["wrong"]) >= attends:
        place = row["more"] or "either"
    elif row["looks"] not in UNNAMED and row["looks_share"] >= attends:
        place = "named"
    if stage == "logits" and row["sign"] != "supports":
        return "negative mover" if place in ("right", "wrong", "either") else ""
    if stage == "logits":
        return {"right": "mover", "wrong": "suppressor", "named": "reader"}.get(place, "")
    if stage == "queries":
        return {"wrong": "inhibition", "named": "gatherer"}.get(place, "")
    return ""


def _on_random_words(row: dict[Any, Any], strong: float) -> str:
    best = max(SCORES, key=lambda name: row[name])
    return WORDS[best] if row[best] >= strong else "other"


def _chosen(table: pandas.DataFrame, heads: Sequence[Any], owner: str) -> pandas.DataFrame:
    """The rows of these heads."""
    known = list(zip(table["layer"], table["head"], strict=True))
    given = [heads] if isinstance(heads, str) else heads
    asked = [(one.layer, one.head) for one in map(node, given)]
    for one in asked:
        if one not in known:
            listed = [f"{layer}.{head}" for layer, head in known]
            raise LookupError(unknown(f"head of {owner}", f"{one[0]}.{one[1]}", listed))
    return table.iloc[[known.index(one) for one in asked]].reset_index(drop=True)
