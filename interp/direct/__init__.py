"""Direct logit attribution: what the embedding, each head, MLP and bias add to a number by themselves.

    from interp.direct import direct_effects
    found = direct_effects(model, prompt, interp.metrics.logit_diff(" Mary", " John"))
    found.heads  # [batch, layer, head]
    found.table()  # every part, mean over rows; its last rows are their sum and the metric

What reaches the last norm is a sum, and that norm's scale is held at the run's own, so that the parts
add up to the metric. What a part does through later layers is no part of its direct effect.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.asking import choose_stack
from interp.direct.parts import Taken, taken_apart
from interp.direct.passes import Frozen
from interp.prompt import Prompt
from interp.readouts import Chance, Divergence, Readout
from interp.sites import Hook

if TYPE_CHECKING:
    import pandas

    from interp.model import Model

__all__ = ["DirectEffects", "direct_effects"]


@dataclass(eq=False)
class DirectEffects:
    """Parts of a metric, in its own units; together they are the metric.

    A head's part is z through the output projection, without the projection's bias. NaN where a layer
    has no such part. `constant` is what a layer adds besides: biases of norms behind its parts, what a
    model adds between layers. `final` is what the metric would be with no stream: biases of the last
    norm and of the unembedding.
    """

    stack: str
    layers: list[int]
    embedding: Tensor  # [batch]: what the first layer receives
    heads: Tensor  # [batch, layer, head]
    attention_bias: Tensor  # [batch, layer]
    mlp: Tensor  # [batch, layer]
    constant: Tensor  # [batch, layer]
    final: Tensor  # [batch]
    metric: Tensor  # [batch]: what the run gave
    position: Tensor  # [batch]: where the stream is read
    cross: Tensor | None = None  # [batch, layer, head], of cross attention
    cross_bias: Tensor | None = None  # [batch, layer]
    notes: list[str] = field(default_factory=list)

    @property
    def parts(self) -> dict[str, Tensor]:
        """Every part by its name: [batch], [batch, layer] or [batch, layer, head]."""
        found = {"embedding": self.embedding, "head": self.heads}
        found |= {"attention bias": self.attention_bias}
        if self.cross is not None and self.cross_bias is not None:
            found |= {"cross head": self.cross, "cross attention bias": self.cross_bias}
        return found | {"mlp": self.mlp, "layer constant": self.constant, "final bias": self.final}

    @property
    def sum(self) -> Tensor:
        """All parts together, [batch]."""
        flat = [value.reshape(len(value), -1) for value in self.parts.values()]
        return torch.cat(flat, 1).nansum(-1)

    @classmethod
    def joined(cls, found: Sequence["DirectEffects"]) -> "DirectEffects":
        """Those of several batches of one model as one."""
        if not found:
            raise ValueError(
                "joined takes the effects of one batch or several, and was given none."
            )
        tensors = [
            one.name for one in fields(cls) if isinstance(getattr(found[0], one.name), Tensor)
        ]
        whole = {name: torch.cat([getattr(each, name) for each in found]) for name in tensors}
        return replace(found[0], **whole)

    def table(self, by_head: bool = True) -> "pandas.DataFrame":
        """A row for each part: `component`, `layer`, `head` (-1: of none), `value`, mean over rows.

        `by_head=False`: a layer's heads together, under "heads". The last rows are sum and metric.
        """
        import pandas

        rows: list[tuple[str, int, int, float]] = []
        for name, value in self.parts.items():
            if value.ndim == 3 and not by_head:
                name, value = (
                    f"{name}s",
                    torch.where(value.isnan().all(-1), torch.nan, value.nansum(-1)),
                )
            rows += self._rows(name, value.mean(0))
        rows += [*self._rows("sum", self.sum.mean(0)), *self._rows("metric", self.metric.mean(0))]
        table = pandas.DataFrame(rows, columns=["component", "layer", "head", "value"])
        return table.dropna(subset="value", ignore_index=True)

    def _rows(self, name: str, mean: Tensor) -> Iterator[tuple[str, int, int, float]]:
        for place in product(*map(range, mean.shape)):
            layer = self.layers[place[0]] if place else -1
            yield name, layer, place[1] if len(place) > 1 else -1, float(mean[place])


def direct_effects(
    model: "Model",
    prompt: Any,
    metric: Any,
    *,
    stack: str | None = None,
    hooks: Sequence[Hook] | Hook = (),
) -> DirectEffects:
    """What each head, MLP and bias adds to `metric` on a prompt by itself.

    `metric`: logit_diff or logit (at "last" or a span's last position), or any function of logits
    [batch, position, token] -> [batch] that is a sum of logits of one position.

    Norms and multipliers behind attention or MLP are counted in, norms by the scale that they had. A cap
    on the logits is left out: the parts are then those of the metric before the cap, and `notes` say
    so. What is no sum of parts is refused. `hooks` are part of the run.
    """
    tower = choose_stack(model.stacks, stack, model.name)
    prompt = prompt if isinstance(prompt, Prompt) else model.encode(prompt)
    metric = _checked(model, prompt, metric)
    if not any(layer.module is not None for layer in tower.layers.values()):
        raise ValueError(
            f"the {tower.name} stack has no stream of its own: ask for the stack whose layers it is in."
        )
    hooks = [hooks] if isinstance(hooks, Hook) else list(hooks)
    with torch.enable_grad():  # whatever the caller does without
        run = Frozen(model, prompt, metric, tower, hooks)
        return _joined(run, taken_apart(run))


def _checked(model: "Model", prompt: Prompt, metric: Any) -> Any:
    """A metric that is bound to the prompt, and no more than a sum of logits."""
    if isinstance(metric, (Chance, Divergence)):
        raise ValueError(
            f"{metric.name} is no sum of logits, so that parts do not add up to it: take logit_diff or logit."
        )
    if any(module.training for module in model.hf.modules()):
        raise ValueError(
            f"{model.name} is in training mode, where no two runs are alike: model.hf.eval()."
        )
    return metric.bind(model, prompt) if isinstance(metric, Readout) else metric


def _joined(run: Frozen, taken: Taken) -> DirectEffects:
    rows, layers, (own, *others) = len(run.prompt), run.layers, run.towers
    bare = torch.full((rows,), torch.nan, dtype=torch.double)

    def by_layer(parts: dict[int, Tensor]) -> Tensor:
        return torch.stack([parts.get(layer, bare) for layer in layers], 1).float()

    def attention(name: str, count: int) -> tuple[Tensor, Tensor]:
        heads = {key[2]: value for key, value in taken.heads.items() if key[0] == name}
        biases = {
            at: taken.parts[name, "attn_out", at] - value.sum(-1) for at, value in heads.items()
        }
        absent = bare[:, None].expand(-1, count)
        stacked = torch.stack([heads.get(layer, absent) for layer in layers], 1)
        return stacked.float(), by_layer(biases)

    heads, bias = attention(own.name, own.heads)
    cross = attention(others[0].name, others[0].heads) if others else (None, None)
    mlp = {key[2]: value for key, value in taken.parts.items() if key[1] == "mlp_out"}
    return DirectEffects(
        own.name,
        layers,
        taken.embedding.float(),
        heads,
        bias,
        by_layer(mlp),
        by_layer(taken.constants),
        taken.final.float(),
        run.plain.detach().float().cpu(),
        taken.position.cpu(),
        *cross,
        notes=_notes(run),
    )


def _notes(run: Frozen) -> list[str]:
    if not run.capped:
        return []
    return [
        f"{run.model.name} caps its logits, and a cap is no sum: direct effects are those on the metric "
        "before the cap."
    ]
