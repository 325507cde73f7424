"""Which rows are run together: as many tokens as are fast and fit into the budget."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from interp.replay.rows import Row

if TYPE_CHECKING:
    from interp.replay.running import Replay

# Tokens in one call of a layer: enough for fast products, few enough to stay near the cache.
TOKENS = 1024
FLOAT = 4


def chunks(replay: "Replay", rows: Sequence[Row], budget: float, together: bool) -> list[list[Row]]:
    """Rows in order of where they enter; `together`: the rows of a cell stay in one chunk."""
    cost = Cost(replay)
    free = budget - cost.held
    ordered = sorted(rows, key=lambda row: (row.entry, row.start, row.cell, row.base))
    groups = [[row] for row in ordered]
    if together:
        by_cell: dict[int, list[Row]] = {}
        for row in ordered:
            by_cell.setdefault(row.cell, []).append(row)
        groups = list(by_cell.values())
    found: list[list[Row]] = []
    tokens = used = 0.0
    for group in groups:
        need = sum(cost.of(row) for row in group)
        size = sum(cost.positions - row.start for row in group)
        if need > free:
            raise ValueError(
                f"one {'cell' if together else 'row'} takes about {(need + cost.held) / 1e6:,.0f} MB (of "
                f"these {cost.held / 1e6:,.0f} MB for the run that is kept), and budget= allows "
                f"{budget / 1e6:,.0f} MB; give budget={(need + cost.held) * 1.2:.2g} or more, or shorter or "
                "fewer prompts."
            )
        if not found or tokens + size > TOKENS or used + need > free:
            found.append([])
            tokens = used = 0.0
        found[-1] += group
        tokens, used = tokens + size, used + need
    return found


class Cost:
    """Bytes that rows take while they run: an estimate from the model's widths."""

    def __init__(self, replay: "Replay"):
        kept = replay.kept
        assert kept is not None
        self.positions = kept.positions
        self.held = kept.bytes() + replay.logits.numel() * FLOAT
        size = kept.stream[0].element_size()
        width = kept.stream[0].shape[-1]
        inner = max((_widest(call.module) for call in kept.layers), default=width)
        call = next(iter(kept.attended.values())).call
        shared = call.key.shape[1] * (call.key.shape[3] + call.value.shape[3])
        heads = replay.stack.heads * call.key.shape[3]
        self.token = size * (6 * width + 4 * inner + 3 * heads)
        self.row = size * kept.positions * 2 * (shared + heads)

    def of(self, row: Row) -> float:
        return self.token * (self.positions - row.start) + self.row


def _widest(layer: Any) -> int:
    """The widest thing that a layer makes of a token."""
    sizes = [1]
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            sizes.append(module.out_features)
        elif hasattr(module, "nf") and hasattr(module, "weight"):  # transformers' Conv1D
            sizes.append(int(module.nf))
    return max(sizes)
