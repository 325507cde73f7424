"""Heads that rest in one domain and work in another (arXiv 2410.13835), confirmed by silencing them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas
import torch
from torch import Tensor

from interp.batches import Batch
from interp.mapping import over
from interp.scoring import answer_ids, last_logits
from interp.sites import Hook
from interp.statistics import NORMAL, standard_error

if TYPE_CHECKING:
    from interp.model import Model

HARMLESS = 0.05  # nats


@dataclass(frozen=True)
class Effect:
    """By how much the loss rises, in nats, when a head is silenced, with a 95 % interval over texts."""

    mean: float
    low: float
    high: float


def all_answered(batches: Sequence[Batch]) -> bool:
    return all(record.answers for batch in batches for record in batch.records)


def losses(
    model: "Model", batch: Batch, hooks: Sequence[Hook] = (), answered: bool = True
) -> Tensor:
    """Each row's loss: of its right answer's first token, or (`answered=False`) of its own text.

    Image tokens are nothing that is predicted, and are left out of a text's loss.
    """
    prompt = batch.prompt
    if model.kind not in ("text", "vlm") or model.hf.get_output_embeddings() is None:
        raise ValueError(
            f"{type(model.hf).__name__} does not go on from its prompt, so that it has no such loss."
        )
    with torch.no_grad():
        logits = model.logits(prompt, hooks=hooks).float()
    if answered:
        chances = last_logits(model, logits, prompt).log_softmax(-1)
        right = [
            answer_ids(model, prompt, row, one.answers[:1])[0]
            for row, one in enumerate(batch.records)
        ]
        return -chances[torch.arange(len(right)), torch.tensor(right, device=chances.device)].cpu()
    assert prompt.ids is not None
    ids = prompt.ids.to(logits.device)
    kept = prompt.mask.to(ids.device)[:, 1:].float()
    if "image" in prompt.names:
        kept = kept * ~prompt.where("image").to(ids.device)[:, 1:]
    if not bool((kept.sum(-1) > 0).all()):
        raise ValueError("a text of one token has nothing to be predicted; give longer ones.")
    chances = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return (-(chances * kept).sum(-1) / kept.sum(-1)).cpu()


def silence(stack: str, layer: int, head: int) -> Hook:
    return Hook("z", _nothing, layers=[layer], stack=stack, heads=[head])


def _nothing(value: Tensor, at: object) -> Tensor:
    return value * 0


def effects(
    model: "Model", batches: Sequence[Batch], stack: str, heads: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], Effect]:
    """For each (layer, head) what silencing it does to the loss of these texts."""
    answered = all_answered(batches)
    plain = torch.cat([losses(model, batch, (), answered) for batch in batches])

    def silenced(place: tuple[int, int]) -> Tensor:
        hook = silence(stack, *place)
        return torch.cat([losses(model, batch, [hook], answered) for batch in batches])

    found = {}
    losses_by_head = over(model, heads, silenced, "heads")
    for (layer, head), loss in zip(heads, losses_by_head, strict=True):
        change = loss - plain
        error = float(standard_error(change))
        mean = float(change.mean())
        found[layer, head] = Effect(mean, mean - NORMAL * error, mean + NORMAL * error)
    return found


def labels(
    mass: Tensor, written: Tensor, dormant: float = 0.8, quiet: float = 0.1
) -> list[list[str]]:
    """For [layer, head] means: "dormant" where the first position takes `dormant` of the attention and
    the head writes less than the `quiet` quantile of all heads; "resting" where only the first holds."""
    least = written.flatten().quantile(quiet)
    names = [["active"] * mass.shape[1] for _ in range(mass.shape[0])]
    for layer, head in (mass >= dormant).nonzero().tolist():
        names[layer][head] = "dormant" if written[layer, head] <= least else "resting"
    return names


def rest_table(
    model: "Model",
    grouped: Mapping[str, Sequence[Batch]],
    stack: str,
    layers: Sequence[int],
    means: Mapping[str, Mapping[str, Tensor]],
    limits: tuple[float, float],
    ablate: str,
) -> Any:
    """Heads that rest on the first token in some domain, and what silencing them does in each.

    `means` holds, by domain, `alpha_first` and `written` [layer, head]; `ablate` is "candidates" (heads
    that rest somewhere), "all" or "none".
    """
    rows = []
    for domain, own in means.items():
        for at, names in enumerate(labels(own["alpha_first"], own["written"], *limits)):
            for head, label in enumerate(names):
                place = {"domain": domain, "stack": stack, "layer": layers[at], "head": head}
                measured = {name: float(own[name][at, head]) for name in ("alpha_first", "written")}
                rows.append(place | {"label": label} | measured)
    table: Any = pandas.DataFrame(rows)
    resting = table[table["label"] != "active"] if ablate == "candidates" else table
    heads = sorted(set(zip(resting["layer"], resting["head"], strict=True)))
    table[["effect", "low", "high"]] = float("nan")
    if ablate == "none" or not heads:
        return table.assign(confirmed=pandas.array([None] * len(table), dtype="boolean"))
    for domain, part in grouped.items():
        for (layer, head), effect in effects(model, part, stack, heads).items():
            own = (table["domain"] == domain) & (table["layer"] == layer) & (table["head"] == head)
            table.loc[own, ["effect", "low", "high"]] = [effect.mean, effect.low, effect.high]
    table["confirmed"] = _confirmed(table)
    return table


def _confirmed(table: Any) -> Any:
    """Dormant (or resting): silencing changes next to nothing. Active: it surely costs something."""
    harmless = (table["high"] < HARMLESS) & (table["label"] != "active")
    costly = (table["low"] > 0) & (table["label"] == "active")
    return (harmless | costly).where(table["effect"].notna()).astype("boolean")
