"""Whether a bridge shows at its hook points what the model's own attention sees: compared, not trusted."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from interp.backends.lens.points import WRAPPED
from interp.live import plainly
from interp.points import disturb
from interp.prompt import Prompt
from interp.sites import MAP_SITES, SITES, Hook
from interp.structure import counts_padding
from interp.tokens import first_decoder_ids

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}  # of the largest value; half precision: HALF
HALF = 5e-2
_HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)  # fmt: skip
OTHER = (
    "what TransformerLens shows as {site} in the {stack} stack of this model is not what the model's own "
    'attention has there ({away}); backend="hf" offers it.'
)
THROWN = (
    "TransformerLens shows {site} of the {stack} stack of this model and throws a change of it away; it can "
    'be read here, and changed with backend="hf".'
)
PART = (
    "TransformerLens passes a change of {site} in layer {layer} of the {stack} stack of this model on in "
    'part only; it can be read here, and changed with backend="hf".'
)
SILENT = (
    "TransformerLens has a hook point for {site} in the {stack} stack of this model, and nothing passes it; "
    'backend="hf" offers it.'
)


class Proof:
    """A bridge beside the plain model inside it, on one small prompt.

    Where the two do not give the same logits (weights that were folded or centred) there is nothing to
    compare with: the bridge's values are then its own, and a change need only reach the logits.
    """

    def __init__(self, model: Any):
        from interp.model import Model

        self.model, self.prompt = model, _asked(model, padded=True)
        # A change of a whole map reaches what stands at padding, which nobody defines.
        self.even = _asked(model, padded=False)
        self.plain: Any = Model(model.plain, model.processor)
        self._changes: dict[tuple[str, str, int], str] = {}
        with torch.no_grad(), bare(model.hf):
            mine, own = model.logits(self.prompt), self.plain.logits(self.prompt)
        if not _equal(*_of_tokens("logits", self.prompt, mine, own)):
            self.plain = None

    def refuse_what_differs(self) -> None:
        """Put sites that show something else than the plain model's among what each stack refuses."""
        with torch.no_grad(), bare(self.model.hf):
            for stack in self.model.stacks if self.plain is not None else ():
                for site in SITES:
                    if site not in self.model.stacks[stack].refused:
                        _compare(self.model, self.plain, self.prompt, stack, site)

    def change(self, stack: str, site: str, layer: int) -> str:
        """Why a change there is not served; tried once: some attentions show what they have used up."""
        key = (stack, site, layer)
        if key not in self._changes:
            self._changes[key] = ""  # while it is tried
            with plainly(), torch.no_grad(), bare(self.model.hf):
                self._changes[key] = self._tried(stack, site, layer)
        return self._changes[key]

    def _tried(self, stack: str, site: str, layer: int) -> str:
        hook = Hook(site, disturb, [layer], stack)
        before = self.model.logits(self.even)
        try:
            after = self.model.logits(self.even, hooks=hook)
        except LookupError:  # this prompt does not reach the stack
            return ""
        told = {"site": site, "stack": stack, "layer": layer}
        if self.plain is None or not _equal(before, self.plain.logits(self.even)):
            # Folded before it was wrapped, or since.
            first = layer == min(self.model.stacks[stack].layers)
            return THROWN.format(**told) if first and torch.equal(before, after) else ""
        own = self.plain.logits(self.even, hooks=hook)
        if _equal(after, own):
            return ""
        return (THROWN if torch.equal(before, after) else PART).format(**told)


@contextmanager
def bare(hf: nn.Module) -> Iterator[None]:
    """Without the hooks that a user hung onto hook points: they are not what is compared."""
    hooked = [module for module in hf.modules() if hasattr(module, "fwd_hooks")]
    before = [(module, module._forward_hooks) for module in hooked if module._forward_hooks]
    for module, hooks in before:
        module._forward_hooks = type(hooks)()
    try:
        yield
    finally:
        for module, hooks in before:
            module._forward_hooks = hooks


def _asked(model: Any, padded: bool) -> Prompt:
    """Several tokens in each stack, and where it can be a row that is padded."""
    from interp.points import default_prompt

    words = model.hf.get_input_embeddings().num_embeddings if model.kind != "vision" else 0
    if model.kind == "text" and not counts_padding(model.hf):
        return model.encode(
            [[n * 7 % words for n in range(1, size)] for size in ((9, 6) if padded else (9,))]
        )
    prompt = default_prompt(model)
    if model.kind == "encoder-decoder" and "decoder_input_ids" not in prompt.inputs:
        rows = len(prompt)
        first = first_decoder_ids(model.hf, rows)
        more = torch.arange(1, 6, device=first.device).expand(rows, -1) * 7 % words
        given = {**prompt.inputs, "decoder_input_ids": torch.cat([first, more], -1)}
        return Prompt.from_inputs(model, given)
    return prompt


def _compare(model: Any, plain: Any, prompt: Any, stack: str, site: str) -> None:
    refused = model.stacks[stack].refused
    try:
        own = plain.trace(prompt, site, stack=stack)
    except LookupError:  # this prompt does not reach the stack
        return
    try:
        shown = model.trace(prompt, site, stack=stack)
    except LookupError:
        refused[site] = SILENT.format(site=site, stack=stack)
        return
    except ValueError as problem:
        refused[site] = str(problem)
        return
    for layer in own.layers(site, stack):
        one, other = _of_tokens(site, prompt, own[site, layer, stack], shown[site, layer, stack])
        if one.shape != other.shape or not _equal(one, other):
            away = (
                f"it differs by {float(_away(one, other).max()):.2g}"
                if one.shape == other.shape
                else f"it is {tuple(other.shape)}, and not {tuple(one.shape)}"
            )
            refused[site] = OTHER.format(site=site, stack=stack, away=away)
            return


def _of_tokens(site: str, prompt: Prompt, *values: torch.Tensor) -> list[torch.Tensor]:
    """Values with 0 where there is padding: what stands there is nobody's."""
    at = 2 if site in MAP_SITES else 1
    whole = all(one.shape[0] == len(prompt) and one.shape[at] == prompt.length for one in values)
    if not whole or bool(prompt.mask.all()):
        return list(values)
    shape = [len(prompt), *[1] * (at - 1), prompt.length]
    mask = prompt.mask.to(values[0].device)
    return [
        one.masked_fill(~mask.reshape(shape + [1] * (one.ndim - len(shape))), 0) for one in values
    ]


def _away(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (one.float() - other.float()).abs()


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    lowest = torch.finfo(one.dtype).min / 2
    hidden = one <= lowest
    if bool((hidden != (other <= lowest)).any()):
        return False
    away = _away(one, other).masked_fill(hidden, 0).max()
    largest = one.float().abs().masked_fill(hidden, 0).max()
    return bool(away <= TOLERANCE.get(one.dtype, HALF) * max(1.0, float(largest)))


def unbridged(hf: nn.Module) -> Any:
    """The plain model inside a bridge: a tree of its own over the same weights, with configs of its own."""
    configs: dict[int, Any] = {}
    made: dict[nn.Module, nn.Module] = {}

    def plain(module: nn.Module) -> nn.Module:
        padded = False
        while WRAPPED in module._modules:
            padded = padded or type(module).__name__ == "UnembeddingBridge"
            module = module._modules[WRAPPED]  # pyright: ignore[reportAssignmentType]
        if module in made:
            return made[module]
        twin = made[module] = copy.copy(module)
        inner = {
            name: None if part is None else plain(part) for name, part in module._modules.items()
        }
        # Hooks of the bridge stay with it; transformers installs its own again where it is told
        # that there are none.
        bare: dict[str, Any] = {name: type(module.__dict__[name])() for name in _HOOKS}
        twin.__dict__ |= {"_modules": inner, "_buffers": dict(module._buffers), **bare}
        for name in ("_output_capturing_hooks_installed", "forward"):  # some forwards are patched
            twin.__dict__.pop(name, None)
        if padded and "bias" in twin._buffers:  # zeros that the bridge has put there
            del twin._buffers["bias"]
            twin.__dict__["_parameters"] = module._parameters | {"bias": None}
        config = module.__dict__.get("config")
        if config is not None:
            twin.__dict__["config"] = _own_config(config, configs)
        return twin

    return plain(hf)


def _own_config(config: Any, known: dict[int, Any]) -> Any:
    """One copy of each config, so that what is set on it stays there."""
    if id(config) not in known:
        known[id(config)] = copy.deepcopy(config)
    return known[id(config)]
