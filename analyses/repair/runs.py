"""Runs in which heads look where they are told, and what the model says then."""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from analyses.repair.asked import Asked, Head
from analyses.repair.spots import Case
from interp.pairs import answers_metric
from interp.readouts import Readout
from interp.replay import Change, Replay
from interp.sites import At, Hook


@dataclass(frozen=True)
class Told:
    """Which heads are told where to look, or (`elsewhere`) to look at other tokens."""

    heads: tuple[Head, ...] = ()
    elsewhere: bool = False


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of each record, in the order of the task."""

    right: Tensor  # [record]: the likeliest token of all is a right answer's first
    options: Tensor  # [record]: the likeliest among right and wrong answers is right
    metric: Tensor  # [record]
    said: Tensor  # [record]: the likeliest token


@dataclass(eq=False)
class Conditions:
    """Outcomes by condition; of the random draws, with the heads that were drawn."""

    named: dict[str, Outcome]
    draws: list[tuple[list[Head], Outcome]] = field(default_factory=list)


def conditions(asked: Asked) -> Conditions:
    """The plain run, all heads, each alone, other tokens, other heads."""
    heads: list[Head] = asked.heads
    hidden = hiding(asked, asked.judged)
    for layer, head in heads:
        if layer in hidden:
            raise ValueError(
                f"head {layer}.{head} cannot look at all places: layer {layer} hides some of them "
                "(a window). Name heads= of other layers."
            )
    told = {"plain": Told(), "repaired": Told(tuple(heads))}
    if len(heads) > 1:
        told |= {named(head): Told((head,)) for head in heads}
    if all(bool(case.elsewhere.any(-1).all()) for case in asked.judged):
        told["elsewhere"] = Told(tuple(heads), elsewhere=True)
    else:
        asked.remarks.append(
            "Some record has too few other tokens after the first place, so that there is no row 'elsewhere'."
        )
    others = [one for one in asked.all_heads if one not in heads and one[0] not in hidden]
    drawn = draw(others, len(heads), asked.draws, asked.seed)
    found = outcomes(asked, asked.judged, [*told.values(), *(Told(tuple(one)) for one in drawn)])
    rest = found[len(told) :]
    return Conditions(dict(zip(told, found, strict=False)), list(zip(drawn, rest, strict=True)))


def named(head: Head) -> str:
    return f"{head[0]}.{head[1]}"


def draw(heads: Sequence[Head], count: int, draws: int, seed: int) -> list[list[Head]]:
    """Different sets of `count` heads; all there are where that is fewer than asked for."""
    most = min(draws, math.comb(len(heads), count))
    chance, found = random.Random(seed), set()
    while len(found) < most:
        found.add(tuple(sorted(chance.sample(list(heads), count))))
    return [list(one) for one in sorted(found)]


@dataclass(frozen=True, eq=False)
class Verdict(Readout):
    """Of each row: right, right among options, the metric, and the likeliest token, [row, 4]."""

    case: Case | None = None
    metric: Readout | None = None

    def of(self, logits: Tensor, rows: Tensor) -> Tensor:
        assert self.case is not None and self.metric is not None
        columns = self.metric.columns()
        value = self.metric.of(logits if columns is None else logits[:, columns], rows)
        said, found = logits.argmax(-1).tolist(), []
        for order, row in enumerate(rows.tolist()):
            good, bad = list(self.case.right[row]), list(self.case.wrong[row])
            best = logits[order, good].max() > logits[order, bad].max()
            found.append([said[order] in good, float(best), 0.0, said[order]])
        verdict = torch.tensor(found, dtype=torch.double)
        verdict[:, 2] = value.cpu()
        return verdict.to(logits.device)


@torch.no_grad()
def outcomes(asked: Asked, given: Iterable[Case], told: Sequence[Told]) -> list[Outcome]:
    """What the model says under each condition."""
    parts, numbers = [], []
    for case in given:
        metric = answers_metric(asked.model, case.prompt, case.records, asked.metric, first=True)
        verdict = Verdict("verdict", case=case, metric=metric)
        parts.append(_verdicts(asked, case, told, verdict).cpu())
        numbers += case.numbers
    whole = torch.cat(parts)[torch.tensor(numbers).argsort()]  # [record, condition, 4]
    return [
        Outcome(one[:, 0].bool(), one[:, 1].bool(), one[:, 2].float(), one[:, 3].long())
        for one in whole.unbind(1)
    ]


def _verdicts(asked: Asked, case: Case, told: Sequence[Told], verdict: Verdict) -> Tensor:
    """[row, condition, 4]: gone on with from where runs differ, or each in a forward of its own."""
    model = asked.model
    if asked.scale == 1:  # else what is mixed in depends on the heads before
        replay = Replay(model, case.prompt, asked.tower.name)
        if replay.path != "whole":
            return replay.values([_changes(case, one, model.device) for one in told], verdict)
    found = []
    for one in told:
        logits = model.logits(case.prompt, hooks=hooks_of(asked, case, one))
        found.append(verdict(logits, case.prompt))
    return torch.stack(found, 1)


def _changes(case: Case, told: Told, device: torch.device) -> list[Change]:
    """What is written over, as changes of a kept run."""
    rows, places = case.at.nonzero().unbind(-1)
    target = (case.elsewhere if told.elsewhere else case.target)[rows].to(device)
    changes = []
    for layer in sorted({layer for layer, _ in told.heads}):
        heads = torch.tensor(sorted(head for at, head in told.heads if at == layer))
        values = target[:, None].expand(-1, len(heads), -1)
        changes.append(Change("pattern", layer, rows, places, values, heads))
    return changes


def hooks_of(asked: Asked, case: Case, told: Told) -> list[Hook]:
    """Hooks that write attention over, one for each layer."""
    target = case.elsewhere if told.elsewhere else case.target
    layers = sorted({layer for layer, _ in told.heads})
    return [
        Hook(
            "pattern",
            _writing(case, target, asked.scale),
            layer,
            asked.tower.name,
            sorted(head for at, head in told.heads if at == layer),
            rows=True,
            within=_rows(case),
        )
        for layer in layers
    ]


def _rows(case: Case) -> tuple[int, int]:
    """From the first position that is written over to the last."""
    columns = case.at.any(0).nonzero()[:, 0].tolist()
    return columns[0], columns[-1] + 1


def _writing(case: Case, target: Tensor, scale: float) -> Callable[[Tensor, At], Tensor]:
    def look_there(pattern: Tensor, at: At) -> Tensor:
        where, new = _seen(case, target, pattern, at)
        mixed = scale * new.to(pattern)[:, None, None] + (1 - scale) * pattern
        return torch.where(where.to(pattern.device)[:, None, :, None], mixed, pattern)

    return look_there


def _seen(case: Case, target: Tensor, value: Tensor, at: At) -> tuple[Tensor, Tensor]:
    """Of what is written, the rows [row, query] and keys [row, key] that a hook is shown."""
    rows, keys = value.shape[-2:]
    where = case.at[:, at.first : at.first + rows]
    return where, target[:, at.first_key : at.first_key + keys]


@torch.no_grad()
def hiding(asked: Asked, given: Iterable[Case]) -> set[int]:
    """Layers whose mask hides a place from a row that shall look there."""
    found: set[int] = set()
    layers = sorted({layer for layer, _ in asked.all_heads})
    for case in given:

        def look(scores: Tensor, at: At, case: Case = case) -> None:
            where, new = _seen(case, case.target, scores, at)
            open_ = scores[:, 0] > torch.finfo(scores.dtype).min / 2
            there = (new > 0)[:, None].to(scores.device) & open_
            every = there.sum(-1) == (case.target > 0).sum(-1)[:, None].to(scores.device)
            if bool((where.to(scores.device) & ~every).any()):
                found.add(at.layer)

        hook = Hook("scores", look, layers, asked.tower.name, [0], rows=True, within=_rows(case))
        asked.model.logits(case.prompt, hooks=hook)
    return found
