"""From the stream after the last layer to logits, by the model's own code with its layers left out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from interp.forward import single_pass
from interp.live import RUN, Carrier, Place, Session, live
from interp.prompt import Prompt
from interp.replay.capture import Captured, NotReplayed, new_run
from interp.shadow import Around, shadowed
from interp.spread import local
from interp.structure import Stack
from interp.taps import layer_taps
from interp.trace import main_output

if TYPE_CHECKING:
    from interp.model import Model

# Only these columns of the unembedding are wanted in this context.
_COLUMNS: ContextVar[Tensor | None] = ContextVar("interp_columns", default=None)


class _Skip(Carrier):
    """Layers hand on what they get; the last of the stack hands on the states."""

    def __init__(self, kept: Captured, states: Tensor):
        self.kept, self.states = kept, states

    def layer(self, place: Place, forward: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        hidden = args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values())))
        if place.stack != self.kept.stack:
            return hidden
        call = self.kept.layers[place.layer]
        if place.layer == len(self.kept.layers) - 1:
            if hidden.shape != self.states.shape:
                raise NotReplayed(
                    f"its last layer takes {tuple(hidden.shape)}, not {tuple(self.states.shape)}"
                )
            hidden = self.states
        return hidden if call.rest is None else (hidden, *call.rest)


def _narrow(original: Callable[..., Any], module: nn.Module, args: tuple, kwargs: dict) -> Any:
    columns = _COLUMNS.get()
    if columns is None or type(module) is not nn.Linear or len(args) != 1 or kwargs:
        return original(*args, **kwargs)
    if module.weight.is_meta or local(module.weight) is not module.weight:
        return original(*args)[..., columns]  # spread: only its own forward knows where it lies
    bias = None if module.bias is None else module.bias[columns]
    return nn.functional.linear(args[0], module.weight[columns], bias)


def _taps(model: "Model", stack: Stack, narrow: bool) -> Iterator[tuple[nn.Module, str, Around]]:
    for tower in model.stacks.values():
        if tower is stack or "encoder" in tower.name:
            yield from layer_taps(tower)
    if narrow and model.hf.get_output_embeddings() is not None:
        yield model.hf.get_output_embeddings(), "forward", _narrow


@contextmanager
def _without_layers(
    model: "Model", kept: Captured, states: Tensor, columns: Tensor | None
) -> Iterator[None]:
    stack = model.stacks[kept.stack]
    session = Session(model.places, carrier=_Skip(kept, states))
    token = _COLUMNS.set(columns)
    run = RUN.set(new_run(kept.prompt, *states.shape[:2]))
    try:
        with shadowed(_taps(model, stack, columns is not None)), live(session):
            yield
    finally:
        RUN.reset(run)
        _COLUMNS.reset(token)


def of_tokens(model: "Model", kept: Captured, states: Tensor, columns: Tensor | None) -> Tensor:
    """Logits [n, token] of states [n, d_model], each taken as a text of one token."""
    ids = kept.prompt.ids if kept.prompt.ids is not None else torch.ones(1, 1, dtype=torch.long)
    one = ids[0, -1:].expand(len(states), 1)
    given: dict[str, Any] = {"attention_mask": torch.ones_like(one)}
    if model.config.is_encoder_decoder:
        seen = kept.output.encoder_last_hidden_state[:1, :1].expand(len(states), 1, -1)
        given |= {
            "encoder_outputs": BaseModelOutput(last_hidden_state=seen),
            "decoder_input_ids": one,
        }
    else:
        given["input_ids"] = one
    with _without_layers(model, kept, states[:, None], columns):
        return main_output(_speaker(model, kept.stack)(**given, use_cache=False))[:, 0]


def _speaker(model: "Model", stack: str) -> Any:
    """The smallest model around a stack that ends in the unembedding: images stay outside it."""
    parts = model.stacks[stack].path.split(".")
    unembedding = model.hf.get_output_embeddings()
    for length in range(len(parts), 0, -1):
        owner = model.hf.get_submodule(".".join(parts[:length]))
        if isinstance(owner, PreTrainedModel) and unembedding in set(owner.modules()):
            return owner
    return model.hf


def of_rows(model: "Model", kept: Captured, states: Tensor, bases: Tensor) -> Tensor:
    """Logits of states [row, position, d_model]: of all positions, or of what the model pools."""
    batch = kept.batch
    given = {
        name: value[bases] if isinstance(value, Tensor) and value.shape[:1] == (batch,) else value
        for name, value in kept.prompt.inputs.items()
    }
    prompt = Prompt(
        given, kept.prompt.mask[bases], None if kept.prompt.ids is None else kept.prompt.ids[bases]
    )
    with _without_layers(model, kept, states, None):
        return main_output(model.hf(**single_pass(model, prompt)))
