"""What was kept of one run."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.live import version
from interp.sites import MAP_SITES, SITES, parse_site, whole_number

if TYPE_CHECKING:
    from interp.prompt import Prompt

Key = tuple[str, int, str]


class Trace(Mapping[Any, Tensor]):
    """Values by site (or metric) and layer: `trace["pattern", 3]`, `trace["received", 3]`.

    `trace["pattern", 3, "vision"]` names the stack, `trace["blocks.3.attn.hook_pattern"]` works too,
    and `trace["pattern"]` stacks all its layers. `logits` is the model's answer, `output` all of it.
    """

    def __init__(
        self,
        prompt: "Prompt",
        stack: str,
        model: str,
        sizes: dict[str, int],
        rotated: Collection[str] = (),
    ):
        self.prompt = prompt
        self.stack = stack
        self.model = model
        self.sizes = sizes  # layers of each stack, recorded or not
        self.rotated = frozenset(rotated)  # stacks whose queries and keys are rotated by position
        self.output: Any = None
        self._parts: dict[Key, list[Tensor]] = {}
        self._asked: set[Key] = set()
        self._whole: dict[Key, Tensor] = {}
        self._versions: dict[int, int] = {}

    @property
    def logits(self) -> Tensor:
        """What the model put out: logits, or the last hidden state where it has no head."""
        if self.output is None:
            raise LookupError("this trace was made from what another library kept, without logits.")
        return main_output(self.output)

    @property
    def kept(self) -> "list[Key]":
        """(site or metric, layer, stack) of all that is held."""
        return list(self._parts)

    def to_cache(self, bridge: Any = None) -> Any:
        """The sites as TransformerLens' ActivationCache, under its names; some methods of it need `bridge`.

        Queries and keys stand under hook_rot_q and hook_rot_k where they are rotated. hook_attn_out and
        hook_mlp_out are there where resid_pre, attn_out, mlp_out and resid_post were all traced and
        add up: some families norm what they add.
        """
        from interp.backends.lens.cache import to_cache

        return to_cache(self, bridge)

    @classmethod
    def from_cache(cls, cache: "Mapping[str, Tensor]", model: Any, prompt: Any) -> "Trace":
        """A trace of what another library kept of this prompt on this model.

        `cache`: TransformerLens' ActivationCache, or a mapping with its names. What is no site is left out.
        """
        from interp.backends.lens.cache import from_cache

        return from_cache(cache, model, prompt)

    def recorded(self, site: str, stack: str) -> frozenset[int]:
        """Layers of a site that have a recorder already."""
        return frozenset(layer for own, layer, at in self._asked if (own, at) == (site, stack))

    def expect(self, site: str, stack: str, layers: Iterable[int]) -> None:
        """These layers of a site have a recorder now."""
        self._asked |= {(site, layer, stack) for layer in layers}

    def keep(self, site: str, layer: int, stack: str, value: Tensor) -> None:
        """Put in what somebody else recorded."""
        self._keep((site, layer, stack), value)

    def recorder(self, site: str) -> Callable[..., None]:
        """A hook function that keeps what passes."""

        def record(value: Tensor, at: Any) -> None:
            self._keep((site, at.layer, at.stack), value)

        return record

    def collect(self, name: str, joins: bool) -> Callable[[Tensor, Any], None]:
        """Takes what a metric made; `joins` says whether values of several calls lie end to end."""

        def keep(value: Tensor, place: Any) -> None:
            key = (name, place.layer, place.stack)
            if key in self._parts and not joins:
                raise ValueError(
                    f"{name} is measured over one whole call, and the {place.stack} stack calls its "
                    "attention several times in one forward (windows, or several images): not served."
                )
            self._keep(key, value)

        return keep

    def _keep(self, key: Key, value: Tensor) -> None:
        self._parts.setdefault(key, []).append(value)
        self._versions[id(value)] = version(value)

    def _key(self, key: Any) -> tuple[str, int | None, str]:
        parts = list(key) if isinstance(key, tuple) else [key]
        if not 1 <= len(parts) <= 3 or not isinstance(parts[0], str):
            raise LookupError(f"a trace is asked by site, layer and stack, not by {key!r}.")
        name, layer, stack = [*parts, None, None][:3]
        if layer is not None:
            layer = whole_number(layer, "a layer in a trace's key")
        if stack is not None and stack not in self.sizes:
            raise LookupError(f"the third part of a key names a stack, and {stack!r} is none; heads are "
                              "an axis of the value.")  # fmt: skip
        if name in self.sizes:
            raise LookupError(f"{name!r} is a stack: trace[site, layer, {name!r}].")
        if name not in {known for known, _, _ in self._parts}:
            name, own = parse_site(name)
            layer = own if layer is None else layer
        return name, layer, stack or self._stack_of(name)

    def _stack_of(self, name: str) -> str:
        stacks = {stack for known, _, stack in self._parts if known == name}
        return self.stack if self.stack in stacks or len(stacks) != 1 else stacks.pop()

    def __getitem__(self, key: Any) -> Tensor:
        try:
            name, layer, stack = self._key(key)
        except (LookupError, TypeError) as problem:
            raise KeyError(f"{problem} {self._held()}") from None
        if layer is None:
            layers = self.layers(name, stack)
            if not layers:
                raise KeyError(f"{name!r} was not recorded. {self._held()}")
            found = [self._joined((name, layer, stack)) for layer in layers]
            return torch.stack([one.to(found[0].device) for one in found])  # layers may lie apart
        layers = self.layers(name, stack)
        full = (name, layer + self.sizes[stack] if layer < 0 else layer, stack)
        if full not in self._parts:
            where = "" if stack == self.stack else f" of the {stack} stack"
            raise KeyError(f"{(name, layer)!r}{where} was not recorded. {self._held()}")
        return self._joined(full)

    def _joined(self, key: Key) -> Tensor:
        """The parts of a value that passed in several calls (images, windows) as one."""
        if key not in self._whole:
            parts = self._parts[key]
            if any(self._versions[id(part)] != version(part) for part in parts):
                raise RuntimeError(
                    f"{key[0]} of layer {key[1]} was changed in place after it was recorded, so what it "
                    "was is lost; let the hook that did it return a copy (value.clone())."
                )
            self._whole[key] = parts[0] if len(parts) == 1 else _join(key[0], parts)
        return self._whole[key]

    def _held(self) -> str:
        names = dict.fromkeys((name, stack) for name, _, stack in self._parts)
        if not names:
            return "Nothing was."
        held = [
            f"{name}{'' if stack == self.stack else f' ({stack})'} of layers {self.layers(name, stack)}"
            for name, stack in names
        ]
        return f"There are: {'; '.join(held)}."

    def layers(self, name: str, stack: str | None = None) -> list[int]:
        """The layers in which a site or metric was kept."""
        stack = stack or self._stack_of(name)
        return sorted(layer for known, layer, at in self._parts if (known, at) == (name, stack))

    def __iter__(self) -> Iterator[Any]:
        for name, layer, stack in self._parts:
            yield (name, layer) if stack == self.stack else (name, layer, stack)

    def __len__(self) -> int:
        return len(self._parts)

    def __repr__(self) -> str:
        return f"Trace of {self.model}. {self._held()}"


def _join(name: str, parts: list[Tensor]) -> Tensor:
    """Maps of separate calls lie on the diagonal of one map; everything else is laid end to end."""
    if name not in SITES:
        return torch.cat(parts, dim=-1)
    if name not in MAP_SITES:
        return torch.cat(parts, dim=1)
    queries, keys = (sum(part.shape[axis] for part in parts) for axis in (2, 3))
    fill = 0.0 if name == "pattern" else torch.finfo(parts[0].dtype).min
    whole = parts[0].new_full((*parts[0].shape[:2], queries, keys), fill)
    row = column = 0
    for part in parts:
        whole[..., row : row + part.shape[2], column : column + part.shape[3]] = part
        row, column = row + part.shape[2], column + part.shape[3]
    return whole


def main_output(output: Any) -> Tensor:
    """The tensor that a model is asked for: logits, similarity of image and text, or last states."""
    for name in ("logits", "logits_per_image", "last_hidden_state"):
        value = getattr(output, name, None)
        if isinstance(value, Tensor):
            return value
    raise LookupError(
        f"{type(output).__name__} holds no logits, logits_per_image, last_hidden_state."
    )
