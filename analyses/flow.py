"""Which positions an answer rests on, by several methods, and whether any of them beats chance at it.

Attention rollout and flow (Abnar and Zuidema 2020), Chefer et al. (2021), relevance propagation
(Achtibat et al. 2024), gradients and leave-one-out, judged by deletion and insertion curves.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from analyses import analysis
from interp import relevance
from interp.mapping import over
from interp.propagation import judging
from interp.propagation.example import Example, empty_with_means
from interp.propagation.judging import CONTROL, CURVES, LEAST, Found, Values, judged, stacked
from interp.propagation.methods import METHODS, ON_REQUEST, SETTINGS_OF, Told, unserved
from interp.registry import unknown
from interp.result import Result
from interp.task import Task

if TYPE_CHECKING:
    import pandas

    from interp.model import Model

THUMBNAIL = 320  # pixels, the longer side of the images that a result keeps


@analysis
def flow(
    model: "Model",
    task: Task,
    *,
    methods: Sequence[str] | None = None,
    count: int = 20,
    target: str = "said",
    baseline: str = "mean",
    steps: int = 11,
    draws: int = 5,
    heads: str = "mean",
    discard: float = 0.0,
    form: str = "positive",
    path_steps: int = 50,
    resamples: int = 1000,
    limit: int = relevance.LIMIT,
    batch: int = 64,
    seed: int = 0,
) -> Result:
    """Relevance of each position of the first `count` records, and curves that put it to the test.

    The answer is what the model itself says next (`target="said"`) or the first right answer
    ("answer"). Positions are ranked by relevance: all but the one that answers (the last, or a
    classifier's class token) and the token that begins the text. The top share of the ranking is
    replaced in what the first layer receives (deletion), or all but it (insertion), and the answer's
    probability is read. A position is replaced by the mean over the ranked positions of these records,
    image and text each by its own (`baseline="mean"`), or by zero. Where positions are embedded before
    the first layer, as in ViT and GPT-2, it loses its place too.

    The table has a row for each method and curve: `auc` (of deletion lower is better, of insertion
    higher), its 95% bootstrap interval over records, the same area of `draws` random rankings, and
    `gain`, how much better the method did on the same records. It `beats` chance if the interval of
    the gain is above 0, and there are 6 records at least.

    `methods=None` takes all but integrated_gradients and attnlrp; what cannot be served is then left
    out with a note, while one that is named is refused. Settings of one method: `heads` and `discard`
    (rollout, flow), `limit` (flow), `form` (attention_gradient: "positive" or "absolute"),
    `path_steps` (integrated_gradients).

    Tables: `aopc` (comprehensiveness and sufficiency), `agreement` (rank correlation with
    leave_one_out), `curves`, `relevance` (by position), `records`. Tensors: "map 3" is relevance on
    the image of record 3, [method, row, column] in the order of the table, and "image 3" that image.
    """
    _check(
        model,
        task,
        {"baseline": (baseline, ["mean", "zero"]), "target": (target, ["said", "answer"])},
    )
    _check_counts(count=count, draws=draws, batch=batch, path_steps=path_steps, resamples=resamples)
    if steps < 3:
        raise ValueError(f"steps={steps}: a curve needs at least 3 shares, 0 and 1 among them.")
    told = Told(heads, discard, form, path_steps, limit)
    examples = [Example(model, record, target, batch) for record in task[:count]]
    _check_lengths(examples)
    if baseline == "mean":
        empty_with_means(examples)
    chosen, notes = _chosen(methods, examples, told)
    shares = torch.linspace(0, 1, steps).tolist()
    chance = torch.Generator().manual_seed(seed)
    values: list[Values] = []
    found: list[Found] = []

    def ranked(example: Example) -> Values:
        return {name: METHODS[name](example, told).float() for name in chosen}

    for example, own in zip(examples, over(model, examples, ranked, "flow"), strict=True):
        values.append(own)
        found.append(judged(example, own, shares, draws, chance))
        example.forget()
    picks = torch.randint(len(examples), (resamples, len(examples)), generator=chance)
    return _result(examples, values, stacked(found), shares, picks, notes)


def _result(
    examples: list[Example],
    values: list[Values],
    found: Found,
    shares: list[float],
    picks: Tensor,
    notes: list[str],
) -> Result:
    table = judging.areas(found, shares, picks)
    tables = {
        "aopc": judging.changes(found, picks),
        "agreement": judging.agreement(examples, values, picks),
        "curves": judging.curves(found, shares),
        "relevance": _positions(examples, values),
        "records": _records(examples, found[CONTROL]["deletion"]),
    }
    tensors, lost = _images(examples, values)
    said = [*_outcome(tables["records"]), *_comparison(table), *_agreement(tables["agreement"])]
    return Result("flow", table, tables, tensors, [*said, *_left(examples), *notes, *lost])


def _positions(examples: list[Example], values: list[Values]) -> "pandas.DataFrame":
    import pandas

    parts = []
    for record, (example, own) in enumerate(zip(examples, values, strict=True)):
        ranked = torch.zeros(example.length, dtype=torch.bool)
        ranked[example.ranked] = True
        for name, each in own.items():
            columns = {"record": record, "position": range(example.length)}
            columns |= {"token": example.prompt.tokens[0], "method": name, "value": each.tolist()}
            columns |= {"part": ["image" if image else "text" for image in example.image.tolist()]}
            parts.append(pandas.DataFrame(columns | {"ranked": ranked.tolist()}))
    return pandas.concat(parts, ignore_index=True)


def _records(examples: list[Example], deletion: Tensor) -> "pandas.DataFrame":
    """What was asked of each record: the answer and its probability, untouched and with all replaced."""
    import pandas

    rows = []
    for number, example in enumerate(examples):
        words = example.model.config.id2label if example.model.kind == "vision" else None
        answer = (
            words[example.target]
            if words
            else example.model.decode(torch.tensor([[example.target]]))[0]
        )
        rows.append(
            {"record": number, "answer": str(answer), "target": example.target}
            | {"probability": float(deletion[number, 0]), "emptied": float(deletion[number, -1])}
            | {"positions": example.length, "ranked": len(example.ranked)}
        )
    return pandas.DataFrame(rows)


def _images(examples: list[Example], values: list[Values]) -> tuple[dict[str, Tensor], list[str]]:
    """Relevance on each image, and the image; or why it cannot be laid there."""
    tensors: dict[str, Tensor] = {}
    for number, (example, own) in enumerate(zip(examples, values, strict=True)):
        if not bool(example.image.any()) or example.record.image is None:
            continue
        try:
            maps = [example.prompt.fold(each.nan_to_num(0.0)) for each in own.values()]
        except ValueError as problem:
            return {}, [f"There are no maps on the images: {problem}"]
        image = example.record.image.convert("RGB")
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        tensors[f"map {number}"] = torch.stack(maps)
        tensors[f"image {number}"] = pixels.view(image.height, image.width, 3)
    return tensors, []


def _outcome(records: "pandas.DataFrame") -> list[str]:
    """How much there was to explain."""
    full, emptied = (float(records[name].to_numpy().mean()) for name in ("probability", "emptied"))
    notes = [
        f"{len(records)} records; the answer's probability is {full:.3f} untouched and {emptied:.3f} "
        "with all ranked positions replaced."
    ]
    if emptied > full / 2:
        notes.append("Replacing everything leaves more than half of it: these curves say little.")
    if len(records) < LEAST:
        notes.append(
            f"Of fewer than {LEAST} records nothing counts as beating chance, whatever its interval."
        )
    elif len(records) < 10:
        notes.append(
            f"{len(records)} records are few for a bootstrap, whose intervals come out too narrow."
        )
    return notes


def _comparison(table: "pandas.DataFrame") -> list[str]:
    """Which methods beat random rankings, and which do not."""
    notes = []
    for curve in CURVES:
        rows = [row for row in table.to_dict("records") if row["curve"] == curve]
        chance = next(row["auc"] for row in rows if row["method"] == CONTROL)
        rows = [row for row in rows if row["method"] != CONTROL]
        groups: dict[str, list[str]] = {"better": [], "not told from chance": [], "worse": []}
        for row in sorted(rows, key=lambda row: -row["gain"]):
            worse = "worse" if row["gain_high"] < 0 else "not told from chance"
            group = "better" if row["beats"] else worse
            groups[group].append(f"{row['method']} ({row['auc']:.3f})")
        parts = [f"{name}: {', '.join(own)}" for name, own in groups.items() if own]
        parts = parts if groups["better"] else ["no method beats chance", *parts]
        notes.append(f"{curve.capitalize()}, area {chance:.3f} at random; {'; '.join(parts)}.")
    notes.append("Intervals are 95% each, over records, and not widened for the number of methods.")
    return notes


def _agreement(table: "pandas.DataFrame") -> list[str]:
    if not len(table):
        return ["Agreement with leave_one_out needs it and another method among the methods."]
    best = table.sort_values("spearman").iloc[-1]
    return [
        f"Closest to leave_one_out in rank is {best['method']} (Spearman {best['spearman']:.2f}). "
        "leave_one_out replaces positions as the curves do, which favours it in them."
    ]


def _left(examples: list[Example]) -> list[str]:
    """What was not ranked, and what of the model bears on how the numbers are to be read."""
    model = examples[0].model
    stack = next(iter(model.stacks.values()))
    kept = ["the class token" if model.kind == "vision" else "the last position"]
    if model.kind != "vision" and any(int(each.ranked[0]) > 0 for each in examples):
        kept.append("the token that begins the text")
    notes = [f"Not ranked, and never replaced: {' and '.join(kept)}."]
    attending = sum(layer.attention is not None for layer in stack.layers.values())
    if attending < stack.size:
        notes.append(
            f"{attending} of {stack.size} layers have attention; for rollout, flow and chefer the others "
            "leave every position where it is."
        )
    if any(place.between and place.stack == stack.name for place in model.places.values()):
        notes.append(
            f"{model.name} adds to its stream between layers, so a replaced position gets something back."
        )
    return notes


def _chosen(
    methods: Sequence[str] | None, examples: list[Example], told: Told
) -> tuple[list[str], list[str]]:
    """The methods to run, and a note for each standard one that cannot be; a named one is refused."""
    named = [methods] if isinstance(methods, str) else list(methods or [])
    for name in named:
        if name not in METHODS:
            known = unknown("method", name, list(METHODS))
            raise LookupError(f"{known} {CONTROL!r} is always there, as the control.")
    chosen, notes = [], []
    for name in named or [each for each in METHODS if each not in ON_REQUEST]:
        reason = unserved(name, examples, told)
        if reason and named:
            raise ValueError(f"{name} cannot be had here: {reason}")
        if reason:
            notes.append(f"{name} was left out: {reason}")
        elif name not in chosen:
            chosen.append(name)
    for setting, users in SETTINGS_OF.items():
        given = getattr(told, setting)
        if given != getattr(Told(), setting) and not set(users) & set(chosen):
            raise ValueError(
                f"{setting}={given!r} is a setting of {' and '.join(users)}, and the methods are "
                f"{', '.join(chosen)}; leave it out."
            )
    return chosen, notes


def _check(model: "Model", task: Any, words: dict[str, tuple[str, list[str]]]) -> None:
    if not isinstance(task, Task) or not len(task):
        raise TypeError(
            "flow takes a Task with records: interp.Task.load(name or file, count=20); not "
            f"{task!r}."
        )
    for name, (given, known) in words.items():
        if given not in known:
            raise ValueError(unknown(name, given, known))
    if torch.is_inference_mode_enabled():
        raise ValueError("gradients are needed, and torch.inference_mode() forbids them; leave it.")
    name = type(model.hf).__name__
    if model.kind not in ("text", "vlm", "vision"):
        raise ValueError(
            f"{name} is of kind {model.kind!r}. flow follows one answer through one stack: of a "
            "decoder-only or vision-language model, or of an image classifier."
        )
    if "cross" in model.stacks or next(iter(model.stacks)) not in ("text", "vision"):
        raise ValueError(
            f"{name} reads one stream by attention from another, which flow does not follow; its "
            f"stacks are {', '.join(model.stacks)}. See interp.relevance.chefer_cross."
        )
    if model.kind == "vision" and not hasattr(model.hf, "classifier"):
        raise ValueError(f"{name} has no classifier; open the ...ForImageClassification of it.")
    if model.kind != "vision" and model.hf.get_output_embeddings() is None:
        raise ValueError(f"{name} has no language-model head; open the ...ForCausalLM of it.")


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}={value}: give at least 1.")


def _check_lengths(examples: list[Example]) -> None:
    for example in examples:
        if len(example.ranked) < 2:
            raise ValueError(
                f"{example.record.prompt!r} has {len(example.ranked)} positions to rank, besides the one "
                "that answers; give prompts of some length."
            )
