"""What feeds the metrics of one attention call, block by block, and hands their numbers over."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from interp.live import RUN
from interp.metrics import Block, Extent, apart
from interp.rows import Call

if TYPE_CHECKING:
    from interp.seam import Passage


def _looks_ahead(call: Call) -> bool:
    """Whether the mask lets a row see later keys, as prefixes of image tokens do in PaliGemma."""
    if call.seen is None:
        return not call.causal and call.query.shape[2] > 1
    return bool(call.seen.triu(call.seen.shape[-1] - call.seen.shape[-2] + 1).any())


def _parts(call: Call) -> tuple[slice, ...]:
    """Stretches of one call that its mask keeps apart, such as several images."""
    if call.seen is None or not call.own_keys:
        return ()
    parts = apart(call.seen.flatten(0, 1).any(0))
    return tuple(parts) if len(parts) > 1 else ()


def collectors(
    passage: "Passage", call: Call
) -> tuple[Callable[[Block], None], Callable[[], None]]:
    """A reader that feeds every metric, and the step that hands their results over."""
    batch, heads, queries, _ = call.query.shape
    place, device, split = passage.place, call.query.device, passage.split
    causal = bool(passage.metrics) and place.causal and not _looks_ahead(call)
    run = RUN.get()
    extent = Extent(
        batch,
        heads,
        queries,
        call.key.shape[2],
        passage.first,
        passage.first_key,
        causal,
        device,
        real=None if call.real is None else call.real[..., 0],
        parts=_parts(call) if passage.metrics and not causal else (),
        prompt=None if run is None else run.prompt,
        stack=place.stack,
        layer=place.layer,
    )
    totals = [(watched, watched.metric.start(extent)) for watched in passage.metrics]

    def read(block: Block) -> None:
        with torch.no_grad():
            for watched, total in totals:
                watched.metric.add(total, block, extent)

    def finish() -> None:
        for watched, total in totals:
            found = watched.metric.finish(total, extent)
            watched.collect(found if split is None else split.gathered(found, 1), place)

    return read, finish
