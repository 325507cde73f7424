"""The same prompt again, on other images or with other words, encoded as it was."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from interp.chat import is_messages, placeholder
from interp.prompt import Prompt

if TYPE_CHECKING:
    from PIL.Image import Image

    from interp.model import Model

Words = Callable[[str], str]


def check_source(prompt: Prompt, who: str) -> None:
    """Refuse a prompt that nobody knows how to make again."""
    if not prompt.source or not prompt.images or not any(prompt.images):
        raise ValueError(
            f"{who} asks again with another image, and this prompt was made from ready inputs, or has a "
            "response in it. Make it with model.encode(text, images=...)."
        )


def images_of(prompt: Prompt) -> list[list["Image"]]:
    """The images of each row, as they were given."""
    return [[picture.image for picture in row] for row in prompt.images]


def again(
    model: "Model",
    prompt: Prompt,
    images: Sequence[Sequence["Image"]],
    words: Words | None = None,
    alone: bool = False,
) -> Prompt:
    """The prompt with these images in each row, and its question as `words` makes it.

    `alone`: what else the asking message says is left out.
    """
    rows = _rows(prompt)
    counts = [len(row) for row in prompt.images]
    texts = [
        _text(model, row, len(own), count, _asked(prompt, order), words, alone)
        for order, (row, own, count) in enumerate(zip(rows, images, counts, strict=True))
    ]
    spans = prompt.source.get("spans") if words is None else None
    made = model.encode(texts, images=[list(own) for own in images], spans=spans)
    if words is None:
        made.said = prompt.said
        if prompt.ids is not None and made.ids is not None and torch.equal(prompt.ids, made.ids):
            made.spans = {**prompt.spans, **made.spans}
    return made


def _rows(prompt: Prompt) -> list[Any]:
    text: Any = prompt.source.get("text")
    if isinstance(text, (list, tuple)) and not is_messages(text):
        return list(text)
    return ["" if text is None else text]


def _asked(prompt: Prompt, row: int) -> str | None:
    """The user's own span "question", where what asks is only a part of the text."""
    given = (prompt.source.get("spans") or {}).get("question")
    if isinstance(given, str) or given is None or hasattr(given, "shape"):
        return given if isinstance(given, str) else None
    return given[row]


def _text(
    model: "Model",
    row: Any,
    shown: int,
    before: int,
    asked: str | None,
    words: Words | None,
    alone: bool,
) -> Any:
    """One row's text or messages, with places for as many images as are shown."""
    if is_messages(row):
        return _messages(row, shown // max(1, before), asked, words, alone)
    mark = placeholder(model)
    if mark and mark in row and shown != before:
        raise ValueError(
            f"the text has {before} places {mark!r} of its own, and {shown} images are shown: leave them out "
            "of the text, and encode puts them there."
        )
    if words is None:
        return row
    if asked is not None:
        return row.replace(asked, words(asked), 1)
    if not mark or mark not in row:
        return words(row)
    parts = row.split(mark)
    last = max(order for order, part in enumerate(parts) if part.strip() or order == 0)
    bare = parts[last].strip()
    parts[last] = parts[last].replace(bare, words(bare), 1) if bare else words("")
    return mark.join(parts)


def _messages(
    messages: list[dict[str, Any]], each: int, asked: str | None, words: Words | None, alone: bool
) -> list[dict[str, Any]]:
    """Copies with `each` places for every image, the last user's words changed."""
    user = max((n for n, message in enumerate(messages) if message["role"] == "user"), default=-1)
    copies = []
    for order, message in enumerate(messages):
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        own: list[dict[str, Any]] = []
        for part in parts:
            own += [{"type": "image"}] * each if part["type"] == "image" else [dict(part)]
        if order == user and words is not None:
            own = _said(own, asked, words, alone)
        bare = isinstance(content, str)
        copies.append({**message, "content": own[0]["text"] if bare else own})
    return copies


def _said(
    parts: list[dict[str, Any]], asked: str | None, words: Words, alone: bool
) -> list[dict[str, Any]]:
    texts = [order for order, part in enumerate(parts) if part["type"] == "text"]
    if not texts:
        return [*parts, {"type": "text", "text": words("")}]
    if asked is not None:
        for order in texts:
            parts[order]["text"] = parts[order]["text"].replace(asked, words(asked), 1)
        return parts
    parts[texts[-1]]["text"] = words(parts[texts[-1]]["text"])
    return [part for n, part in enumerate(parts) if not alone or n not in texts[:-1]]
