"""The clean and the corrupted run of some records, and what becomes of one with states of the other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from analyses.causal_tracing.asked import Asked
from interp.batches import batches
from interp.pairs import Pair, answers_metric, pairs
from interp.progress import counted
from interp.prompt import Prompt
from interp.readouts import Readout
from interp.sites import Hook
from interp.task import Record
from interp.trace import Trace
from interp.tracing.known import said_right
from interp.tracing.noise import adding, draw, spread
from interp.tracing.severed import severed_sweep


@dataclass(frozen=True, eq=False)
class Case:
    """Records of one length, each as many times in a row as there are samples."""

    clean: Prompt
    corrupted: Prompt
    hooks: tuple[Hook, ...]  # of the corrupted run
    subject: Tensor  # [record, position]
    records: tuple[Record, ...]
    numbers: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Traced:
    """What came of one case: metrics by record, and effects by (direction, kind, severed)."""

    case: Case
    clean: Tensor  # [record]
    corrupted: Tensor
    still: Tensor  # share of corrupted copies still answered right
    effects: dict[tuple[str, str, str], Tensor]  # [record, layer, position]


def cases(asked: Asked) -> Iterator[Case]:
    yield from _noised(asked) if asked.corruption == "noise" else _replaced(asked)


def _noised(asked: Asked) -> Iterator[Case]:
    model = asked.model
    parts = list(batches(model, asked.task, "causal_tracing", asked.batch))
    masks = [part.prompt.where(asked.subject).cpu() for part in parts]
    found = spread(model, [(part.prompt, mask) for part, mask in zip(parts, masks, strict=True)])
    size = asked.noise * found.arriving
    asked.remarks.append(
        f"Noise: {asked.noise:g} times {found.std:.4f}, the standard deviation of the embeddings of "
        f"{found.tokens} subject tokens, added where layer 0 receives them, in {asked.samples} copies (seed "
        f"{asked.seed})."
    )
    if found.factor is None:
        asked.remarks.append(
            "Embeddings pass a norm or a projection before layer 0: the noise is sized by what comes out "
            "of it, and added "
            "there."
        )
    elif abs(found.factor - 1) > 0.01:
        asked.remarks.append(
            f"This family multiplies embeddings by {found.factor:.4g} before layer 0, and the noise with "
            "them."
        )
    for part, mask in counted(list(zip(parts, masks, strict=True)), "tracing"):
        copied = tuple(record for record in part.records for _ in range(asked.samples))
        prompt = replace(asked.task, records=copied).encode(model)
        noise = draw(mask, asked.samples, found.width, size, asked.seed)
        hook = adding(noise, asked.stack.name)
        yield Case(prompt, prompt, (hook,), mask, part.records, _numbers(asked, part.numbers))


def _replaced(asked: Asked) -> Iterator[Case]:
    for pair in pairs(asked.model, asked.task, "causal_tracing", asked.batch):
        mask = pair.clean.where(asked.subject).cpu()
        _remark_elsewhere(asked, pair, mask)
        numbers = _numbers(asked, pair.numbers)
        yield Case(pair.clean, pair.corrupted, (), mask, pair.records, numbers)


def _remark_elsewhere(asked: Asked, pair: Pair, mask: Tensor) -> None:
    """Once: counterfactuals that change more, or something else, than the subject."""
    if pair.clean.ids is None or pair.corrupted.ids is None:
        return
    said = f"Counterfactuals change tokens outside of {asked.subject!r} too: states there count as well."
    if (
        bool(((pair.clean.ids != pair.corrupted.ids).cpu() & ~mask).any())
        and said not in asked.remarks
    ):
        asked.remarks.append(said)


def _numbers(asked: Asked, numbers: Sequence[int]) -> tuple[int, ...]:
    return tuple(asked.numbers[number] for number in numbers)


@torch.no_grad()
def traced(asked: Asked, case: Case, number: int) -> Traced:
    """Both runs, and for each direction, kind and layer one run a position."""
    copies = asked.copies
    rows = [record for record in case.records for _ in range(copies)]
    metric = answers_metric(asked.model, case.clean, rows, asked.metric, asked.first)
    clean, states = _run(asked, case.clean, (), "denoise")
    corrupted, others = _run(asked, case.corrupted, case.hooks, "noise")
    right = said_right(asked.model, case.clean, rows, corrupted, asked.first)
    effects = {}
    for direction in asked.directions:
        denoise = direction == "denoise"
        run = (case.corrupted, case.hooks) if denoise else (case.clean, ())
        for kind, severed in _plan(asked):
            parts = [str(number), direction, kind, *([f"without-{severed}"] if severed else [])]
            save = None if asked.save is None else f"{asked.save}/{'-'.join(parts)}"
            found = _swept(asked, run, states if denoise else others, kind, severed, metric, save)
            effects[direction, kind, severed] = _mean(found, copies) * (1.0 if denoise else -1.0)
    before, after = (_mean(metric(logits, case.clean), copies) for logits in (clean, corrupted))
    return Traced(case, before, after, _mean(right.float(), copies), effects)


def _run(
    asked: Asked, prompt: Prompt, hooks: tuple[Hook, ...], direction: str
) -> tuple[Tensor, Trace | None]:
    """A run's logits, and its states where this direction takes them into the other one."""
    if direction not in asked.directions:
        return asked.model.logits(prompt, hooks=hooks), None
    trace = asked.model.trace(prompt, *asked.kinds, stack=asked.stack.name, hooks=hooks)
    return trace.logits, trace


def _plan(asked: Asked) -> list[tuple[str, str]]:
    """Kinds, and resid_post once more for each part that is severed."""
    return [(kind, "") for kind in asked.kinds] + [("resid_post", part) for part in asked.severed]


def _swept(
    asked: Asked,
    run: tuple[Prompt, tuple[Hook, ...]],
    take: Trace | None,
    kind: str,
    severed: str,
    metric: Readout,
    save: str | None,
) -> Tensor:
    """How the metric moves, [row, layer, position]."""
    prompt, hooks = run
    if severed:
        assert take is not None
        return severed_sweep(asked.model, prompt, take, severed, metric, hooks, asked.budget, save)
    return asked.model.sweep(
        prompt, kind, take, ("layer", "position"), metric, window=asked.wide_of(kind),
        stack=asked.stack.name, hooks=hooks, budget=asked.budget, save=save,
    ).effect  # fmt: skip


def _mean(values: Tensor, copies: int) -> Tensor:
    """Over the samples of each record."""
    return values.unflatten(0, (-1, copies)).mean(1)
