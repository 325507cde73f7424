"""A progress bar, shown where someone looks (a terminal, a notebook) and it takes longer than a moment."""

from typing import Any

SHOWN_AFTER = 2.0  # seconds until it appears


def bar(total: float, what: str, progress: bool | None = None, parts: bool = False) -> Any:
    """`progress` True or False shows it, or does not, wherever that is. `parts`: a share, not a count."""
    from tqdm.auto import tqdm

    done = "{percentage:3.0f}%" if parts else "{n_fmt}/{total_fmt}"
    form = f"{{desc}} {done}|{{bar}}| {{elapsed}} gone, {{remaining}} to go"
    return tqdm(total=max(total, 1e-9), desc=what, delay=SHOWN_AFTER, bar_format=form, leave=False,
                disable=None if progress is None else not progress)  # fmt: skip
