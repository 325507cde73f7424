"""The gradient at what each part reads of the residual stream, before its norm.

A head's query reads the stream through a norm and some columns of a projection. The backward pass
gives the gradient at the projection's output; of these columns it is taken through the same slice of
the weight, and then through the norm. Which columns are whose is found by asking autograd.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from interp.attribution.contrast import Contrast, Key, Ran
from interp.attribution.tape import Calls
from interp.attribution.writes import Scales, matrix, near, refused

ROLES = ("q", "k", "v")
READ_SITES = ("resid_pre", "resid_post", "attn_out", "mlp_out", *ROLES)


@dataclass(frozen=True, eq=False)
class Slices:
    """The columns of one projection that each head's queries (keys, values) are made of."""

    module: nn.Module
    columns: Tensor  # [head, width]
    first: int | None  # of columns that lie side by side in order, which need no copy

    def of(self, value: Tensor) -> Tensor:
        """[row, head, width] of [row, column]."""
        if self.first is None:
            return value[:, self.columns]
        heads, width = self.columns.shape
        return value[:, self.first : self.first + heads * width].unflatten(1, (heads, width))


@dataclass(eq=False)
class Reader:
    """How one layer reads the stream."""

    layer: int
    scales: Scales
    parallel: bool  # the MLP reads what attention reads, and not what it wrote
    slices: (
        dict[str, Slices] | None
    )  # by role; None where heads share columns, or they are not found
    heads: dict[str, int] = field(default_factory=dict)
    checked: bool = (
        False  # that the inputs' gradients add up; once is enough, since it is about wiring
    )


@dataclass(frozen=True, eq=False)
class Inputs:
    """Gradients at what a layer's parts read, [batch, position, d_model]: of each head, and of the MLP."""

    heads: dict[str, list[Tensor]]
    mlp: Tensor


def projections(given: Contrast) -> list[nn.Module]:
    """The linear maps inside attention, but for the output projection."""
    return [
        module
        for layer in given.stack.layers.values()
        if layer.attention is not None
        for module in layer.attention.modules()
        if matrix(module) is not None and module is not layer.out
    ]


def readers(given: Contrast, ran: Ran, sizes: Sequence[Scales]) -> list[Reader]:
    """How every layer reads, from a run of it."""
    found = []
    for layer, own in zip(sorted(given.stack.layers), sizes, strict=True):
        attention = given.stack.layers[layer].attention
        inside = [] if attention is None else list(attention.modules())
        calls = {module: of for module, of in ran.noted.items() if module in inside}
        slices = _slices(ran, layer, calls)
        heads = {role: ran.trace[role, layer].shape[2] for role in ROLES}
        found.append(Reader(layer, own, not _follows(ran, layer), slices, heads))
    return found


def _follows(ran: Ran, layer: int) -> bool:
    """Whether the MLP's output depends on attention's, in the graph of the run."""
    target = ran.trace["attn_out", layer].grad_fn
    end = ran.trace[
        "resid_pre", layer
    ].grad_fn  # what came before this layer is none of its business
    waiting, seen = [ran.trace["mlp_out", layer].grad_fn], {end, None}
    while waiting:
        node = waiting.pop()
        if node is target:
            return True
        if node in seen:
            continue
        seen.add(node)
        assert node is not None
        waiting += [before for before, _ in node.next_functions]
    return False


def _slices(ran: Ran, layer: int, calls: Calls) -> dict[str, Slices] | None:
    """Columns by role, if each belongs to one head of one role alone."""
    found: dict[str, Slices] = {}
    taken: dict[nn.Module, Tensor] = {}
    for role in ROLES:
        value = ran.trace[role, layer]
        for module, noted in calls.items():
            used = _used(value, noted[0][1]) if len(noted) == 1 else None
            if used is None or not bool(used.any()):
                continue
            count, widths = taken.get(module, 0) + used.sum(0), used.sum(1)
            if role in found or bool((count > 1).any()) or len(widths.unique()) > 1:
                return None
            taken[module] = count
            columns = used.nonzero()[:, 1].view(len(used), -1)
            beside = bool((columns.flatten().diff() == 1).all())
            found[role] = Slices(module, columns, int(columns[0, 0]) if beside else None)
    return found if len(found) == len(ROLES) else None


def _used(value: Tensor, projected: Tensor) -> Tensor | None:
    """Which columns a head's [batch, position, head, width] is made of: [head, column].

    Every place asks for one head, so that one backward tells of as many heads as there are places.
    """
    heads, places = value.shape[2], value.shape[0] * value.shape[1]
    if projected.shape[:-1].numel() != places:
        return None
    random = torch.Generator().manual_seed(0)
    used = torch.zeros(heads, projected.shape[-1], dtype=torch.bool, device=projected.device)
    for first in range(0, heads, places):
        head = (first + torch.arange(places)) % heads
        asked = torch.zeros(places, heads, value.shape[3])
        asked[torch.arange(places), head] = torch.randn(places, value.shape[3], generator=random)
        found = torch.autograd.grad(
            value,
            projected,
            asked.view(value.shape).to(value),
            retain_graph=True,
            allow_unused=True,
        )[0]
        if found is None:
            return None
        met = found.reshape(places, -1) != 0
        for row, of in enumerate(head.tolist()):
            used[of] |= met[row]
    return used


def wanted(ran: Ran, reader: Reader) -> dict[Key | nn.Module, Tensor]:
    """The values of a layer at which the backward pass must stop by."""
    values: dict[Key | nn.Module, Tensor] = {
        (site, reader.layer): ran.trace[site, reader.layer] for site in READ_SITES
    }
    if reader.slices is not None:
        values |= {own.module: ran.noted[own.module][0][1] for own in reader.slices.values()}
    return values


def inputs(
    given: Contrast, ran: Ran, reader: Reader, grads: dict[Key | nn.Module, Tensor]
) -> Inputs:
    """The gradients at a layer's inputs, checked to add up to what the stream says."""
    layer, stream = reader.layer, ran.trace["resid_pre", reader.layer]
    before, after, attention = (
        grads[site, layer] for site in ("resid_pre", "resid_post", "attn_out")
    )
    if reader.parallel:
        mlp = _through(ran.trace["mlp_out", layer], stream, [grads["mlp_out", layer]])[0]
        rest = before - after - mlp
    else:  # between the two parts the stream is what attention's output is added to
        middle = attention / reader.scales.attention
        mlp, rest = middle - after, before - middle
    for way in (_by_slices, _by_heads):
        heads = way(ran, reader, grads)
        if heads is None:
            continue
        if reader.checked or near(_total(heads), rest, stream.dtype, before):
            reader.checked = True
            return Inputs(heads, mlp)
        reader.slices = None
    why = "the inputs of its parts do not account for what the metric asks of the stream"
    raise refused(given, layer, why)


def _total(heads: dict[str, list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(own).sum(0) for own in heads.values()]).sum(0)


def _by_slices(
    ran: Ran, reader: Reader, grads: dict[Key | nn.Module, Tensor]
) -> dict[str, list[Tensor]] | None:
    if reader.slices is None:
        return None
    stream, found = ran.trace["resid_pre", reader.layer], {}
    for role, own in reader.slices.items():
        normed = ran.noted[own.module][0][0]
        weight = matrix(own.module)
        assert weight is not None
        grad = own.of(grads[own.module].flatten(0, -2)).transpose(0, 1)
        back = torch.bmm(grad, own.of(weight).permute(1, 2, 0).to(grad))  # [head, place, d_in]
        found[role] = _through(normed, stream, back.view(-1, *normed.shape))
    return found


def _by_heads(
    ran: Ran, reader: Reader, grads: dict[Key | nn.Module, Tensor]
) -> dict[str, list[Tensor]]:
    """The same without knowing the projection: a backward through it for every head."""
    stream, found = ran.trace["resid_pre", reader.layer], {}
    for role in ROLES:
        value, grad = ran.trace[role, reader.layer], grads[role, reader.layer]
        alone = torch.zeros(value.shape[2], *value.shape, dtype=grad.dtype, device=grad.device)
        for head, own in enumerate(alone):
            own[:, :, head] = grad[:, :, head]
        found[role] = _through(value, stream, alone)
    return found


def _through(value: Tensor, stream: Tensor, grads: Sequence[Tensor] | Tensor) -> list[Tensor]:
    """Gradients at a value taken back to the stream that it was made of, one after the other."""
    back = [
        torch.autograd.grad(value, stream, one, retain_graph=True, allow_unused=True)[0]
        for one in grads
    ]
    return [torch.zeros_like(stream) if one is None else one for one in back]
