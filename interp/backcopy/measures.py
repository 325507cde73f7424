"""What to watch while the network learns: who looks where, what the first position gives, the risks.

Each measure is one number over held-out sequences; `where` marks the positions that are triggers.
"""

from typing import Any

import torch
from torch import Tensor

from interp.backcopy.chain import Chain
from interp.backcopy.network import Seen

LAYER_MEASURES = ("sink", "previous", "trigger_sink", "drain", "drain_raw", "peak", "gap")


def layer_measures(seen: Seen, where: Tensor) -> dict[str, float]:
    """The measures of one layer, by the names in LAYER_MEASURES.

    The first position is left out wherever queries are averaged: it can look at itself alone.
    """
    dormant, active = where.logical_not(), where
    gap = score_gaps(seen.scores)[:, 2:]
    return {
        "sink": _mean(seen.pattern[:, 1:, 0], dormant[:, 1:]),
        "previous": _mean(seen.pattern.diagonal(-1, 1, 2), active[:, 1:]),
        "trigger_sink": _mean(seen.pattern[:, 1:, 0], active[:, 1:]),
        "drain": _first_to_mean(seen.written),
        "drain_raw": _first_to_mean(seen.value),
        "peak": _first_to_largest(seen.stream),
        "gap": _mean(gap, dormant[:, 2:]),
    }


def score_gaps(scores: Tensor) -> Tensor:
    """Score of <s> less the mean score of the keys between it and the query: [row, query].

    Not a number at queries 0 and 1, which have no key between.
    """
    length = scores.shape[-1]
    between = torch.ones(length, length, dtype=torch.bool, device=scores.device).tril(-1)
    between[:, 0] = False
    kept = scores.masked_fill(~between, 0).sum(-1)
    return scores[..., 0] - kept / between.sum(-1)


def risks(logits: Tensor, sequences: Tensor, chain: Chain) -> dict[str, float]:
    """`excess`: how far the prediction is from the chain's law where the law is a bigram, in nats.

    `copy`: cross-entropy at triggers. `loss`: cross-entropy of what came next, everywhere.
    `sequences` are one longer than the logits. Position 0 counts in `loss` alone: its law is
    neither a bigram nor a copy.
    """
    predicted = logits.double().log_softmax(-1)
    following = predicted.gather(2, sequences[:, 1:, None])[..., 0]
    law = chain.oracle(sequences[:, :-1].cpu()).to(predicted.device)
    divergence = (torch.special.xlogy(law, law) - law * predicted).sum(-1)[:, 1:]
    where = chain.is_trigger.to(predicted.device)[sequences[:, 1:-1]]
    # At triggers the law is certain, so its entropy is 0 and the excess is the cross-entropy.
    return {
        "loss": -following.mean().item(),
        "excess": _mean(divergence, ~where),
        "copy": _mean(divergence, where),
    }


def gaps_by_token(scores: Tensor, sequences: Tensor, chain: Chain) -> list[dict[str, Any]]:
    """The mean gap of each kind of token, the most frequent in `sequences` first."""
    gap, tokens = score_gaps(scores)[:, 2:].double(), sequences[:, 2:]
    rows = []
    for token in tokens.unique().tolist():
        found = gap[tokens == token]
        rows.append(
            {
                "token": chain.tokens[token],
                "trigger": token in chain.triggers,
                "gap": found.mean().item(),
                "count": len(found),
            }
        )
    return sorted(rows, key=lambda row: -row["count"])


def _mean(values: Tensor, kept: Tensor) -> float:
    return values[kept].double().mean().item()


def _first_to_mean(vectors: Tensor) -> float:
    norms = vectors.norm(dim=-1).double()
    return (norms[:, 0].mean() / norms[:, 1:].mean()).item()


def _first_to_largest(vectors: Tensor) -> float:
    norms = vectors.norm(dim=-1).double()
    return (norms[:, 0] / norms[:, 1:].amax(1)).mean().item()
