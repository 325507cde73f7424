"""Which heads curves are read off: local, global and receiver heads (arXiv 2510.13554 and 2506.19143)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.coupling import series

if TYPE_CHECKING:
    from pandas import DataFrame

RECEIVERS = 20  # of the paper, whose models have several hundred heads and more
LEAST_SCORES = 4  # fewer vertical scores have the same kurtosis whatever they are
ENDS = (".", "?", "!")  # of sentences; the end of a line is one too
FEW = 10  # in smaller groups single heads decide


def chunk_starts(tokens: Sequence[str], run: int | None = None) -> list[int]:
    """Where chunks of a response begin: its sentences, or runs of `run` tokens."""
    if run is not None:
        return list(range(0, len(tokens), run))
    ends = [
        order
        for order, token in enumerate(tokens[:-1])
        if token.rstrip().endswith(ENDS) or "\n" in token
    ]
    return [0, *(end + 1 for end in ends)]


def vertical_scores(matrix: Any, proximity: int = 4, depth_control: bool = False) -> np.ndarray:
    """Mean attention to each chunk from the chunks `proximity` and more after it: [..., chunk].

    `matrix` [..., chunk, chunk] is the mean of A over each pair. NaN where no chunk stands so far after.
    `depth_control` takes each row's ranks, as shares of the row, in place of its values.
    """
    given = np.asarray(matrix, dtype=float)
    if given.ndim < 2 or given.shape[-1] != given.shape[-2]:
        raise ValueError(f"a chunk matrix is [..., chunk, chunk], not {given.shape}.")
    if proximity < 0:
        raise ValueError(f"proximity={proximity}: give 0 or more chunks.")
    far = np.tri(given.shape[-1], k=-proximity, dtype=bool) & ~np.isnan(given)
    if depth_control:
        from scipy.stats import rankdata

        held = np.where(far, given, np.inf)  # what is left out ranks behind all else
        given = rankdata(held, axis=-1) / np.maximum(far.sum(-1, keepdims=True), 1)
    total, count = np.where(far, given, 0).sum(-2), far.sum(-2)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def kurtosis(values: Any) -> np.ndarray:
    """Fisher's, biased, over the last axis; NaN values are left out, and equal ones have none."""
    given = np.asarray(values, dtype=float)
    known = ~np.isnan(given)
    count = np.maximum(known.sum(-1), 1)
    filled = np.where(known, given, 0)
    mean = filled.sum(-1) / count
    square = np.where(known, filled - mean[..., None], 0) ** 2
    second, fourth = square.sum(-1) / count, (square**2).sum(-1) / count
    varied = second > (np.finfo(float).resolution * mean) ** 2
    ratio = fourth / np.where(varied, second, 1) ** 2
    return np.where(varied, ratio - 3, np.nan)


def receiver_scores(matrix: Any, proximity: int = 4, depth_control: bool = False) -> np.ndarray:
    """How unevenly a head spreads over chunks far before: kurtosis of its vertical scores, [...].

    NaN where the text has fewer than 4 chunks that can be scored.
    """
    scores = vertical_scores(matrix, proximity, depth_control)
    enough = (~np.isnan(scores)).sum(-1) >= LEAST_SCORES
    return np.where(enough, kurtosis(scores), np.nan)


def unscored(chunks: Sequence[int], proximity: int = 4) -> str:
    """Why responses of so many chunks (0: not cut) gave no head a score."""
    least, most = proximity + LEAST_SCORES, max(chunks)
    if not most:
        return "sentences need a tokenizer. For runs of tokens: chunks=8."
    if most < least:
        return (
            f"a score takes {least} chunks, and no response has more than {most}. Give longer responses, "
            "or runs of tokens: chunks=8."
        )
    return "no head outside layer 0 was read, or none looks at some chunks more than at others."


def receiver_heads(scores: Any, layers: Any, count: int | None = None) -> np.ndarray:
    """Numbers of the `count` heads of highest score, highest first, none of them in layer 0.

    `scores` and `layers` have one entry a head. count=None: 20, but at most a quarter of the heads
    outside layer 0, and at least one.
    """
    values, layers = series(scores), np.asarray(layers)
    outside = int((layers > 0).sum())
    open_to = np.where(layers > 0, values, np.nan)
    defined = int((~np.isnan(open_to)).sum())
    count = min(RECEIVERS, max(1, outside // 4), defined) if count is None else count
    if not 1 <= count <= defined:
        raise ValueError(
            f"{count} receiver heads were asked for, and {defined} heads outside layer 0 have a score. "
            f"Give 1 to {defined}."
            if defined
            else "no head outside layer 0 has a receiver score: that takes 4 chunks and more beyond "
            "proximity=, of a response. Give longer responses, or runs of tokens: chunks=8."
        )
    return np.argsort(-open_to, kind="stable")[:count]


def head_groups(spans: Any, share: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the heads of lowest and of highest span: `share` of all each, at least one."""
    values = series(spans)
    if not 0 < share <= 0.5:
        raise ValueError(f"share={share}: two groups of heads take above 0 and up to 0.5 each.")
    if len(values) < 2:
        raise ValueError(
            f"local and global heads need at least 2 heads, and there is {len(values)}."
        )
    count = max(1, int(share * len(values) + 1e-9))
    order = np.argsort(values, kind="stable")
    return np.sort(order[:count]), np.sort(order[-count:])


@dataclass(frozen=True)
class Groups:
    """Numbers of the heads that curves are means over, and what they were chosen by."""

    near: np.ndarray  # the paper's local heads
    far: np.ndarray  # and its global ones
    receivers: np.ndarray  # highest score first; empty where none are wanted or can be told
    means: dict[str, np.ndarray]  # [head]: over responses, of spans and scores

    @classmethod
    def of(
        cls,
        values: Sequence[Mapping[str, np.ndarray]],
        layers: Any,
        share: float = 0.3,
        receivers: int | None = None,
        among: Sequence[int] | None = None,
    ) -> "Groups":
        """From each response's `span` and `receiver_score`, [head]; `layers` is each head's.

        Of all heads, or those in the layers `among`; numbers count all heads. `receivers` as
        `receiver_heads` takes it, and 0 for none; None passes over heads without a score, and among
        some layers it is at most as many as these have.
        """
        means = {name: known_mean([one[name] for one in values]) for name in values[0]}
        pool = np.flatnonzero(np.isin(layers, layers if among is None else among))
        near, far = head_groups(means["span"][pool], share)
        scores, own = means["receiver_score"][pool], np.asarray(layers)[pool]
        scored = int((~np.isnan(scores) & (own > 0)).sum())
        wanted = receivers if among is None or receivers is None else min(receivers, scored)
        chosen = pool[:0]
        if wanted or (wanted is None and scored):
            chosen = pool[receiver_heads(scores, own, wanted)]
        return cls(pool[near], pool[far], chosen, means)

    @property
    def shared(self) -> float:
        """Share of the receivers that are global heads too; NaN without receivers."""
        both = len(np.intersect1d(self.receivers, self.far))
        return both / len(self.receivers) if len(self.receivers) else float("nan")

    def notes(self, share: float) -> list[str]:
        """What to know of them."""
        count, total, found = len(self.far), len(self.means["span"]), []
        if count < FEW:
            found.append(
                f"Local and global heads are {count} each of {total}: few, so that single heads decide "
                "the curves."
            )
        lost = np.setdiff1d(self.far, head_groups(self.means["span_without_first"], share)[1])
        if len(lost):
            found.append(
                f"{len(lost)} of the {count} global heads look far only because of position 0: by "
                "span_without_first they would not be among them."
            )
        if self.shared > 0:
            found.append(
                f"{round(self.shared * len(self.receivers))} of the {len(self.receivers)} receiver heads are "
                "global heads too, and peaks fall together by that alone (column shared_heads)."
            )
        return found

    def table(self, heads: np.ndarray) -> "DataFrame":
        """A row a head; `heads` is [head, 2], layer and number in it."""
        import pandas

        group = np.full(len(heads), "between", dtype=object)
        group[self.near], group[self.far] = "local", "global"
        receiver = np.isin(np.arange(len(heads)), self.receivers)
        rows = {"layer": heads[:, 0], "head": heads[:, 1], "group": group, "receiver": receiver}
        return pandas.DataFrame(rows | self.means)

    def curves(self, waad: np.ndarray, fai: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Of one response, [token], from values head by head, [head, token]; `fai` by its horizon's name.

        WAAD and FAI are linear in the pattern: these are those of each group's mean pattern.
        """
        found = {"waad": waad[self.near].mean(0)}
        found |= {name: values[self.far].mean(0) for name, values in fai.items()}
        received = fai["fai"][self.receivers]
        none = np.full(waad.shape[1], np.nan)
        return found | {"receiver_fai": received.mean(0) if len(received) else none}


def known_mean(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over arrays of one shape, entry by entry over those that are not NaN; NaN where all are."""
    stacked = np.stack(arrays)
    known = ~np.isnan(stacked)
    count = known.sum(0)
    total = np.where(known, stacked, 0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
