"""Gradient estimates of what patching would do: all nodes or edges at the price of a few runs.

    from interp.attribution import atp, eap
    nodes = atp(model, clean, corrupted, metric)  # effects of patching each z and mlp_out
    edges = eap(model, clean, corrupted, metric)  # scores of each edge between parts
    nodes.table(), edges.table(top=50)

How far to trust them, best first: exact patching (`model.sweep`), EAP-IG over activations, EAP-IG over
inputs, AtP*, EAP and AtP. All agree where the metric is linear in what is patched.
"""

from interp.attribution.contrast import Contrast, contrast
from interp.attribution.edges import clean_corrupted, eap, eap_ig_activations, eap_ig_inputs
from interp.attribution.graph import Edges, Graph, Node, edge_table
from interp.attribution.nodes import Nodes, along, atp
from interp.attribution.star import atp_star, key_coefficient
from interp.attribution.steps import fractions
from interp.attribution.writes import NoEdges

__all__ = [
    "Contrast", "Edges", "Graph", "NoEdges", "Node", "Nodes", "along", "atp", "atp_star", "clean_corrupted",
    "contrast", "eap", "eap_ig_activations", "eap_ig_inputs", "edge_table", "fractions", "key_coefficient",
]  # fmt: skip
