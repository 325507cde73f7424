"""Where every head of one text or image looks: what a reader needs to see it again without the model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from analyses import analysis
from analyses.attention.top import Top
from interp.batches import as_task
from interp.metrics import METRICS
from interp.prompt import Prompt
from interp.result import Result

if TYPE_CHECKING:
    from interp.images import Region
    from interp.model import Model
    from interp.trace import Trace

NEXT = 10  # tokens or classes that are listed
SIDE = 512  # pixels of the image's longer side that are kept


@analysis(alone="it reads one text, in a forward or two")
def attention(
    model: "Model",
    task: Any,
    *,
    record: int = 0,
    stack: str | None = None,
    layers: Sequence[int] | None = None,
    whole: int = 128,
    cells: int = 64,
    top: int = 32,
) -> Result:
    """Where each head looks in one text or image: its map, or what is left of a map that is too large.

    `task` is a Task, of which `record` is read, a text, or a Prompt of one row. `stack` is "text" where
    there is one, or "vision", "encoder", "decoder". Up to `whole` tokens every map is kept as it is. Of
    longer ones are kept the `top` keys of each query, exactly, and a map of `cells` x `cells` stretches:
    the share of the row stretch's attention that goes to the column stretch. Both are reduced while they
    stream.

    The table, a row a head, has means over queries: `entropy` (nats), `first`, attention on the first
    position, `distance` in tokens where queries and keys are one text, and `image`, attention on the image's
    tokens where there are any. Tables: `tokens`, and `next`, the most probable tokens (or classes) that
    follow. Tensors: `maps` [layer, head, row, column], of long ones `keys` and `shares` [layer, head, query,
    rank], `image` [height, width, 3].
    """
    import pandas

    prompt = _prompt(model, task, record)
    stack = stack or next(iter(model.stacks))
    keep = ["entropy", "received"] + ([] if stack == "cross" else ["distance"])
    with torch.no_grad():
        seen = model.trace(prompt, keep=keep, stack=stack, layers=layers)
        own = list(seen.layers("entropy"))
        size = seen["received", own[0]].shape[-1]
        tensors = _maps(model, prompt, stack, own, size, (whole, cells, top))
    spans = _image_keys(prompt, stack, size)
    rows = [_head(seen, layer, head, spans) for layer in own for head in range(_heads(seen, layer))]
    tokens = _tokens(model, prompt, stack, size)
    tables = {
        "tokens": pandas.DataFrame({"position": range(size), "token": tokens, "image": spans})
    }
    following = _next(model, seen, prompt)
    if following:
        tables["next"] = pandas.DataFrame(following)
    regions, pixels = _shown(prompt, stack)
    if pixels is not None:
        tensors["image"] = torch.from_numpy(pixels)
    made = {
        "stack": stack,
        "layers": own,
        "tokens": size,
        "regions": regions,
        "text": _text(prompt),
    }
    notes = _notes(size, whole, cells, top, seen)
    return Result("attention", pandas.DataFrame(rows), tables, tensors, notes, made)


def _prompt(model: "Model", task: Any, record: int) -> Prompt:
    if isinstance(task, Prompt):
        if len(task) != 1:
            raise ValueError(f"attention reads one text, and this prompt has {len(task)} rows.")
        return task
    records = as_task(task, "attention")
    if not 0 <= record < len(records):
        raise IndexError(f"record={record}: the task has records 0 to {len(records) - 1}.")
    return records[record : record + 1].encode(model)


def _maps(
    model: "Model",
    prompt: Prompt,
    stack: str,
    layers: list[int],
    size: int,
    kept: tuple[int, int, int],
) -> dict[str, Tensor]:
    """Whole maps, or their stretches and the keys that each query looks at most."""
    whole, cells, top = kept
    if size <= whole:
        maps = model.trace(prompt, "pattern", stack=stack, layers=layers)
        return {"maps": torch.stack([maps["pattern", layer][0].float().cpu() for layer in layers])}
    length = -(-size // cells)
    starts = tuple(range(0, size, length))
    metrics = {"chunks": METRICS["chunks"](starts=starts), "top": Top(count=top)}
    found = model.trace(prompt, keep=metrics, stack=stack, layers=layers)
    widths = torch.tensor(np.diff([*starts, size]), dtype=torch.float32)
    maps = torch.stack([found["chunks", layer][0].float().cpu() for layer in layers]) * widths
    most = torch.stack([found["top", layer][0].float().cpu() for layer in layers])
    return {"maps": maps, "keys": most[..., 0].int(), "shares": most[..., 1].contiguous()}


def _heads(seen: "Trace", layer: int) -> int:
    return seen["entropy", layer].shape[1]


def _head(seen: "Trace", layer: int, head: int, image: list[bool]) -> dict[str, Any]:
    received = seen["received", layer][0, head].float().cpu()
    queries = max(float(received.sum()), 1.0)
    row = {"layer": layer, "head": head}
    row |= {"entropy": float(seen["entropy", layer][0, head].mean())}
    row |= {"first": float(received[0]) / queries}
    if seen.layers("distance"):
        row["distance"] = float(seen["distance", layer][0, head].mean())
    if any(image):
        row["image"] = float(received[torch.tensor(image)].sum()) / queries
    return row


def _image_keys(prompt: Prompt, stack: str, size: int) -> list[bool]:
    """Which keys are an image's; all but class tokens where an image is all there is."""
    if stack in ("text", "encoder") and "image" in prompt.names:
        return prompt.where("image")[0].tolist()
    own = [False] * size
    if stack == "vision" and prompt.ids is None and prompt.images and prompt.images[0][0].regions:
        for region in prompt.images[0][0].regions:
            for key in region.index.flatten().tolist():
                own[key] = True
    return own


def _tokens(model: "Model", prompt: Prompt, stack: str, size: int) -> list[str]:
    """The prompt's tokens where they are what is read; numbers of positions elsewhere."""
    tokens = prompt.tokens[0] if stack in ("text", "encoder") or prompt.ids is None else []
    return list(tokens) if len(tokens) == size else [str(position) for position in range(size)]


def _next(model: "Model", seen: "Trace", prompt: Prompt) -> list[dict[str, Any]]:
    """What follows, most probable first; nothing where the output is not over tokens or classes."""
    if model.kind == "vision":
        names = getattr(model.config, "id2label", None) or {}
        logits = seen.logits[0] if seen.logits.ndim == 2 else None
    else:
        logits = seen.logits[0, -1] if seen.logits.ndim == 3 and model.tokenizer else None
        names = {}
    if logits is None or (model.kind == "vision" and len(logits) != len(names)):
        return []
    likely = torch.softmax(logits.float(), -1).topk(min(NEXT, len(logits)))
    rows = zip(likely.indices.tolist(), likely.values.tolist(), strict=True)
    spell = names.__getitem__ if names else lambda index: model.tokenizer.decode([index])
    return [{"token": spell(index), "probability": share} for index, share in rows]


def _shown(prompt: Prompt, stack: str) -> tuple[list[dict[str, Any]], "np.ndarray | None"]:
    """The one image under its patches, where this stack's keys are laid over it."""
    laid = stack in ("text", "encoder") or (stack == "vision" and prompt.ids is None)
    if not prompt.images or not prompt.images[0] or not laid:
        return [], None
    picture = prompt.images[0][0]
    if picture.image is None or not picture.regions:
        return [], None
    image = picture.image.copy()
    image.thumbnail((SIDE, SIDE))
    return [_region(region) for region in picture.regions], np.asarray(image.convert("RGB")).copy()


def _region(region: "Region") -> dict[str, Any]:
    return {"grid": list(region.grid), "index": region.index.tolist(), "box": list(region.box)}


def _text(prompt: Prompt) -> str:
    return prompt.text[0] if prompt.ids is not None else ""


def _notes(size: int, whole: int, cells: int, top: int, seen: "Trace") -> list[str]:
    if size <= whole:
        return []
    kept = min(top, size)
    return [
        f"{size} tokens: maps show stretches of {-(-size // cells)} tokens, and of each query its {kept} "
        "largest shares are kept; both are exact."
    ]
