"""A progress bar, shown where someone looks (a terminal, a notebook) and it takes longer than a moment."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

SHOWN_AFTER = 2.0  # seconds until it appears
Item = TypeVar("Item")


def bar(total: float, what: str, progress: bool | None = None, parts: bool = False) -> Any:
    """`progress` True or False shows it, or does not, wherever that is. `parts`: a share, not a count."""
    from tqdm.auto import tqdm

    done = "{percentage:3.0f}%" if parts else "{n_fmt}/{total_fmt}"
    form = f"{{desc}} {done}|{{bar}}| {{elapsed}} gone, {{remaining}} to go"
    return tqdm(total=max(total, 1e-9), desc=what, delay=SHOWN_AFTER, bar_format=form, leave=False,
                disable=None if progress is None else not progress)  # fmt: skip


def counted(items: Sequence[Item], what: str, progress: bool | None = None) -> Iterator[Item]:
    """The items one by one, under a bar."""
    with bar(len(items), what, progress) as shown:
        for item in items:
            yield item
            shown.update()
