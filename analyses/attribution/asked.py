"""What is asked of a model, and what its batches gave."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas
import torch
from torch import Tensor

from interp.attribution import (
    Edges,
    Nodes,
    NoEdges,
    along,
    atp,
    atp_star,
    clean_corrupted,
    eap,
    eap_ig_activations,
    eap_ig_inputs,
    edge_table,
)
from interp.attribution.steps import MODULES
from interp.mapping import over
from interp.pairs import Pair, pairs
from interp.sites import head_axis
from interp.structure import Stack

if TYPE_CHECKING:
    from interp.model import Model

EDGE_METHODS = ("eap", "eap_ig_inputs", "eap_ig_activations", "clean_corrupted")
METHODS = ("atp", "atp_star", *EDGE_METHODS)
WAYS = {"eap_ig_inputs": "inputs", "eap_ig_activations": "activations", "clean_corrupted": "ends"}


@dataclass(frozen=True)
class Settings:
    methods: tuple[str, ...]
    sites: tuple[str, ...]
    steps: int
    rule: str
    metric: str
    first: bool
    exact: bool
    batch: int


@dataclass(eq=False)
class Asked:
    """Reads batches of pairs one after the other, and keeps what is asked of each record."""

    model: "Model"
    stack: Stack
    settings: Settings
    layers: dict[str, list[int]] = field(default_factory=dict)
    effects: dict[tuple[str, str], list[Tensor]] = field(default_factory=dict)  # by method and site
    sizes: dict[tuple[str, str], list[Tensor]] = field(default_factory=dict)
    exact: dict[str, list[Tensor]] = field(default_factory=dict)  # by site
    edges: dict[str, list[Edges]] = field(default_factory=dict)
    refused: str = ""  # why this model has no edges
    read_off: list[dict[str, float]] = field(default_factory=list)

    @property
    def node_methods(self) -> list[str]:
        """Methods with node scores of their own: eap's are atp's."""
        given = self.settings.methods
        return [name for name in given if name != "eap" or "atp" not in given]

    def read(self, task: Any) -> None:
        given = list(pairs(self.model, task, "attribution", self.settings.batch))
        for found in over(self.model, given, self._of_pair, "attribution"):
            self._add(found)

    def _of_pair(self, pair: Pair) -> "Asked":
        """What one batch gives."""
        own = Asked(self.model, self.stack, self.settings, refused=self.refused)
        metric = pair.metric(self.model, self.settings.metric, self.settings.first)
        own._read_ends(pair, metric)
        for method in self.node_methods:
            own._read_nodes(pair, metric, method)
        for method in self.settings.methods:
            if method in EDGE_METHODS and not own.refused:
                own._read_edges(pair, metric, method)
        if self.settings.exact:
            own._sweep(pair, metric)
        return own

    def _add(self, other: "Asked") -> None:
        """The next batch's; edges only up to the first batch that has none."""
        kept = [(self.effects, other.effects), (self.sizes, other.sizes), (self.exact, other.exact)]
        kept += [] if self.refused else [(self.edges, other.edges)]
        for mine, theirs in kept:
            for key, parts in theirs.items():
                mine.setdefault(key, []).extend(parts)
        self.layers |= other.layers
        self.refused = self.refused or other.refused
        self.read_off += other.read_off

    def _read_ends(self, pair: Pair, metric: Any) -> None:
        with torch.no_grad():
            clean, corrupted = (
                metric(self.model.logits(one), one).tolist() for one in (pair.clean, pair.corrupted)
            )
        for number, own, other in zip(pair.numbers, clean, corrupted, strict=True):
            self.read_off.append({"record": number, "clean": own, "corrupted": other})

    def _read_nodes(self, pair: Pair, metric: Any, method: str) -> None:
        given = self.settings
        sites = [one for one in given.sites if method != "eap_ig_activations" or one in MODULES]
        if not sites:
            return
        asked = (self.model, pair.clean, pair.corrupted, metric)
        if method == "atp_star":
            nodes = atp_star(*asked, sites=sites, stack=self.stack.name)
        elif method in WAYS:
            nodes = along(*asked, way=WAYS[method], steps=given.steps, rule=given.rule, sites=sites,
                          stack=self.stack.name)  # fmt: skip
        else:
            nodes = atp(*asked, sites=sites, stack=self.stack.name)
        self._keep(method, nodes)

    def _keep(self, method: str, nodes: Nodes) -> None:
        for site, layers in nodes.layers.items():
            self.layers[site] = layers
            self.effects.setdefault((method, site), []).append(nodes.whole[site])
            self.sizes.setdefault((method, site), []).append(nodes.whole_magnitudes[site])

    def _read_edges(self, pair: Pair, metric: Any, method: str) -> None:
        given, asked = self.settings, (self.model, pair.clean, pair.corrupted, metric)
        walked = {"steps": given.steps, "rule": given.rule, "stack": self.stack.name}
        try:
            if method == "eap_ig_inputs":
                found = eap_ig_inputs(*asked, **walked)
            elif method == "eap_ig_activations":
                found = eap_ig_activations(*asked, **walked)
            else:
                way = eap if method == "eap" else clean_corrupted
                found = way(*asked, stack=self.stack.name)
        except NoEdges as problem:
            self.refused = str(problem)
            return
        self.edges.setdefault(method, []).append(found)

    def _sweep(self, pair: Pair, metric: Any) -> None:
        with torch.no_grad():
            trace = self.model.trace(pair.corrupted, *self.settings.sites, stack=self.stack.name)
        for site in self.settings.sites:
            over = ("layer",) if head_axis(site) is None else ("layer", "head")
            grid = self.model.sweep(
                pair.clean, site, take=trace, over=over, metric=metric, stack=self.stack.name
            )
            values = torch.as_tensor(grid).as_subclass(Tensor)
            plain = torch.as_tensor(grid.plain).as_subclass(Tensor)
            change = values - plain.view(-1, *[1] * (values.ndim - 1))
            self.exact.setdefault(site, []).append(change.cpu())

    def records(self) -> pandas.DataFrame:
        return pandas.DataFrame(sorted(self.read_off, key=lambda row: row["record"]))

    def edge_table(self, top: int | None) -> pandas.DataFrame:
        """The largest edges of each method, by mean score over all records."""
        tables = [
            edge_table(
                method, found[0].graph, torch.cat([one.scores for one in found]).mean(0), top
            )
            for method, found in self.edges.items()
        ]
        return pandas.concat(tables, ignore_index=True)

    def sums(self) -> pandas.DataFrame:
        """Edges out of the input, added up, beside the change of the loss that they divide."""
        change = sum(row["clean"] - row["corrupted"] for row in self.read_off) / len(self.read_off)
        rows = []
        for method, found in self.edges.items():
            out = torch.cat([one.scores[:, 0] for one in found]).sum(-1).mean()
            rows.append({"method": method, "out_of_input": float(out), "change": change})
        return pandas.DataFrame(rows).assign(estimate=True)
