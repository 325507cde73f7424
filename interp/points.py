"""What can be read and what can be changed, tried point by point."""

from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from interp.asking import choose_layers
from interp.progress import bar
from interp.prompt import Prompt
from interp.sites import SITES, Hook

if TYPE_CHECKING:
    import pandas

    from interp.model import Model


def probe(model: "Model", prompt: Any = None) -> "pandas.DataFrame":
    """One row a point: stack, layer, site, read, change, and a note where one is False.

    Each point is read once and then changed once, to see whether the logits move; the changes cost
    a forward each.
    """
    import pandas

    prompt = default_prompt(model) if prompt is None else model._prompt(prompt)
    rows = []
    with torch.no_grad():
        base = model.logits(prompt)
        total = len(SITES) * sum(len(stack.layers) for stack in model.stacks.values())
        with bar(total, "points") as shown:
            for name, stack in model.stacks.items():
                seen, notes = _read(model, prompt, name)
                for layer, site in product(sorted(stack.layers), SITES):
                    place = {"stack": name, "layer": layer, "site": site}
                    row = {**place, "read": (layer, site) in seen}
                    change, note = _change(model, prompt, base, row, notes)
                    rows.append({**row, "change": change, "note": note})
                    shown.update(1)
    return pandas.DataFrame(rows)


def _read(
    model: "Model", prompt: Prompt, stack: str
) -> tuple[set[tuple[int, str]], dict[tuple[int, str], str]]:
    """The (layer, site) pairs that pass, and what there is to say of some."""
    seen: set[tuple[int, str]] = set()
    notes: dict[tuple[int, str], str] = {}
    for site in SITES:
        try:
            trace = model.trace(prompt, site, stack=stack)
            seen |= {(layer, site) for layer in trace.layers(site)}
        except (LookupError, ValueError) as problem:
            notes |= {(layer, site): str(problem) for layer in model.stacks[stack].layers}
    for layer, modules in model.stacks[stack].layers.items():
        if {(layer, "z"), (layer, "attn_out")} <= seen and modules.out is not None:
            trace = model.trace(prompt, "z", "attn_out", stack=stack, layers=layer)
            out = trace["attn_out", layer]
            try:
                ahead = modules.out(trace["z", layer].flatten(2))
            except RuntimeError:  # the projection holds heads of this process alone
                continue
            if ahead.shape != out.shape or not torch.allclose(ahead, out, rtol=1e-2, atol=1e-3):
                notes[layer, "z"] = "a gate or a norm stands between z and the output projection"
    return seen, notes


def _change(
    model: "Model",
    prompt: Prompt,
    base: Tensor,
    row: dict[str, Any],
    notes: dict[tuple[int, str], str],
) -> tuple[bool, str]:
    """Whether changing the point moves the logits, and why not or what to know."""
    layer, site, note = row["layer"], row["site"], notes.get((row["layer"], row["site"]), "")
    if not row["read"]:
        try:
            choose_layers(model.stacks[row["stack"]], layer, site)
        except LookupError as problem:
            note = str(problem)
        return False, note or "this prompt does not pass here"
    hook = Hook(site, disturb, layers=[layer], stack=row["stack"])
    try:
        moved = (model.logits(prompt, hooks=[hook]) - base).abs().max()
    except ValueError as problem:  # another back end that shows it, and cannot change it
        return False, str(problem)
    return (True, note) if moved > 0 else (False, "changing it leaves the logits as they are")


def disturb(value: Tensor, at: Any) -> Tensor:
    """A hook: far from what was there, different in every cell, and still a pattern where it is one."""
    wave = torch.sin(torch.arange(value.numel(), device=value.device) * 0.7).view(value.shape)
    if at.site == "pattern":
        return torch.softmax(4 * wave, -1).to(value)
    if at.site == "scores":
        return torch.where(value > torch.finfo(value.dtype).min / 2, 4 * wave.to(value), value)
    return value + wave.to(value) * (value.abs().amax() + 1)


def default_prompt(model: "Model") -> Prompt:
    """A few tokens and, where the processor or the family can make one, an image.

    The family's own inputs are in the ids of its tiny models: they are for models without a processor.
    """
    if model.kind in ("vision", "vlm") and model.image_processor is not None:
        image = Image.linear_gradient("L").convert("RGB")
        asked = None if model.kind == "vision" else "What colour is the square?"
        if asked is None or model.tokenizer is not None:
            return model.encode(asked, images=image)
    if model.family is not None:
        inputs = model.family.inputs(model.hf)
        inputs = {name: item.to(model.device) for name, item in inputs.items()}
        return Prompt.from_inputs(model, inputs)
    words = model.hf.get_input_embeddings().num_embeddings
    return model.encode(torch.arange(6)[None] * 7 % words)
