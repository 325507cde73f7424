"""Places that records of different wording share: spans by name, and whatever is in none of them."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from interp.pairs import Pair

LAST, REST = "last", "rest"


def names_of(pairs: Sequence[Pair], asked: Sequence[str] | None) -> list[str]:
    """The spans to patch, "rest" aside: those asked for, or the task's, the image's and the last token."""
    if asked is not None:
        named = [asked] if isinstance(asked, str) else list(asked)
        if not named or len(set(named)) < len(named):
            raise ValueError(f"spans={named}: name each once, and one at least.")
        return [name for name in named if name != REST]
    own = [name for pair in pairs for record in pair.records for name in record.spans]
    image = [name for pair in pairs for name in pair.clean.names if name == "image"]
    return list(dict.fromkeys([*image, *own, LAST]))


def spans_of(pairs: Sequence[Pair]) -> set[str]:
    """Names that some record of the task, or some batch's prompt, has for a span."""
    named = {name for pair in pairs for record in pair.records for name in record.spans}
    return named | {name for pair in pairs for name in pair.clean.names}


def masks_of(
    pair: Pair, names: Sequence[str], rest: bool, known: Collection[str]
) -> dict[str, Tensor]:
    """[record, position] by name. A span that a record does not have is empty there."""
    found = {name: _mask(pair, name, known) for name in names}
    if rest:
        own = pair.clean.mask.cpu()
        taken = [torch.zeros_like(own), *found.values()]
        found[REST] = own & ~torch.stack(taken).any(0)
    return found


def _mask(pair: Pair, name: str, known: Collection[str]) -> Tensor:
    """What other records have and none of this batch does is nowhere; any other name has to be found."""
    try:
        return pair.clean.where(name).cpu()
    except LookupError:
        if name not in known:
            raise
        return torch.zeros_like(pair.clean.mask).cpu()
