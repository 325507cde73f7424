"""From a user's text, messages, ids and images to the tensors of a forward."""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp.chat import Row, is_messages, row_of
from interp.images import pictures
from interp.prompt import Prompt
from interp.shown import as_image, by_row, check_images, whole, without_text
from interp.structure import counts_padding
from interp.tokens import (
    GENERATING,
    check_fit,
    check_ids,
    first_decoder_ids,
    offsets_of,
    padded,
    token_rows,
)

FIXED = ("prompt", "first", "last", "image")


def encode(
    model: Any,
    text: Any = None,
    images: Any = None,
    spans: dict[str, str | Sequence[str] | Tensor] | None = None,
) -> Prompt:
    """A Prompt of one or more rows.

    `text` is a string, chat messages, token ids, or a list of any of these, a row each; ragged id
    lists are padded, a tensor of ids is taken whole. `images` are PIL images: one, several for one
    row, one a row, or a list for each row. `spans` names texts to find again with `prompt.where`:
    one text for all rows or one each, or a mask [batch, position].
    """
    if model.kind == "audio":
        raise ValueError(
            f"{type(model.hf).__name__} reads audio, which encode does not. "
            "Make the prompt of ready forward inputs: Prompt.from_inputs(model, inputs)."
        )
    ids = token_rows(text)
    if text is None:
        prompt = _of_images(model, images)
    elif ids is not None:
        prompt = _of_ids(model, ids, images)
    else:
        prompt = _of_text(model, text, images)
    prompt.source = {"text": text, "images": images, "spans": spans}
    _name(prompt, spans or {})
    return prompt


def from_inputs(model: Any, inputs: dict[str, Any]) -> Prompt:
    """A prompt of forward inputs that someone else made."""
    inputs = {
        name: value.to(model.device) if isinstance(value, Tensor) else value
        for name, value in inputs.items()
        if value is not None
    }
    ids = inputs.get("input_ids")
    if ids is None:
        return without_text(model, inputs)
    mask = inputs.get("attention_mask", torch.ones_like(ids))
    mask = (mask if mask.shape == ids.shape else torch.ones_like(ids)).bool()
    return Prompt(inputs, mask, ids, spans=_image_span(model, ids), tokenizer=model.tokenizer)


def _of_ids(model: Any, rows: list[list[int]], images: Any) -> Prompt:
    if images is not None:
        raise ValueError(
            "images were given with token ids, whose image tokens may not fit them. Give text with "
            "the images, or Prompt.from_inputs(model, inputs) with all forward inputs."
        )
    check_ids(model, rows)
    return _of_rows(model, {"input_ids": rows}, left=not counts_padding(model.hf))


def _of_rows(model: Any, columns: dict[str, list[list[int]]], left: bool) -> Prompt:
    """Checked rows of ids, padded: on the left where the model generates, and bare ids wherever
    that does not shift their positions."""
    inputs, mask = padded(model, columns, left)
    prompt = from_inputs(model, _ready(model, inputs))
    prompt.mask = mask.to(prompt.mask.device)
    return prompt


def _of_text(model: Any, text: Any, images: Any) -> Prompt:
    _check_reads(model, images)
    texts: list[Any] = (
        list(text) if isinstance(text, list | tuple) and not is_messages(text) else [text]
    )
    wrong = [each for each in texts if not isinstance(each, str) and not is_messages(each)]
    if wrong:
        raise ValueError(
            f"a prompt must be a string, a list of messages or token ids, not "
            f"{type(wrong[0]).__name__}. For several prompts give a list of these."
        )
    shown = by_row(images, len(texts), model.kind == "dual")
    if model.kind == "dual":
        rows = [Row(each, [], []) for each in texts]
    else:
        rows = [row_of(model, each, own) for each, own in zip(texts, shown, strict=True)]
        shown = [row.images for row in rows]
        _check_reads(model, [image for row in shown for image in row] or None)
    if any(shown) and model.kind == "vlm":
        return _seen(model, rows)
    prompt = _read(model, rows)
    if any(shown):  # a text and an image model side by side: no image is in the text
        beside = _of_images(model, [image for row in shown for image in row])
        prompt.inputs |= beside.inputs
        outside = torch.arange(0)
        prompt.images = [[replace(row[0], positions=outside)] for row in beside.images]
    return prompt


def _check_reads(model: Any, images: Any) -> None:
    """Refuse what this model has no way to take in."""
    name = type(model.hf).__name__
    if model.kind == "vision":
        raise ValueError(f"{name} reads images only. Give model.encode(images=image).")
    if images is not None:
        check_images(model)
    if model.tokenizer is None:
        raise ValueError(
            f"text was given to {name}, and there is no tokenizer to read it. Give token ids, a "
            "LongTensor [batch, position] or lists of ints, or interp.wrap(hf_model, tokenizer)."
        )


def _read(model: Any, rows: list[Row]) -> Prompt:
    """Rows without images, through the tokenizer."""
    tokenizer = model.tokenizer
    encoded = [
        tokenizer(
            row.text,
            add_special_tokens=_wants_special(model, row),
            return_offsets_mapping=tokenizer.is_fast,
        )
        for row in rows
    ]
    names = ["input_ids", *(["token_type_ids"] if model.kind == "encoder" else [])]
    columns = {name: [row[name] for row in encoded] for name in names if name in encoded[0]}
    check_ids(model, columns["input_ids"], [row.text for row in rows])
    prompt = _of_rows(model, columns, left=model.kind in GENERATING)
    prompt.texts, prompt.said = [row.text for row in rows], [row.said for row in rows]
    if tokenizer.is_fast:
        prompt.offsets = offsets_of([row["offset_mapping"] for row in encoded], prompt.mask)
    return prompt


def _wants_special(model: Any, row: Row) -> bool:
    """Chat templates write the first token themselves; those of processors not always."""
    if model.kind == "vlm":
        bos = model.tokenizer.bos_token
        return not (bos and row.text.startswith(bos))
    return not row.rendered


def _seen(model: Any, rows: list[Row]) -> Prompt:
    """Rows with images, through the model's own processor."""
    encoded = model.processor(
        text=[row.text for row in rows],
        images=[row.images for row in rows],
        padding=len(rows) > 1,
        padding_side="left",
        add_special_tokens=_wants_special(model, rows[0]),
    ).convert_to_tensors("pt")
    check_fit(model, encoded["input_ids"].shape[1])
    prompt = from_inputs(model, _ready(model, dict(encoded)))
    ids = prompt.inputs["input_ids"]
    prompt.images = pictures(model, prompt.inputs, ids, [row.images for row in rows])
    prompt.texts, prompt.said = [row.text for row in rows], [row.said for row in rows]
    return prompt


def _of_images(model: Any, images: Any) -> Prompt:
    """Images alone, a row each, for a vision tower that stands by itself."""
    if images is None or (isinstance(images, list | tuple) and not images):
        raise ValueError("the prompt is empty. Give text, token ids or images.")
    if model.kind == "vlm":
        return _of_text(model, "", images)
    check_images(model)
    listed = images if isinstance(images, list | tuple) else [images]
    shown = [as_image(image) for image in listed]
    encoded = dict(model.image_processor(shown, return_tensors="pt"))
    prompt = from_inputs(model, _ready(model, encoded))
    prompt.images = [[whole(model, prompt.inputs, image)] for image in shown]
    return prompt


def _ready(model: Any, inputs: dict[str, Any]) -> dict[str, Tensor]:
    """What the forward takes of what a processor gave, in the model's precision.

    Processors give more (labels, token types of a tokenizer's default) and generate refuses it.
    """
    takes = inspect.signature(model.hf.forward).parameters
    known = "input_ids" in takes or "pixel_values" in takes  # else it is a wrapper that hides them
    ready = {
        name: value.to(model.hf.dtype) if value.is_floating_point() else value
        for name, value in inputs.items()
        if isinstance(value, Tensor) and name != "labels" and (name in takes or not known)
    }
    if model.kind == "encoder-decoder":
        # Both forward and generate start from this one token; T5's forward demands it.
        ready["decoder_input_ids"] = first_decoder_ids(model.hf, len(ready["input_ids"]))
    return ready


def _image_span(model: Any, ids: Tensor) -> dict[str, Tensor]:
    token = getattr(model.config, "image_token_id", None)
    mask = ids == token if token is not None else torch.zeros_like(ids).bool()
    return {"image": mask} if bool(mask.any()) else {}


def _name(prompt: Prompt, spans: dict[str, Any]) -> None:
    """Find the user's own spans now, so that a misspelt one is told now."""
    for name, given in spans.items():
        if name in FIXED:
            raise ValueError(f"a span cannot be called {name!r}: that name is taken.")
        if isinstance(given, Tensor):
            if given.shape != prompt.mask.shape:
                raise ValueError(
                    f"the mask of span {name!r} has shape {tuple(given.shape)}; the prompt's is "
                    f"{tuple(prompt.mask.shape)}, batch and position."
                )
            prompt.spans[name] = given.bool().to(prompt.mask.device)
            continue
        parts = [given] * len(prompt) if isinstance(given, str) else list(given)
        if len(parts) != len(prompt):
            raise ValueError(f"span {name!r} has {len(parts)} texts for {len(prompt)} rows.")
        prompt.spans[name] = prompt.locate(parts)
