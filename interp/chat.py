"""Plain text and chat messages, with their images, as rows ready for a processor."""

import re
from dataclasses import dataclass
from typing import Any

from interp.prompt import Said
from interp.shown import as_image
from interp.spelling import places

# Stand for a message's text while its place in the template is found out; no text holds them.
OPEN, CLOSE = "\ue000", "\ue001"


@dataclass(frozen=True)
class Row:
    """One prompt: its text with a placeholder for each image, the images, and who said what."""

    text: str
    images: list[Any]
    said: list[Said]
    rendered: bool = False  # by a chat template, which writes the special tokens too


def is_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def placeholder(model: Any) -> str | None:
    """What stands for one image in a text, if the processor reads such a thing."""
    processor = model.processor
    # BLIP-2's processor puts its image tokens in front of the text by itself.
    if not _is_multimodal(model) or hasattr(processor, "num_query_tokens"):
        return None
    # Gemma 3 reads one token in the text and writes others.
    return getattr(processor, "boi_token", None) or getattr(processor, "image_token", None)


def _is_multimodal(model: Any) -> bool:
    """Whether texts go through a processor that places images in them."""
    return model.kind == "vlm" and hasattr(model.processor, "image_processor")


def row_of(model: Any, text: str | list[dict[str, Any]], images: list[Any]) -> Row:
    """One prompt's text or messages and its images, made ready."""
    if not isinstance(text, str):
        row = _from_messages(model, text, images)
    elif _is_multimodal(model):
        row = _from_question(model, text, images)
    else:
        row = Row(text, images, [])
    mark = placeholder(model)
    marks = row.text.count(mark) if mark else len(row.images)
    if marks != len(row.images):
        raise ValueError(
            f"{marks} image placeholders {mark!r} in the text and {len(row.images)} images given. "
            "Give one image for each placeholder, or leave the placeholders out of the text."
        )
    return row


def _from_question(model: Any, text: str, images: list[Any]) -> Row:
    """Text for a vision-language model: as it is, in its chat template, or after its images."""
    mark = placeholder(model)
    if mark and mark in text:
        return Row(text, images, _said(("question",), text, text, 0, mark))
    if getattr(model.processor, "chat_template", None):
        content: list[dict[str, Any]] = [{"type": "image"} for _ in images]
        content += [{"type": "text", "text": text}] if text else []
        message = {"role": "user", "content": content}
        return _from_messages(model, [message], images)
    full = (_around(model, mark) * len(images) if mark else "") + text
    return Row(full, images, _said(("question",), text, full, len(full) - len(text), mark))


def _around(model: Any, mark: str) -> str:
    """The placeholder between the tokens that say where an image starts and ends (Qwen-VL)."""
    edges = [getattr(model.config, f"vision_{edge}_token_id", None) for edge in ("start", "end")]
    if None in edges or model.tokenizer is None:
        return mark
    start, end = model.tokenizer.convert_ids_to_tokens(edges)
    return f"{start}{mark}{end}" if start and end else mark


def _from_messages(model: Any, messages: list[dict[str, Any]], images: list[Any]) -> Row:
    parts = _is_multimodal(model) and bool(getattr(model.processor, "chat_template", None))
    messages, inside = _contents(messages, parts)
    if inside and images:
        raise ValueError(
            f"{len(inside)} images in the messages and {len(images)} in images=. Put them all in "
            'the messages, or leave {"type": "image"} there and give them all in images=.'
        )
    if images and parts and not any(_shows(message) for message in messages):
        first = next((each for each in messages if each["role"] == "user"), messages[0])
        first["content"] = [{"type": "image"} for _ in images] + first["content"]
    text = _render(model, messages)
    return Row(text, inside or images, _spoken(model, messages, text), rendered=True)


def _contents(
    messages: list[dict[str, Any]], parts: bool
) -> tuple[list[dict[str, Any]], list[Any]]:
    """Copies of messages with their images taken out, and the images.

    Templates of vision-language models want content in `parts`, those of language models a string.
    """
    copies, images = [], []
    for message in messages:
        if not {"role", "content"} <= message.keys():
            raise ValueError(f"a message needs a 'role' and a 'content'; got {sorted(message)}.")
        content = message["content"]
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        images += [part["image"] for part in content if part.get("image") is not None]
        content = [{"type": "image"} if part["type"] == "image" else dict(part) for part in content]
        whole = "".join(part.get("text", "") for part in content)
        copies.append({**message, "content": content if parts else whole})
    return copies, [as_image(image) for image in images]


def _shows(message: dict[str, Any]) -> bool:
    return any(part["type"] == "image" for part in message["content"])


def _render(model: Any, messages: list[dict[str, Any]]) -> str:
    """The template's text; an assistant's last message is left open, to be gone on with."""
    speakers = [model.processor, model.tokenizer]
    speaker = next((each for each in speakers if getattr(each, "chat_template", None)), None)
    if speaker is None:
        raise ValueError(
            f"messages need a chat template, and the tokenizer of {type(model.hf).__name__} has "
            "none. Give plain text, or set model.tokenizer.chat_template."
        )
    answering = messages[-1]["role"] == "assistant"
    return speaker.apply_chat_template(
        messages,
        tokenize=False,
        add_generation_prompt=not answering,
        continue_final_message=answering,
    )


def _spoken(model: Any, messages: list[dict[str, Any]], text: str) -> list[Said]:
    """Where each message's text stands in the rendered text.

    The messages are rendered again with marks for their texts: what is between the marks is the
    template's own, and its lengths give the places.
    """
    parts: list[tuple[int, str]] = []
    marked = [_marked(message, order, parts) for order, message in enumerate(messages)]
    between = re.split(f"{OPEN}(\\d+){CLOSE}", _render(model, marked))
    asked = max((o for o, message in enumerate(messages) if message["role"] == "user"), default=-1)
    said, at = [], 0
    for glue, number, after in zip(between[::2], between[1::2], between[2::2], strict=False):
        order, part = parts[int(number)]
        at += len(glue)
        end = _end(text, at, part, after)
        role = messages[order]["role"]
        names = (role, "question") if order == asked else (role,)
        said += _said(names, text[at:end], text, at, placeholder(model))
        at = end
    return said


def _end(text: str, at: int, part: str, after: str) -> int:
    """Where a message's text ends in the rendered text; a template may have cut or trimmed it."""
    for whole in (part, part.strip()):
        if text.startswith(whole + after, at):
            return at + len(whole)
    end = text.find(after, at) if after else -1
    return end if end >= 0 else len(text)


def _marked(message: dict[str, Any], order: int, parts: list[tuple[int, str]]) -> dict[str, Any]:
    """The message with numbers for its texts, which are added to `parts`."""

    def number(text: str) -> str:
        if not text.strip():
            return text
        parts.append((order, text))
        return f"{OPEN}{len(parts) - 1}{CLOSE}"

    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": number(content)}
    shown = [
        {**part, "text": number(part["text"])} if part["type"] == "text" else part
        for part in content
    ]
    return {**message, "content": shown}


def _said(names: tuple[str, ...], part: str, text: str, at: int, mark: str | None) -> list[Said]:
    """`part`, which stands in `text` from `at`, without the image placeholders inside it."""
    said = []
    for piece in part.split(mark) if mark else [part]:
        bare = piece.strip()
        start = text.find(bare, at)
        if bare and start >= 0:
            said.append(Said(names, bare, places(text, bare).index(start)))
            at = start + len(bare)
    return said
