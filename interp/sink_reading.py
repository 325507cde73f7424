"""What is read of texts about their sinks, gathered into rows of tables."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.batches import Batch
from interp.metrics import METRICS, Metric, owns
from interp.metrics.residual import is_massive
from interp.metrics.value_drain import output_weight, over_others
from interp.model import Model
from interp.prompt import Prompt
from interp.sink_dims import SinkDims
from interp.structure import Stack


@dataclass(frozen=True)
class Rules:
    """When attention counts as a sink."""

    epsilon: float
    hidden: float | str
    least_rows: int
    least_received: float

    def hidden_sinks(self, alpha: Tensor, received: Tensor, causal: bool) -> Tensor:
        """[..., key]: positions after the first that get more than they should (ACT).

        In a stack that sees both ways the threshold is relative to uniform attention, 5 / N. Ours are
        two conditions: the last positions average over too few rows to say anything; and one that no
        more than a row or two look at (as under a previous-token head) is no sink.
        """
        size = alpha.shape[-1]
        relative = isinstance(self.hidden, str) or not causal
        found = alpha > (5 / size if relative else float(self.hidden))
        found &= received >= self.least_received
        found[..., 0] = False
        if causal and self.least_rows > 1:
            found[..., size - self.least_rows + 1 :] = False
        return found


class Found:
    """What was read, gathered text by text into rows."""

    def __init__(self, model: Model, rules: Rules, shown: int):
        self.model, self.rules, self.shown = model, rules, shown
        self.heads: dict[
            tuple[str, str], dict[str, list[Tensor]]
        ] = {}  # measure -> [layer, text, head]
        self.layers: dict[str, list[int]] = {}
        self.notes: list[str] = []
        self.profiles: dict[tuple[str, str, int], tuple[int, Tensor]] = {}
        self.tables: dict[str, list[dict[str, Any]]] = {
            name: [] for name in ("tokens", "massive", "dims")
        }

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def read(
        self, domain: str, batch: Batch, tower: Stack, own: SinkDims | None, visual_from: int
    ) -> None:
        prompt = batch.prompt
        if tower.name.startswith("vision") and prompt.ids is not None and not prompt.images:
            if "pixel_values" in prompt.inputs:
                self.note(
                    "The vision stack is left out: its images came as ready inputs; encode(images=)."
                )
            return
        with torch.no_grad():
            trace = self.model.trace(prompt, keep=_kept(tower, own), stack=tower.name)
        layers = self.layers.setdefault(tower.name, trace.layers("sink"))
        alpha = trace["sink"].cpu()  # [layer, text, head, key]
        received = trace["received"].cpu()
        later = self.rules.hidden_sinks(alpha, received, tower.causal)
        values = {
            "alpha_first": alpha[..., 0],
            "sink": (alpha[..., 0] > self.rules.epsilon).float(),
            "hidden": later.sum(-1).float(),
            "hidden_mass": (received * later).sum(-1) / alpha.shape[-1],
            "entropy": trace["entropy"].cpu().mean(-1),
        }
        if trace.layers("written"):
            values["written"] = trace["written"].cpu().mean(-1)
            values["drain_first"] = _drains(trace["value_drain"]).cpu()[..., 0]
        visual = None
        if own is not None and "image" in prompt.names:
            visual = _visual_sinks(trace["sinkness"], prompt, own, min(visual_from, layers[-1]))
            values |= self._shares(prompt, tower, layers, visual)
        gathered = self.heads.setdefault((domain, tower.name), {})
        for name, value in values.items():
            gathered.setdefault(name, []).append(value)
        self._profile(domain, tower, alpha)
        for order, number in enumerate(batch.numbers):
            if number < self.shown:
                self._tokens(domain, tower, trace, order, number, later, visual)

    def _shares(
        self, prompt: Prompt, tower: Stack, layers: list[int], visual: dict[int, Tensor]
    ) -> dict[str, Tensor]:
        """Attention on visual sinks and on the other image tokens, over the rows after the image."""
        share = METRICS["visual_share"]
        keep = {part: share(part=part, sinks=visual) for part in ("sink", "rest")}
        with torch.no_grad():
            trace = self.model.trace(prompt, keep=keep, stack=tower.name, layers=layers)
        image = prompt.where("image").to(torch.int)
        after = (image.flip(1).cumsum(1).flip(1) == 0).cpu()
        rows = after.sum(-1)[:, None]  # none: not a number
        return {
            f"visual_{part}": (trace[part].cpu() * after[:, None]).sum(-1) / rows for part in keep
        }

    def _profile(self, domain: str, tower: Stack, alpha: Tensor) -> None:
        """Sink_k^eps and mean alpha by position: for texts of one length only, as the share falls with it."""
        both = torch.stack([alpha, (alpha > self.rules.epsilon).float()]).mean((1, 3)).sum(1)
        place = (domain, tower.name, alpha.shape[-1])
        texts, sums = self.profiles.get(place, (0, torch.zeros_like(both)))
        self.profiles[place] = (texts + alpha.shape[1], sums + both)

    def profile_rows(self) -> list[dict[str, Any]]:
        rows = []
        for (domain, stack, length), (texts, sums) in self.profiles.items():
            for position, (mean, share) in enumerate((sums / texts).T.tolist()):
                rows.append({"domain": domain, "stack": stack, "length": length, "texts": texts,
                             "position": position, "alpha": mean, "share": share})  # fmt: skip
        return rows

    def _tokens(
        self, domain: str, tower: Stack, trace: Any, order: int, number: int, later: Tensor,
        visual: dict[int, Tensor] | None,
    ) -> None:  # fmt: skip
        """One text: a row for each layer and position, and its largest activations."""
        names = _names(trace.prompt, tower, order, trace["sink"].shape[-1])
        place = {"domain": domain, "record": number, "stack": tower.name}
        for at, layer in enumerate(trace.layers("sink")):
            alpha = trace["sink", layer][order].cpu()
            over = later[at, order].clone()
            over[:, 0] = alpha[:, 0] > self.rules.epsilon
            columns = {"alpha": alpha.mean(0), "heads": over.sum(0)}
            if trace.layers("value_drain"):
                columns["drain"] = _drains(trace["value_drain", layer])[order].cpu().mean(0)
            for name, site in (("peak", "residual_peak"), ("phi", "sinkness")):
                if layer in trace.layers(site):
                    columns[name] = trace[site, layer][order].cpu()
            if visual is not None:
                columns["visual_sink"] = visual[layer][order].cpu()
            listed = {name: value.tolist() for name, value in columns.items()}
            for position, token in enumerate(names):
                row = {name: value[position] for name, value in listed.items()}
                self.tables["tokens"].append(
                    place | {"layer": layer, "position": position, "token": token} | row
                )
            if layer in trace.layers("massive"):
                self._massive(place | {"layer": layer}, names, trace["massive", layer][order].cpu())

    def _massive(self, place: dict[str, Any], names: list[str], found: Tensor) -> None:
        marks = zip(is_massive(found).tolist(), is_massive(found, False).tolist(), strict=True)
        for rank, (fields, (massive, scale_free)) in enumerate(
            zip(found.tolist(), marks, strict=True)
        ):
            value, position, channel, ratio = fields
            self.tables["massive"].append(
                place | {"rank": rank, "value": value, "position": int(position),
                         "token": names[int(position)], "channel": int(channel), "over_median": ratio,
                         "massive": massive, "over_1000_medians": scale_free}
            )  # fmt: skip

    def means(self, domain: str, stack: str) -> dict[str, Tensor]:
        """Each measure as [layer, head]: its mean over the domain's texts."""
        measures = self.heads.get((domain, stack), {})
        return {name: torch.cat(parts, 1).nanmean(1) for name, parts in measures.items()}

    def head_rows(self) -> list[dict[str, Any]]:
        if not self.heads:
            raise ValueError("sinks read no stack: these prompts reach none of those asked for.")
        rows = []
        for (domain, stack), measures in self.heads.items():
            means = self.means(domain, stack)
            texts = sum(part.shape[1] for part in measures["sink"])
            for at, layer in enumerate(self.layers[stack]):
                for head in range(means["sink"].shape[1]):
                    row = {name: float(value[at, head]) for name, value in means.items()}
                    rows.append({"domain": domain, "stack": stack, "layer": layer, "head": head,
                                 "texts": texts} | row)  # fmt: skip
        return rows


def _kept(tower: Stack, own: SinkDims | None) -> dict[str, Metric]:
    """The metrics that this stack can give in one forward."""
    keep: dict[str, Metric] = {name: METRICS[name]() for name in ("sink", "received", "entropy")}
    layers = [layer for layer in tower.layers.values() if layer.attention is not None]
    if all(_has_weight(layer) for layer in layers):
        # The norms themselves: a tower called image by image has no one mean to hold them against.
        keep |= {
            "written": METRICS["written"](),
            "value_drain": METRICS["value_drain"](relative=False),
        }
    if any(layer.module is not None for layer in tower.layers.values()):
        keep |= {name: METRICS[name]() for name in ("residual_peak", "massive")}
        dims = own.dims if own is not None and own.dims else None
        keep["sinkness"] = METRICS["sinkness"](dims=dims)
    return keep


def _drains(norms: Tensor) -> Tensor:
    return over_others(norms, torch.ones_like(norms, dtype=torch.bool))


def _has_weight(layer: Any) -> bool:
    try:
        output_weight(layer)
    except ValueError:
        return False
    return True


def _visual_sinks(phi: Tensor, prompt: Prompt, own: SinkDims, first: int) -> dict[int, Tensor]:
    """Image tokens whose phi reaches tau, by layer; none in the first layers, or without sink dimensions."""
    image = prompt.where("image").to(phi.device)
    return {
        layer: image & (value >= own.tau) & (layer >= first) & bool(own.dims)
        for layer, value in enumerate(phi)
    }


def _names(prompt: Prompt, tower: Stack, row: int, count: int) -> list[str]:
    tokens = prompt.tokens[row] if owns(tower.name, prompt) else []
    return tokens if len(tokens) == count else [str(position) for position in range(count)]
