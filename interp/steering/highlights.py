"""What a user wants to be looked at: names of spans or exact texts, as masks over the prompt."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from interp.prompt import Prompt
from interp.steering.spans import asked, from_last

# Names that tasks give to parts of a prompt: as words of a text they would be found by chance.
ROLES = ("answer", "context", "image", "instruction", "key", "question", "response", "subject")


def check_texts(who: str, name: str, value: Any, several: bool = True, none: bool = False) -> None:
    """A name or text, or several; `none`: whether there may be none."""
    texts = [value] if isinstance(value, str) else value
    listed = several and isinstance(texts, (list, tuple))
    if not (isinstance(value, str) or listed) or any(not isinstance(one, str) for one in texts):
        many = ", or several" if several else ""
        raise TypeError(f"{who}({name}={value!r}): the name of a span or an exact text{many}.")
    if any(not one.strip() for one in texts) or not (texts or none):
        raise ValueError(f"{who}({name}={value!r}): {name} names nothing.")


def spans_of(prompt: Prompt, given: str | Sequence[str]) -> list[Tensor]:
    """A mask [row, position] for each name or text, of what is asked: an answer in it stays out."""
    own = asked(prompt)
    last = from_last(prompt) & own  # of the prompt that was asked, though an answer follows
    names = [given] if isinstance(given, str) else given
    known = prompt.names
    for name in names:
        if name in ROLES and name not in known:
            raise LookupError(
                f"the prompt has no span {name!r}, and a word of that name is hardly meant. Give the text "
                f"itself, or the span: model.encode(text, spans={{{name!r}: its text}}), in a Prompt (ready "
                f"inputs carry no spans). Names are: {', '.join(known)}."
            )
    return [last if name == "last" else prompt.where(name) & own for name in names]


def union(prompt: Prompt, spans: Sequence[Tensor]) -> Tensor:
    found = prompt.mask & False
    for span in spans:
        found = found | span
    return found


def check_lit(who: str, lit: Tensor, given: Any) -> None:
    """Every row has something of what was named."""
    empty = ~lit.any(1)
    if bool(empty.any()):
        raise LookupError(
            f"{who}: row {int(empty.nonzero()[0])} has nothing of {given!r} in what is asked. Give each row "
            "such a span, model.encode(texts, spans={'key': [one text a row]}), or leave that row out."
        )


def check_left(who: str, prompt: Prompt, lit: Tensor) -> None:
    """Every row has something else, too."""
    full = ~(asked(prompt) & ~lit).any(1)
    if bool(full.any()):
        raise ValueError(
            f"{who}: the highlight, with what is spared, is all of row {int(full.nonzero()[0])}, so nothing "
            "is left to look away from; highlight a part of it."
        )
