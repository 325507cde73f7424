"""Which heads of demo-vlm hold its answers, where they look, and how large its image tokens are."""

from itertools import combinations

import torch
from torch import Tensor

from interp import Hook, Model
from interp.scoring import score
from interp.task import Task

Head = tuple[int, int]


def measure(model: Model, task: Task, pairs: int = 6) -> dict[str, float]:
    """Accuracy lost when the last token's output of heads is set to zero, and attention there."""
    found: dict[str, float] = {}
    whole = _accuracy(model, task, ())
    stack = model.stacks["text"]
    every = [(layer, head) for layer in range(stack.size) for head in range(stack.heads)]
    lost = {head: whole - _accuracy(model, task, (head,)) for head in every}
    ranked = sorted(every, key=lost.__getitem__, reverse=True)
    for layer, head in ranked[:8]:
        found[f"heads, lost without {layer}.{head}"] = lost[layer, head]
    found["heads, that cost .02 or more"] = float(sum(each >= 0.02 for each in lost.values()))
    both = {pair: whole - _accuracy(model, task, pair) for pair in combinations(ranked[:4], 2)}
    worst = max(both, key=both.__getitem__)
    names = " and ".join(f"{layer}.{head}" for layer, head in worst)
    found[f"heads, lost without the worst two, {names}"] = both[worst]
    found |= _attention(model, task[:100])
    found |= _norms(model, task[:100])
    return found


def _accuracy(model: Model, task: Task, silent: tuple[Head, ...]) -> float:
    hooks = [Hook("z", _silenced, layers=[layer], heads=[head]) for layer, head in silent]
    return float(score(model, task, hooks=hooks, batch=200)["right"].to_numpy().mean())


def _silenced(value: Tensor, at: object) -> Tensor:
    changed = value.clone()
    changed[:, -1] = 0
    return changed


def _attention(model: Model, task: Task) -> dict[str, float]:
    """Of the last token: on the first token, on the image, on the most watched patch of all."""
    prompt = task.encode(model)
    with torch.no_grad():
        trace = model.trace(prompt, "pattern")
    first, image = prompt.where("first"), prompt.where("image")
    size = model.stacks["text"].size
    rows = torch.stack([trace["pattern", layer][:, :, -1] for layer in range(size)])
    on_first = (rows * first[None, :, None]).sum(-1).mean(1)
    on_image = (rows * image[None, :, None]).sum(-1).mean(1)
    found = {"attention, most on the first token": float(on_first.max())}
    for layer in range(size):
        found[f"attention, on the image in layer {layer}"] = float(on_image[layer].mean())
    pairs = zip(rows.transpose(0, 1), image, strict=True)
    patches = torch.stack([row[:, :, own] for row, own in pairs])
    found["attention, most on one patch over all images"] = float(patches.mean((0, 1, 2)).max())
    return found


def _norms(model: Model, task: Task) -> dict[str, float]:
    """Norms of image tokens as they enter the language model, against those of the words."""
    prompt = task.encode(model)
    with torch.no_grad():
        entered = model.trace(prompt, "resid_pre", layers=[0])["resid_pre", 0]
    image = prompt.where("image")
    words = model.hf.get_input_embeddings().weight.detach()
    special = len(model.tokenizer.all_special_ids)
    norm = words[special:].norm(dim=-1).mean()
    tokens = entered[image].norm(dim=-1) / norm
    return {
        "projector, norm against words": float(tokens.mean()),
        "projector, largest norm against words": float(tokens.max()),
    }
