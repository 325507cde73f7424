"""One run, kept so that it can be gone on with from any layer."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from interp.live import Carrier, Place, Run
from interp.rows import Call
from interp.seam import known_arithmetic, read_call

if TYPE_CHECKING:
    from interp.prompt import Prompt
    from interp.structure import Stack

_CACHES = ("past_key_values", "past_key_value", "layer_past")


class NotReplayed(Exception):
    """The maths or the code of this model does not allow it; says why."""


@dataclass(eq=False)
class LayerCall:
    """How a layer was called, beside its stream, and what it gave besides."""

    module: nn.Module
    given: dict[str, Any]
    stream: str  # the name of the residual stream among its arguments
    rest: tuple[Any, ...] | None  # what followed the stream in its output; None for a bare tensor
    added: Tensor | None = None  # what the model adds to the stream before the next layer


@dataclass(eq=False)
class Attended:
    """An attention call of the run: its keys, values, mask and arithmetic, and what it mixed."""

    call: Call
    output: Tensor  # z, [batch, position, head, width]
    known: bool  # whether the seam's arithmetic is the family's


@dataclass(eq=False)
class Captured:
    """Everything that a replay of one stack needs of the run."""

    stack: str
    prompt: "Prompt"
    layers: list[LayerCall] = field(default_factory=list)
    stream: list[Tensor] = field(default_factory=list)  # [batch, position, d_model], last after all
    attended: dict[tuple[str, int], Attended] = field(default_factory=dict)
    projected: dict[nn.Module, Tensor] = field(default_factory=dict)  # what makes q, k and v
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    output: Any = None

    @property
    def batch(self) -> int:
        return self.stream[0].shape[0]

    @property
    def positions(self) -> int:
        return self.stream[0].shape[1]

    def bytes(self) -> int:
        """Memory that is held."""
        kept = [*self.stream, *(layer.added for layer in self.layers)]
        for one in self.attended.values():
            kept += [one.call.key, one.call.value, one.output]
        kept += self.projected.values()
        return sum(value.numel() * value.element_size() for value in kept if value is not None)


class Recorder(Carrier):
    """Keeps the calls of one stack's layers, and of its attention (and cross attention)."""

    def __init__(self, stack: "Stack", beside: Iterable[str], prompt: "Prompt"):
        self.stack = stack
        self.names = (stack.name, *beside)  # its own attention, and cross attention in its layers
        self.kept = Captured(stack.name, prompt)
        self._output: Tensor | None = None
        self._projecting: set[nn.Module] = set()
        self.why = ""  # it cannot be replayed; the run itself goes on

    def layer(self, place: Place, forward: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        output = forward(*args, **kwargs)
        if place.stack == self.stack.name and not self.why:
            try:
                self._keep(place, forward, args, kwargs, output)
            except NotReplayed as problem:
                self.why = str(problem)
        return output

    def _keep(
        self, place: Place, forward: Callable[..., Any], args: tuple, kwargs: dict, output: Any
    ) -> None:
        kept = self.kept
        if place.layer != len(kept.layers):
            raise NotReplayed(
                f"its layers do not run one after the other ({place.layer} came out of order)"
            )
        module = self.stack.layers[place.layer].module
        assert module is not None
        given = _named(forward, args, kwargs)
        stream = "hidden_states" if "hidden_states" in given else next(iter(given))
        hidden = given.pop(stream)
        if hidden.ndim != 3:
            raise NotReplayed(
                f"its stream is {tuple(hidden.shape)}, not [batch, position, d_model]"
            )
        self._hand_on(hidden)
        kept.stream.append(hidden.detach())
        rest = tuple(output[1:]) if isinstance(output, tuple) else None
        self._output = (output[0] if isinstance(output, tuple) else output).detach()
        kept.layers.append(LayerCall(module, given, stream, rest))

    def _hand_on(self, hidden: Tensor) -> None:
        """Keep what was added between the last layer and this one."""
        if self._output is None:
            return
        if self._output.shape != hidden.shape:
            raise NotReplayed("the model reshapes the stream between two layers")
        handed = hidden.detach().to(self._output.device)  # the next layer may lie on another
        if not torch.equal(self._output, handed):
            self.kept.layers[-1].added = handed - self._output

    def attention(self, passage: Any, call: Callable[[], Any], parts: tuple) -> Any:
        output = call()
        place = passage.place
        if place.stack not in self.names or self.why:
            return output
        one = read_call(passage, *parts)
        known = known_arithmetic(passage, one)
        one.query = one.query[:, :, :0]  # not needed any more
        self.kept.attended[place.stack, place.layer] = Attended(one, output.detach(), known)
        return output

    def keep_projection(self, module: nn.Module, output: Any) -> None:
        """A module that runs twice in a forward is not kept: which call is meant could not be told."""
        twice = module in self._projecting
        self._projecting.add(module)
        if twice or not isinstance(output, Tensor) or output.ndim != 3:
            self.kept.projected.pop(module, None)
        else:
            self.kept.projected[module] = output.detach()

    def finish(self, output: Any, logits: Tensor) -> Captured:
        if self.why:
            raise NotReplayed(self.why)
        if len(self.kept.layers) != self.stack.size or self._output is None:
            raise NotReplayed(
                f"{len(self.kept.layers)} of its {self.stack.size} layers ran with this prompt"
            )
        self.kept.stream.append(self._output)
        if logits.ndim == 3 and logits.shape[1] != self.kept.positions:
            raise NotReplayed("its logits are not of all positions (logits_to_keep)")
        first = self.kept.stream[0]
        for module, value in list(self.kept.projected.items()):
            if value.shape[:2] != first.shape[:2]:
                del self.kept.projected[module]
        self.kept.output, self.kept.logits = output, logits.detach()
        return self.kept


def _named(forward: Callable[..., Any], args: tuple, kwargs: dict) -> dict[str, Any]:
    """A layer's arguments by name, without caches: a replay keeps its own keys and values."""
    if args:
        bound = inspect.signature(forward).bind_partial(*args, **kwargs).arguments
        given = {**bound, **bound.pop("kwargs", {})}
        if "args" in given:
            raise NotReplayed("its layers take arguments without names")
    else:
        given = dict(kwargs)
    return {name: None if name in _CACHES else value for name, value in given.items()}


def new_run(prompt: "Prompt", rows: int, positions: int) -> Run:
    run = Run()
    run.prompt = prompt
    run.shape = (rows, positions)
    return run
