"""What heads and MLPs add to the stream, as the model's layers add it: multipliers and biases included."""

import contextvars
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.prompt import Prompt
from interp.shadow import shadowed

if TYPE_CHECKING:
    from interp.model import Model

CLOSE = 1e-4  # of the largest number that a layer adds
# How many rows the unembedding turns into logits, in this context.
_ROWS: contextvars.ContextVar[int | None] = contextvars.ContextVar("first_rows", default=None)


@dataclass(frozen=True, eq=False)
class Writing:
    """stream after = stream before + heads' z through `out` + `times` MLP output + `constant`."""

    layers: list[int]
    out: dict[int, Tensor]  # layer -> [head, d_head, d_model]
    times: dict[int, float]
    constant: dict[int, Tensor]  # layer -> [d_model]

    def of_heads(self, layer: int, z: Tensor) -> Tensor:
        """[head, row, position, d_model] of z [row, position, head, d_head]."""
        return torch.einsum("bthe,hed->hbtd", z, self.out[layer])

    def of_mlp(self, layer: int, out: Tensor) -> Tensor:
        return out * self.times[layer]

    @classmethod
    @torch.no_grad()
    def of(cls, model: "Model", stack: str, prompt: Prompt) -> "Writing":
        """Found from the output projections and one run; refused where it does not add up."""
        tower = model.stacks[stack]
        found = cls(sorted(tower.layers), {}, {}, {})
        trace = model.trace(prompt, "resid_pre", "resid_post", "z", "mlp_out", stack=stack)
        for layer in found.layers:
            added = trace["resid_post", layer, stack] - trace["resid_pre", layer, stack]
            attends = tower.layers[layer].attention is not None
            z = trace["z", layer, stack] if attends else None
            fed = None if tower.layers[layer].mlp is None else trace["mlp_out", layer, stack]
            if z is not None:
                found.out[layer] = _projection(model, tower.layers[layer].out, z)
            parts = [torch.zeros_like(added) if z is None else found.of_heads(layer, z).sum(0),
                     torch.zeros_like(added) if fed is None else fed]  # fmt: skip
            factors = _factors(parts, added)
            if z is not None:
                found.out[layer] = found.out[layer] * factors[0]
            found.times[layer] = factors[1]
            left = added - factors[0] * parts[0] - factors[1] * parts[1]
            found.constant[layer] = left.flatten(0, 1).mean(0)
            apart = float((left - found.constant[layer]).abs().max())
            limit = max(CLOSE, 16 * torch.finfo(added.dtype).eps) * float(added.abs().max())
            if not apart <= max(limit, 1e-6):
                raise ValueError(
                    _why(model, f"layer {layer} adds more to its stream, or other things")
                )
        return found


def _projection(model: "Model", out: Any, z: Tensor) -> Tensor:
    """What each number of each head's z is turned into, [head, d_head, d_model]."""
    if out is None:
        raise ValueError(_why(model, "no output projection was found"))
    heads, size = z.shape[2:]
    units = torch.eye(heads * size).to(z)
    # Past what may stand before the module's forward: hooks that are live here are no part of it.
    forward = type(out).forward
    try:
        weights = forward(out, units[None]) - forward(out, 0 * units[:1][None])
    except (RuntimeError, TypeError) as problem:
        raise ValueError(
            _why(model, f"its output projection takes more than z ({problem})")
        ) from None
    return weights[0].view(heads, size, -1)


def _factors(parts: list[Tensor], added: Tensor) -> list[float]:
    """What the layer multiplies each part by; everything may also hold what is the same everywhere."""
    columns = [each.double().flatten(0, 1) for each in parts]
    columns = torch.stack([(each - each.mean(0)).flatten() for each in columns]).cpu()
    goal = added.double().flatten(0, 1)
    goal = (goal - goal.mean(0)).flatten().cpu()
    solved = torch.linalg.pinv(columns @ columns.T) @ (columns @ goal)
    near = (solved - 1).abs() < CLOSE
    idle = columns.abs().amax(1) == 0
    return torch.where(near | idle, torch.ones_like(solved), solved).tolist()


def _why(model: "Model", reason: str) -> str:
    return (
        f"the edges of {type(model.hf).__name__} are not served: {reason.rstrip('.')}, so that what each "
        "part writes cannot be told apart. Circuits of nodes are served (NodeRuns)."
    )


@contextmanager
def first_rows(model: "Model", count: int) -> Iterator[None]:
    """Only these rows become logits: those of all copies would take more memory than all else."""
    head = model.hf.get_output_embeddings()
    token = _ROWS.set(count)
    try:
        with shadowed([(head, "forward", _around)] if head is not None else []):
            yield
    finally:
        _ROWS.reset(token)


def _around(original: Any, module: Any, args: tuple, kwargs: dict) -> Any:
    count = _ROWS.get()
    if count is None or not args:
        return original(*args, **kwargs)
    return original(args[0][:count], *args[1:], **kwargs)
