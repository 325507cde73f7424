"""Circuits: which parts of a model do a task, as records, and whether they do.

    graph = Graph.of(model)
    circuit = Circuit.of(graph, ["0.2", "2.1", "mlp 3"], task="ioi")
    runs = NodeRuns(model, task, Instead("mean", groups="template"), mlps="parts")
    faithfulness(runs, circuit).share

    Search("sweep").find(model, task).circuit  # finds one: "sweep", "paths" or "eap_ig"

`NodeRuns` replaces heads (as "parts" MLPs too) outside a circuit, `EdgeRuns` what flows along edges
outside of it.
"""

from interp.circuits.building import greedy, pruned, top
from interp.circuits.curves import SIZES, areas, overlap
from interp.circuits.edges import EdgeRuns
from interp.circuits.estimated import Estimated, estimated
from interp.circuits.finding import FoundCircuit, Search
from interp.circuits.graph import Edge, Graph, Node
from interp.circuits.held_out import judged
from interp.circuits.judging import completeness, curve, faithfulness, minimality
from interp.circuits.knocked_out import knocked_out
from interp.circuits.nodes import NodeRuns
from interp.circuits.paths import path_effects
from interp.circuits.record import Circuit
from interp.circuits.replaced import Instead
from interp.circuits.search import node_effects, searched
from interp.circuits.staged import STAGES, Stage, in_stages, task_effects

__all__ = [
    "SIZES",
    "STAGES",
    "Circuit",
    "Edge",
    "EdgeRuns",
    "Estimated",
    "FoundCircuit",
    "Graph",
    "Instead",
    "Node",
    "NodeRuns",
    "Search",
    "Stage",
    "areas",
    "completeness",
    "curve",
    "estimated",
    "faithfulness",
    "greedy",
    "in_stages",
    "judged",
    "knocked_out",
    "minimality",
    "node_effects",
    "overlap",
    "path_effects",
    "pruned",
    "searched",
    "task_effects",
    "top",
]
