"""A number (or a row) for every cell: chunk by chunk, with a progress bar, kept when asked."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.progress import bar
from interp.readouts import Readout
from interp.replay.again import Again, shared
from interp.replay.changes import Change
from interp.replay.plan import chunks
from interp.replay.rows import Row
from interp.replay.saved import Saved, digest, of_cells, of_function

if TYPE_CHECKING:
    from interp.replay.running import Replay

CELLS = 8  # in a chunk of whole forwards
HEAD_ROWS = 256  # states unembedded at a time


def measured(
    replay: "Replay",
    cells: Sequence[Sequence[Change]],
    metric: Any,
    budget: float,
    save: str | Path | None,
    progress: bool | None,
    made: dict[str, str] | None = None,
) -> Tensor:
    """[batch, cell] or [batch, cell, k]; a cell without changes has the value of the run."""
    plain = read(metric, replay.logits, replay).cpu()
    found = plain[:, None].repeat(1, len(cells), *[1] * (plain.ndim - 1))
    work = list(work_of(replay, cells, metric, budget))
    saved = None
    if save is not None:
        rule = {**(made or {}), "path": replay.path, "budget": budget, "metric": _name(metric)}
        rule |= {"plain": digest([plain]), "changes": digest(of_cells(cells))}
        saved = Saved(save, rule, len(work))
    with bar(sum(size for _, size, _ in work), "sweep", progress, parts=True) as shown:

        def put(number: int, values: Tensor) -> None:
            places, size, _ = work[number]
            found[places[1], places[0]] = values.to(found)
            shown.update(size)

        left = []
        for number in range(len(work)):
            values = saved.read(number) if saved is not None else None
            left += [number] if values is None else []
            if values is not None:
                put(number, values)
        again = Again.of(replay, cells, metric, budget, plain)
        for number, values in shared(replay.model, left, lambda at: work[at][2](), again):
            if saved is not None:
                saved.write(number, values)
            put(number, values)
    check_numbers(found, cells, plain)
    return found


def check_numbers(found: Tensor, cells: Sequence[Sequence[Change]], plain: Tensor) -> None:
    """A metric that is no number somewhere would poison every mean: say where."""
    if not bool(plain.isfinite().all()):
        raise ValueError(
            f"the metric of the run itself is {plain.flatten().tolist()[:4]}: it has to be a number before "
            "anything is changed."
        )
    bad = found.isnan().flatten(2).any(-1) if found.ndim > 2 else found.isnan()
    if bool(bad.any()):
        row, cell = (int(place) for place in bad.nonzero()[0])
        where = "; ".join(
            f"{one.site} of layer {one.layer} at position {one.places.unique().tolist()}"
            + ("" if one.heads is None else f", head {one.heads.tolist()}")
            for one in cells[cell]
        )
        raise ValueError(f"the metric is NaN in row {row} for the cell {cell} ({where}).")


def work_of(
    replay: "Replay", cells: Sequence[Sequence[Change]], metric: Any, budget: float
) -> Iterator[tuple[tuple[Tensor, Tensor], float, Callable[[], Tensor]]]:
    """Chunks: (cells and rows of the prompt that it fills), how much work it is, and how it is done."""
    batch = len(replay.logits)
    if replay.path == "whole" or replay.kept is None:
        changed = [number for number, cell in enumerate(cells) if cell]
        for start in range(0, len(changed), CELLS):
            own = changed[start : start + CELLS]
            places = (
                torch.tensor(own).repeat_interleave(batch),
                torch.arange(batch).repeat(len(own)),
            )
            yield (
                places,
                float(len(own)),
                _forwards(replay, [cells[number] for number in own], metric),
            )
        return
    by_position = isinstance(metric, Readout) and replay.reads_positions
    total = len(replay.kept.layers)
    every = replay.rows(cells)
    if by_position:  # what differs only behind the position that is read does not reach it
        reads = metric.places(replay.prompt, replay.logits).cpu()
        every = [row for row in every if row.start <= int(reads[row.base])]
    for rows in chunks(replay, every, budget, together=not isinstance(metric, Readout)):
        size = sum((replay.kept.positions - row.start) * (total - row.entry + 0.5) for row in rows)
        if isinstance(metric, Readout):
            places = (
                torch.tensor([row.cell for row in rows]),
                torch.tensor([row.base for row in rows]),
            )
            run = _read_rows if by_position else _read_pooled
            yield places, size, _later(run, replay, rows, metric)
        else:
            own = list(dict.fromkeys(row.cell for row in rows))
            places = (
                torch.tensor(own).repeat_interleave(batch),
                torch.arange(batch).repeat(len(own)),
            )
            yield places, size, _later(_call_cells, replay, rows, metric)


def _later(run: Callable[..., Tensor], *arguments: Any) -> Callable[[], Tensor]:
    return lambda: run(*arguments)


def _forwards(
    replay: "Replay", cells: Sequence[Sequence[Change]], metric: Any
) -> Callable[[], Tensor]:
    @torch.no_grad()
    def run() -> Tensor:
        return torch.cat([read(metric, replay.whole(cell), replay) for cell in cells])

    return run


def _read_rows(replay: "Replay", rows: Sequence[Row], metric: Readout) -> Tensor:
    """Only the read positions are run through the last layer, and unembedded."""
    reads = metric.places(replay.prompt, replay.logits).cpu()
    columns = replay.columns(metric)
    bases = torch.tensor([row.base for row in rows])
    states = replay.states(rows, reads)
    found = []
    for start in range(0, len(rows), HEAD_ROWS):
        own = slice(start, start + HEAD_ROWS)
        logits = replay.head_tokens(states[own], columns)
        if columns is None and metric.columns() is not None:
            logits = logits[:, metric.columns()]
        found.append(metric.of(logits.float(), bases[own]))
    return torch.cat(found)


def _read_pooled(replay: "Replay", rows: Sequence[Row], metric: Readout) -> Tensor:
    """Models whose logits are of all positions together, or are made of several."""
    bases = torch.tensor([row.base for row in rows])
    states = replay.states(rows, None)
    logits = torch.cat([replay.head_rows(states[at : at + CELLS], bases[at : at + CELLS])
                        for at in range(0, len(rows), CELLS)])  # fmt: skip
    if logits.ndim == 3:
        places = metric.places(replay.prompt, replay.logits).cpu()
        logits = logits[torch.arange(len(rows)), places[bases]]
    columns = metric.columns()
    return metric.of((logits if columns is None else logits[:, columns]).float(), bases)


def _call_cells(replay: "Replay", rows: Sequence[Row], metric: Any) -> Tensor:
    """A function of whole logits, called for each cell with the run's batch."""
    states = replay.states(rows, None)
    found: dict[int, Tensor] = {}
    for cell in dict.fromkeys(row.cell for row in rows):
        logits = replay.logits.clone()  # of rows that the cell does not change, the run's
        own = [number for number, row in enumerate(rows) if row.cell == cell]
        bases = torch.tensor([rows[number].base for number in own])
        logits[bases] = replay.head_rows(states[own], bases).to(logits)
        found[cell] = read(metric, logits, replay)
    return torch.cat(list(found.values()))


def read(metric: Any, logits: Tensor, replay: "Replay") -> Tensor:
    """The metric of one batch, checked: a number or a row for each example."""
    # A function gets a copy: what it does in place must not reach the run that is kept.
    own = isinstance(metric, Readout)
    value = metric(logits, replay.prompt) if own else metric(logits.clone())
    if not isinstance(value, Tensor):
        raise TypeError(
            f"the metric gave {type(value).__name__}; it has to give a tensor [batch] or [batch, k]."
        )
    if value.ndim not in (1, 2) or len(value) != len(logits):
        raise ValueError(
            f"the metric gave {tuple(value.shape)} for {len(logits)} rows; it has to give one number or "
            "one row for each: [batch] or [batch, k]."
        )
    return value.detach().float()


def _name(metric: Any) -> str:
    if isinstance(metric, Readout):
        return digest([type(metric).__name__, *vars(metric).values()])
    return digest(of_function(metric))
