"""What each head is for: its scores on repeated words, on a task's own texts, and by its matrices.

Previous-token, duplicate-token and induction heads (Elhage et al. 2021, Olsson et al. 2022), movers and
negative ones (Wang et al. 2022), sinks (Gu et al. 2025), positional heads (Voita et al. 2019), retrieval
heads (Wu et al. 2024), heads that an image moves (He et al. 2025); in vision towers, near and far.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from analyses import analysis
from analyses.heads.answers import answers, images, retrieval
from analyses.heads.asked import Asked
from analyses.heads.naming import Limits, composed, named
from analyses.heads.patches import seen
from analyses.heads.words import drawn, texts
from interp.asking import choose_layers, choose_stack
from interp.metrics.sink import EPSILON
from interp.progress import counted
from interp.result import Result
from interp.structure import Stack
from interp.weights.measuring import needs_image

if TYPE_CHECKING:
    from interp.model import Model

# As they stand in the table, where they are known.
COLUMNS = (
    "previous", "duplicate", "induction", "previous_text", "duplicate_text", "induction_text",
    "sink", "span", "distance", "near", "nearer", "to_class", "class_to_image", "confidence", "positional",
    "offset", "answer", "name_copy", "negative_copy", "copying", "retrieval", "image", "seeing", "vhd",
    "vhd_kept",
)  # fmt: skip


@analysis(alone="it reads each batch once, which takes no longer than sending it")
def heads(
    model: "Model",
    task: Any = None,
    *,
    length: int | None = None,
    rows: int = 4,
    seed: int = 0,
    strong: float = 0.5,
    weak: float = 0.2,
    epsilon: float = EPSILON,
    quantile: float = 0.3,
    offsets: Sequence[int] = (-1, 1),
    needle: str | None = None,
    tokens: int = 50,
    weights: bool = True,
    pairs: int = 20,
    samples: int = 20,
    batch: int = 16,
    stack: str | None = None,
) -> Result:
    """A row for each head: its scores, its `type`, and all the labels that it earned (`types`).

    Of `rows` rows of `length` random words, said twice (None: 50, or the longest of 40, 30, 20, 10 that
    the model itself repeats): `previous`, `duplicate`, `induction`, mean attention to the place that
    counts. Of the task's texts: the same by matching tokens (`.._text`); `sink`, attention to the first
    position over the queries that see it; `span`, mean distance without the first position; `confidence`;
    `positional`, the share of tokens whose peak is at the best of `offsets`. At the last position:
    `answer`, attention to earlier places of a right answer's first token; `image`, attention to the
    image, and `seeing`, how far above an even head's; `vhd`, |z with the image less z without it|
    (`vhd_kept`: 0 where both it and z without the image stand out in the layer). `retrieval`: in greedy
    answers of up to `tokens` tokens, over the needle: the span that `needle` names, or the answer inside
    the shortest span that holds it. Of the weights: `copying` (eigenvalues of OV), `name_copy` and
    `negative_copy` (shares among the first five).

    A score above `strong` or `weak` earns a label; a sink is above `epsilon`; local and global are the
    lowest and highest `quantile` of heads by span. `type` is the strongest label of what a head does, else
    of what it rests on, else of how far it looks; strong goes before weak.

    Table `composition`: the `pairs` strongest pairs of each kind, over chance (`samples` draws); `pairs=0`
    spares large models the work. Of a vision tower: `distance` and `near` (attention within one hop) of
    patches, `nearer` (how far above even attention that is), `to_class`, `class_to_image`, and the table
    `profile` by hops.
    """
    sizes = {"rows": rows, "batch": batch, "tokens": tokens, "samples": samples}
    sizes |= {} if length is None else {"length": length}
    _check(sizes | {"pairs": pairs}, strong, weak, quantile, offsets)
    tower = _tower(model, stack)
    asked = Asked(model, tower, sorted(choose_layers(tower, None, "pattern")), task, batch)
    asked.looks_at_weights = weights
    if tower.name == "vision":
        seen(asked)
    else:
        parts = [lambda: texts(asked, drawn(asked, length, rows, seed), offsets)]
        if task is None:
            asked.notes.append("No task was given: no movers, retrieval heads or images.")
        else:
            parts += [lambda: answers(asked), lambda: images(asked)]
            parts += [lambda: retrieval(asked, needle, tokens)]
        for part in counted(parts, "heads"):
            part()
    return _result(asked, Limits(strong, weak, epsilon, quantile), pairs, samples, seed)


def _check(
    sizes: dict[str, int], strong: float, weak: float, quantile: float, offsets: Sequence[int]
) -> None:
    least = {"length": 2, "samples": 0, "pairs": 0}
    for name, value in sizes.items():
        if value < least.get(name, 1):
            raise ValueError(f"{name}={value}: give at least {least.get(name, 1)}.")
    if not 0 < weak <= strong < 1 or not 0 < quantile <= 0.5:
        raise ValueError(
            f"strong={strong}, weak={weak}, quantile={quantile}: scores are shares, 0 < weak <= strong "
            "< 1, and at most half of the heads are local or global."
        )
    if not offsets:
        raise ValueError("offsets=() names none; a positional head looks at (-1,) or (-1, 1).")


def _tower(model: "Model", stack: str | None) -> Stack:
    """The stack whose positions are words or patches."""
    known = [name for name in ("text", "encoder", "vision") if name in model.stacks]
    if not known or model.kind in ("audio", "dual"):
        raise ValueError(
            f"{model.name} is of kind {model.kind!r}, and heads asks where in a text or an image a "
            "head looks; give a model of kind text, vlm, vision, encoder or encoder-decoder."
        )
    tower = choose_stack(model.stacks, stack or known[0], model.name)
    if tower.name not in known:
        raise ValueError(
            f"heads asks where in a text or an image a head looks, and the {tower.name} stack has "
            f"positions of its own. Stacks that can be asked: {', '.join(known)}."
        )
    if tower.name == "text" and needs_image(model):
        raise ValueError(
            f"{model.name} reads no text without an image, so that it can be asked neither for random words "
            "nor for what it does without one; ask its vision tower: stack='vision'."
        )
    return tower


def _result(asked: Asked, limits: Limits, pairs: int, samples: int, seed: int) -> Result:
    import pandas

    if asked.looks_at_weights and asked.stack.name != "vision":
        asked.by_weights("copying", lambda found: {"copying": found.copying()})
    index = [(layer, head) for layer in asked.layers for head in range(asked.stack.heads)]
    table = pandas.DataFrame(index, columns=["layer", "head"])
    for name in (name for name in COLUMNS if name in asked.columns):
        table[name] = asked.columns[name].to(torch.float64).flatten().numpy()
    if "offset" in table:
        table["offset"] = table["offset"].astype(int)
    table = named(table, limits)
    tensors = {}
    if asked.looks_at_weights and pairs:
        tensors = asked.composition(samples, seed)
        if tensors:
            asked.tables["composition"], notes = composed(
                tensors, table, asked.layers, pairs, limits.weak
            )
            asked.notes += notes
    return Result("heads", table, asked.tables, tensors, asked.notes)
