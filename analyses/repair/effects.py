"""What heads write to the logits before and after, where movers look, and how important heads were."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas
import torch
from torch import Tensor

from analyses.repair.asked import Asked, Head
from analyses.repair.runs import Told, hooks_of
from analyses.repair.spots import Case
from interp.circuits import task_effects
from interp.direct import DirectEffects, direct_effects
from interp.pairs import answers_metric
from interp.readouts import Readout, logit
from interp.sites import At, Hook
from interp.statistics import NORMAL, standard_error

MOVERS = 3  # heads of which attention is reported
WORTH = 0.1  # the least direct effect of those, as a share of the largest
LEAST = 1e-3  # of direct effects from which the scale of a norm can be told
NOTHING = 1e-6  # a change of the metric's mean, as a share of its size, that is none


@dataclass(frozen=True, eq=False)
class Effects:
    """Direct effects on the logit difference, [record, layer, head], and the layers' numbers."""

    before: Tensor
    after: Tensor
    layers: list[int]
    importance: dict[Head, float]

    def of(self, head: Head) -> tuple[Tensor, Tensor]:
        at = self.layers.index(head[0])
        return self.before[:, at, head[1]], self.after[:, at, head[1]]


def direct(asked: Asked) -> Effects:
    """Direct logit attribution of every head, plain and repaired, both by the plain run's last norm."""
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    layers: list[int] = []
    for case in asked.judged:
        metric = answers_metric(asked.model, case.prompt, case.records, "logit_diff", first=True)
        plain, changed = _both(asked, case, metric)
        layers = plain.layers
        held = _held(asked, plain, changed)
        if bool(held.isnan().any()):
            # Of another number the same parts may say how the norm differs.
            assert case.prompt.ids is not None
            other = logit(case.prompt.ids[:, -1]).bind(asked.model, case.prompt)
            held = torch.where(held.isnan(), _held(asked, *_both(asked, case, other)), held)
        if bool(held.isnan().any()):
            asked.remarks.append(
                "Direct effects of the repaired run are by its own last norm: what stands before the first "
                "changed layer writes too little to tell how the norm's scale differs."
            )
        found[0].append(plain.heads.detach().cpu())
        found[1].append(changed.heads.detach().cpu() * held.nan_to_num(1.0)[:, None, None])
    before, after = (torch.cat(each) for each in found)
    return Effects(before, after, layers, _importance(asked))


def _both(asked: Asked, case: Case, metric: Readout) -> list[DirectEffects]:
    """Of the plain run and of the repaired one."""
    repaired = hooks_of(asked, case, Told(tuple(asked.heads)))
    return [
        direct_effects(asked.model, case.prompt, metric, stack=asked.stack, hooks=hooks)
        for hooks in ([], repaired)
    ]


def _held(asked: Asked, plain: DirectEffects, changed: DirectEffects) -> Tensor:
    """[record]: what takes direct effects of the changed run to the scale of the plain run's last norm.

    What stands before the first changed layer writes the same in both runs, so that only the norm
    differs. Not a number where that writes next to nothing.
    """
    first = plain.layers.index(min(layer for layer, _ in asked.heads))
    own, other = (
        torch.cat([one.embedding[:, None], one.heads[:, :first].flatten(1), one.mlp[:, :first]], 1)
        .detach().double().nan_to_num().cpu()
        for one in (plain, changed)
    )  # fmt: skip
    size = other.square().sum(-1)
    ratio = (own * other).sum(-1) / size
    return ratio.masked_fill(size < LEAST**2, float("nan")).float()


def _importance(asked: Asked) -> dict[Head, float]:
    """Each head's share by path patching to the logits; none, with a remark, where that cannot be."""
    bare = [record.prompt for record in asked.task if record.counterfactual is None]
    if bare:
        asked.remarks.append(
            "Heads have no importance by path patching: a record has no counterfactual."
        )
        return {}
    try:
        found = task_effects(
            asked.model, asked.task, first=True, stack=asked.stack, batch=asked.batch
        )
    except ValueError as problem:
        asked.remarks.append(f"Heads have no importance by path patching: {problem}")
        return {}
    way = found.corrupted - found.clean
    if float(way.mean().abs()) <= NOTHING * max(1.0, float(way.abs().mean())):
        asked.remarks.append(
            "Heads have no importance by path patching: the counterfactuals do not change the mean "
            "logit difference."
        )
        return {}
    rows = zip(found.senders, found.share.tolist(), strict=True)
    return {(one.layer, one.head): share for one, share in rows}


def movers(asked: Asked, effects: Effects) -> list[Head]:
    """The heads with the largest direct effect before (mean size), of those that are not written over."""
    sizes = {head: float(effects.of(head)[0].abs().mean()) for head in asked.all_heads}
    least = WORTH * max(sizes.values())
    others = [head for head in sizes if head not in asked.heads and sizes[head] > least]
    return sorted(others, key=lambda head: sizes[head], reverse=True)[:MOVERS]


def looks(asked: Asked, effects: Effects) -> Any:
    """Attention of the movers from the last position to right and wrong answers, before and after."""
    rows = []
    heads = movers(asked, effects)
    values = _attention(asked, heads) if heads else {}
    for head in heads:
        for answers in ("right", "wrong"):
            before, after = values[head, answers, "before"], values[head, answers, "after"]
            row = {"layer": head[0], "head": head[1], "answers": answers}
            row |= {"before": float(before.mean()), "after": float(after.mean())}
            rows.append(row | paired(after - before))
    columns = ["layer", "head", "answers", "before", "after", "change", "change_low", "change_high"]
    return pandas.DataFrame(rows, columns=columns)


def paired(change: Tensor) -> dict[str, float]:
    """The mean of a change by record, with its 95 % interval."""
    mean, error = float(change.double().mean()), float(standard_error(change.double()))
    ends = (mean - NORMAL * error, mean + NORMAL * error)
    return {"change": mean, "change_low": ends[0], "change_high": ends[1]}


@torch.no_grad()
def _attention(asked: Asked, heads: list[Head]) -> dict[tuple[Head, str, str], Tensor]:
    kept: dict[tuple[Head, str, str], list[Tensor]] = {}
    for case in asked.judged:
        for when, hooks in (
            ("before", []),
            ("after", hooks_of(asked, case, Told(tuple(asked.heads)))),
        ):
            seen: dict[Head, Tensor] = {}
            hooks = [*hooks, *_readers(asked, case, heads, seen)]
            asked.model.logits(case.prompt, hooks=hooks)
            for head, row in seen.items():
                for answers, where in (("right", case.right_at), ("wrong", case.wrong_at)):
                    kept.setdefault((head, answers, when), []).append((row * where).sum(-1))
    return {key: torch.cat(parts) for key, parts in kept.items()}


def _readers(
    asked: Asked, case: Case, heads: list[Head], seen: dict[Head, Tensor]
) -> Iterator[Hook]:
    """Hooks that keep each head's last row, [row, key]."""
    end = case.prompt.length
    for layer, head in heads:

        def read(pattern: Tensor, at: At, head: int = head) -> None:
            row = torch.zeros(len(pattern), end)
            keys = pattern.shape[-1]
            row[:, at.first_key : at.first_key + keys] = pattern[:, 0, -1].float().cpu()
            seen[at.layer, head] = row

        yield Hook(
            "pattern", read, layer, asked.tower.name, [head], rows=True, within=(end - 1, end)
        )


def ranked(asked: Asked, effects: Effects) -> tuple[list[Head], float, float]:
    """Heads after the first changed layer, and Spearman's rho and p of their change with importance."""
    from scipy.stats import spearmanr

    first = min(layer for layer, _ in asked.heads)
    after = [head for head in asked.all_heads if head[0] > first and head not in asked.heads]
    known = [head for head in after if head in effects.importance]
    changes = [float((effects.of(head)[1] - effects.of(head)[0]).mean()) for head in known]
    importance = [effects.importance[head] for head in known]
    if len(known) < 3 or len(set(changes)) < 2 or len(set(importance)) < 2:
        return after, float("nan"), float("nan")
    found: Any = spearmanr(changes, importance)
    return after, float(found.statistic), float(found.pvalue)


def heads_rows(asked: Asked, effects: Effects) -> list[dict[str, Any]]:
    """Each head of the model, before and after."""
    rows = []
    first = min(layer for layer, _ in asked.heads)
    moving = movers(asked, effects)
    for head in asked.all_heads:
        before, after = effects.of(head)
        row = {
            "layer": head[0], "head": head[1], "repaired": head in asked.heads, "mover": head in moving,
            "downstream": head[0] > first,
            "importance": effects.importance.get(head, float("nan")),
            "before": float(before.mean()), "after": float(after.mean()),
        }  # fmt: skip
        rows.append(row | paired(after - before))
    return rows
