"""What can be read and changed on a server: tried with few requests, since each is a job in a queue."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.asking import choose_layers
from interp.model import Model
from interp.points import disturb
from interp.prompt import Prompt
from interp.sites import SITES, Hook

if TYPE_CHECKING:
    import pandas


def tried(model: Model, prompt: Any = None) -> "pandas.DataFrame":
    """One row a point, as `Model.points` gives: two requests a site and stack."""
    import pandas

    prompt = _prompt(model) if prompt is None else model._prompt(prompt)
    with torch.no_grad():
        base = model.logits(prompt)
        rows = [
            row
            for stack in model.stacks
            for site in SITES
            for row in _site(model, prompt, base, stack, site)
        ]
    return pandas.DataFrame(rows)


def _site(
    model: Model, prompt: Prompt, base: Tensor, stack: str, site: str
) -> list[dict[str, Any]]:
    """The rows of one site: read in all layers at once, changed in the first of them."""
    seen, change, note = [], False, "this prompt does not pass here"
    try:
        seen = model.trace(prompt, site, stack=stack).layers(site)
        change, note = _change(model, prompt, base, stack, site, seen[0])
    except (LookupError, ValueError, RuntimeError) as problem:
        note = str(problem)
    return [
        {"stack": stack, "layer": layer, "site": site, "read": layer in seen}
        | (
            {"change": change, "note": note}
            if layer in seen
            else {"change": False, "note": _why(model, stack, layer, site) or note}
        )
        for layer in sorted(model.stacks[stack].layers)
    ]


def _change(
    model: Model, prompt: Prompt, base: Tensor, stack: str, site: str, layer: int
) -> tuple[bool, str]:
    hook = Hook(site, disturb, layers=[layer], stack=stack)
    if not bool((model.logits(prompt, hooks=hook) != base).any()):
        return False, f"changing it leaves the logits as they are, tried in layer {layer}"
    return True, f"changed in layer {layer} alone: each try is a request"


def _why(model: Model, stack: str, layer: int, site: str) -> str:
    try:
        choose_layers(model.stacks[stack], layer, site)
    except LookupError as problem:
        return str(problem)
    return ""


def _prompt(model: Model) -> Prompt:
    """A few tokens: there are no weights here to ask what they would take."""
    if model.kind == "text":
        words = model.config.get_text_config().vocab_size
        return model.encode(torch.arange(6)[None] * 7 % words)
    if model.image_processor is None:
        raise ValueError(
            f"points() has no prompt for {model.name} of its own; give one: model.points(prompt)."
        )
    from interp.points import default_prompt

    return default_prompt(model)
