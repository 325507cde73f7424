"""What goes along to a server that has no interp: hooks, what they are told, and what is to come back.

This file travels by value, as `walking` does: it imports torch alone.
"""

from typing import Any

import torch
from torch import Tensor


class Told:
    """What a hook on a server knows of the prompt: its spans, its ids and its mask."""

    def __init__(self, spans: dict[str, Tensor], ids: Any, mask: Tensor):
        self.spans, self.ids, self.mask = spans, ids, mask

    @property
    def length(self) -> int:
        """Positions in a row, padding included."""
        return self.mask.shape[1]

    def __len__(self) -> int:
        return self.mask.shape[0]

    def where(self, name: str, image: int | None = None) -> Tensor:
        """The positions of a span that had a name when the prompt was made."""
        key = name if image is None else f"{name} {image}"
        if key not in self.spans:
            raise LookupError(
                f"no span {key!r} went along to the server, which looks nothing up in the text. "
                f"There are: {', '.join(self.spans)}."
            )
        return self.spans[key].clone()


class Going:
    """The run that hooks are in: one forward, with no cache before it."""

    start = first = 0
    prefill, generating = True, False

    def __init__(self, told: Told):
        self.prompt, self.length = told, told.length
        self.memos: dict[int, dict[Any, Any]] = {}


class Here:
    """Where and when a hook runs: what `interp.sites.At` is, without interp."""

    def __init__(self, site: str, place: tuple, first: tuple[int, int], run: Going, group: int):
        self.site, self.stack, self.layer = site, place[0], place[1]
        self.first, self.first_key, self.prefill = *first, True
        self.run, self.prompt = run, run.prompt
        self.memo = run.memos.setdefault(group, {})

    def where(self, name: str, value: Tensor, image: int | None = None) -> Tensor:
        """The span `name` as [batch, key] over the keys of `value`."""
        keys = value.shape[-1] if self.site in ("scores", "pattern") else value.shape[1]
        span = self.prompt.where(name, image).to(value.device)
        if keys != span.shape[1]:
            raise ValueError(
                f"the prompt's spans lie on its own {span.shape[1]} positions, and not on the {keys} keys of "
                f"the {self.stack} stack."
            )
        return span


class Carried:
    """A hook as it travels, its function too unless it `stays`; `heads_axis` counts heads in its site."""

    def __init__(self, number: int, placed: Any, heads_axis: int | None, stays: bool):
        hook = placed.hook
        self.number, self.fn, self.name = number, None if stays else hook.fn, hook.name
        self.site, self.stack, self.layers = hook.site, placed.stack, placed.layers
        self.heads, self.heads_axis = placed.heads, heads_axis
        self.within, self.group = hook.within, placed.group


class Luggage:
    """A courier for a server: hooks that change run there, and what is only looked at comes back.

    `kept` lists, in the order of the run, ("ran", hook), ("seen", hook, place, site, first, first_key,
    value) of a hook that stayed or changed nothing, and ("kept", None, place, site, first, first_key, value).
    """

    def __init__(self, hooks: list[Carried], keep: set[tuple[int, str]], places: Any, told: Told):
        self.hooks, self.keep, self.run = hooks, keep, Going(told)
        self.places = places  # number -> (stack, layer, causal)
        self.kept: list[tuple] = []
        self.shape = (1, 1)
        self.seen: dict[int, tuple[int, int]] = {}  # rows and keys of earlier calls, by place
        self.first: dict[int, tuple[int, int]] = {}

    def own_keys(self, place: int) -> bool:
        return "cross" not in self.places[place][0]

    def begin(self, place: int, envoy: Any, queries: int, keys: int) -> None:
        """An attention call begins; a tower may make several of one sequence."""
        stack, layer, causal = self.places[place]
        before = self.seen.get(place)
        if before is not None and not stack.startswith("vision"):
            raise ValueError(
                f"layer {layer} of the {stack} stack runs several times in one forward "
                "(shared weights, or attention in two parts), so its sites are not served."
            )
        rows, columns = before or (0, 0)
        self.first[place] = (0, 0) if causal or not self.own_keys(place) else (rows, columns)
        self.seen[place] = (rows + queries, columns + keys)

    def deliver(self, place: int, site: str, value: Tensor) -> Tensor:
        """The value after the site's hooks; the same object where they only read."""
        stack, layer, _ = self.places[place]
        inside = site in ("q", "k", "v", "scores", "pattern", "z")
        first = self.first.get(place, (0, 0)) if inside else (0, 0)
        for hook in self.hooks:
            if hook.site == site and hook.stack == stack and layer in hook.layers:
                at = Here(site, self.places[place], first, self.run, hook.group)
                value = self.shown(hook, value, at, place)
        if (place, site) in self.keep:
            self.note("kept", None, place, first, site, value)
        return value

    def note(
        self, what: str, hook: Any, place: int, first: tuple[int, int], site: str, value: Tensor
    ) -> None:
        """Something that comes back."""
        self.kept.append((what, hook, place, site, *first, value.detach().clone().cpu()))

    def shown(self, hook: Carried, value: Tensor, at: Here, place: int) -> Tensor:
        """The value after one hook, which sees its own rows and heads."""
        top, bottom = 0, value.shape[2] if hook.within is not None else 0
        part = value
        if hook.within is not None:
            low, high = hook.within
            top = max(0, low - at.first)
            bottom = bottom if high is None else min(bottom, high - at.first)
            if top >= bottom:
                return value
            at.first += top
            part = part[:, :, top:bottom]
        heads, axis = None, hook.heads_axis or 0
        if hook.heads is not None and hook.heads_axis is not None:
            heads = torch.tensor(hook.heads, device=value.device)
            part = part.index_select(axis, heads)
        result = self.called(hook, part, at, place)
        if result is part:
            return value
        if heads is not None:
            rows = value if hook.within is None else value[:, :, top:bottom]
            result = rows.index_copy(axis, heads, result)
        if hook.within is not None:
            result = torch.cat([value[:, :, :top], result, value[:, :, bottom:]], dim=2)
        return result

    def called(self, hook: Carried, part: Tensor, at: Here, place: int) -> Tensor:
        """What the hook makes of the value; what it returned as it is comes back, to be seen at home."""
        where = f"{hook.name} at {at.site} of layer {at.layer}"
        first = (at.first, at.first_key)
        if hook.fn is None:
            self.note("seen", hook.number, place, first, at.site, part)
            return part
        version = part._version
        result = hook.fn(part, at)
        self.kept.append(("ran", hook.number))
        touched = part._version != version
        if result is None and touched:
            raise RuntimeError(
                f"{where} changed its value in place and returned nothing; return the changed tensor."
            )
        if result is None:
            self.note("seen", hook.number, place, first, at.site, part)
            return part
        if not isinstance(result, Tensor):
            raise TypeError(
                f"{where} gave back {type(result).__name__}; return a tensor to change the value, or None "
                "to leave it."
            )
        if (result.shape, result.dtype, result.device) != (part.shape, part.dtype, part.device):
            raise ValueError(
                f"{where} was given {tuple(part.shape)} {part.dtype} and gave back {tuple(result.shape)} "
                f"{result.dtype}; all of it must stay."
            )
        return result.view_as(result) if result is part and touched else result


def tensors_of(output: Any) -> dict[str, Tensor]:
    """The tensors of a model's output, ready to travel."""
    items = {} if isinstance(output, Tensor) else dict(output)
    return {
        name: value.detach().cpu() for name, value in items.items() if isinstance(value, Tensor)
    }
