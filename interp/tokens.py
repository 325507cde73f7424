"""Rows of token ids: read from what a user gives, checked against the model, padded."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

GENERATING = ("text", "vlm")
_POSITIONS = "position_embeddings"


def token_rows(given: Any) -> list[list[int]] | None:
    """Ids as one list a row, from a tensor, an array or (lists of) lists; None if it is no ids."""
    if hasattr(given, "dtype") and hasattr(given, "tolist"):
        return _tensor_rows(torch.as_tensor(given))
    if not isinstance(given, list | tuple):
        return None
    if not given:
        raise ValueError(f"the prompt {given!r} is empty. Give at least one token.")
    if isinstance(given[0], str | dict):
        return None
    if all(isinstance(each, int) for each in given):
        return [list(given)]
    if any(isinstance(each, float) for each in given):
        raise ValueError("token ids must be integers, not float. Give ints.")
    rows = [token_rows(each) for each in given]
    return None if any(row is None for row in rows) else [row[0] for row in rows if row]


def _tensor_rows(ids: Tensor) -> list[list[int]]:
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(
            f"token ids must be integers, not {ids.dtype}. Give a LongTensor, ids.long() if the "
            "values are whole."
        )
    if ids.dim() not in (1, 2):
        raise ValueError(
            f"token ids of shape {tuple(ids.shape)}: give [batch, position], or [position] for one "
            "prompt."
        )
    if ids.numel() == 0:
        raise ValueError(f"the prompt is empty: ids of shape {tuple(ids.shape)}. Give a token.")
    return (ids if ids.dim() == 2 else ids[None]).tolist()


def check_ids(model: Any, rows: list[list[int]], texts: list[str] | None = None) -> None:
    """Refuse rows that are empty, too long, or out of the vocabulary."""
    if not all(rows):
        empty = next(order for order, row in enumerate(rows) if not row)
        what = f"{texts[empty]!r} gives no tokens" if texts else f"row {empty} has no ids"
        raise ValueError(f"the prompt is empty: {what}. Give at least one token.")
    size = vocabulary(model)
    image = getattr(model.config, "image_token_id", None)
    wrong = [token for row in rows for token in row if not 0 <= token < size and token != image]
    if wrong:
        raise ValueError(
            f"token id {wrong[0]} is outside the vocabulary of {type(model.hf).__name__}, 0 to "
            f"{size - 1}. Were these ids made by another model's tokenizer?"
        )
    check_fit(model, max(len(row) for row in rows))


def vocabulary(model: Any) -> int:
    """How many tokens can be embedded, which may be more than the config's vocabulary."""
    size = getattr(model.config.get_text_config(), "vocab_size", 0) or 0
    return max(size, getattr(embeddings(model), "num_embeddings", 0))


def embeddings(model: Any) -> Any:
    """The module that makes vectors of token ids; None for a model that has no single one (two towers)."""
    try:
        return model.hf.get_input_embeddings()
    except NotImplementedError:  # how transformers says that there is none
        return None


def check_fit(model: Any, length: int) -> None:
    """Refuse a prompt longer than the model has positions; relative positions have no end."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not limit or limit < 0:
        return
    if model.kind == "encoder":
        # RoBERTa and its kin count positions from after the padding id.
        tables = [part for name, part in model.hf.named_modules() if name.endswith(_POSITIONS)]
        padding = [getattr(table, "padding_idx", None) for table in tables]
        limit -= max((1 + index for index in padding if index is not None), default=0)
    if length > limit:
        raise ValueError(
            f"the prompt has {length} tokens, and {type(model.hf).__name__} has positions for "
            f"{limit}. Shorten it."
        )


def padded(
    model: Any, columns: dict[str, list[list[int]]], left: bool
) -> tuple[dict[str, Tensor], Tensor]:
    """Rows as tensors, padded on one side, and where they are real.

    A model whose tokenizer makes no mask (SigLIP) attends to padding, and was trained on rows of
    full length: it is given these.
    """
    masked = model.tokenizer is None or "attention_mask" in model.tokenizer.model_input_names
    left = left and masked
    length = max(len(row) for row in columns["input_ids"])
    if not masked:
        length = model.config.get_text_config().max_position_embeddings
    filler = {"input_ids": pad_id(model)}

    def fill(name: str, row: list[int]) -> list[int]:
        more = [filler.get(name, 0)] * (length - len(row))
        return more + row if left else row + more

    columns = {**columns, "attention_mask": [[1] * len(row) for row in columns["input_ids"]]}
    tensors = {
        name: torch.tensor([fill(name, row) for row in rows]) for name, rows in columns.items()
    }
    mask = tensors["attention_mask"].bool()
    return {
        name: each for name, each in tensors.items() if masked or name != "attention_mask"
    }, mask


def pad_id(model: Any) -> int:
    """The id that fills: any will do, since it is masked, but it has to have an embedding."""
    config = model.config.get_text_config()
    eos = getattr(config, "eos_token_id", None)
    asked = [
        getattr(model.tokenizer, "pad_token_id", None),
        getattr(config, "pad_token_id", None),
        eos[0] if isinstance(eos, list) else eos,
    ]
    size = vocabulary(model)
    return next((token for token in asked if token is not None and 0 <= token < size), 0)


def offsets_of(
    encoded: Sequence[Sequence[tuple[int, int]]], mask: Tensor
) -> list[list[tuple[int, int]]]:
    """A tokenizer's places in the text, with padding put where the mask has it."""
    rows = []
    for own, real in zip(encoded, mask.tolist(), strict=True):
        left = iter(own)
        rows.append([tuple(next(left, (0, 0))) if token else (0, 0) for token in real])
    return rows


def first_decoder_ids(hf: Any, rows: int) -> Tensor:
    """The one token that a decoder starts from, a row each."""
    start = getattr(hf.config, "decoder_start_token_id", None)
    if start is None:
        start = getattr(hf.generation_config, "decoder_start_token_id", None)
    return torch.full((rows, 1), start or 0, device=hf.device)
