"""Gradient estimates of patching beside the exact sweep: AtP, AtP*, EAP and EAP-IG.

Nanda 2023; Kramar et al. 2024 (arXiv 2403.00745); Syed et al. 2023 (arXiv 2310.10348); Hanna et al. 2024
(arXiv 2403.17806).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from analyses import analysis
from analyses.attribution.agreement import agreement, node_table
from analyses.attribution.asked import METHODS, Asked, Settings
from analyses.attribution.notes import notes
from interp.asking import choose_stack
from interp.attribution.nodes import chosen_sites
from interp.attribution.steps import fractions
from interp.pairs import METRICS
from interp.registry import unknown
from interp.result import Result

if TYPE_CHECKING:
    from interp.model import Model


@analysis
def attribution(
    model: "Model",
    task: Any,
    *,
    methods: Sequence[str] | str = ("atp", "atp_star", "eap", "eap_ig_inputs"),
    sites: Sequence[str] | str = ("z", "mlp_out", "q", "k"),
    steps: int = 5,
    rule: str = "left",
    metric: str = "logit_diff",
    first: bool = False,
    exact: bool = True,
    top_edges: int | None = 200,
    stack: str | None = None,
    batch: int = 16,
) -> Result:
    """What gradients say that patching each part would do, beside what it does.

    Each record's counterfactual is its corrupted prompt, of as many tokens. A node's effect is
    metric(its corrupted value put into the clean run) - metric(clean run), at all positions at once:
    below 0 where corrupting it hurts. `exact` sweeps all nodes (`model.sweep`), and is what the
    estimates are held against. `metric` of the answers at the last position: "logit_diff" (the right
    less the wrong ones; without those, the counterfactual's), "logit", "probability" or
    "log_probability"; `first` lets answers of several tokens stand for their first.

    `methods`: "atp" (clean gradient), "atp_star" (softmax of queries and keys computed, and one layer
    at a time kept out of the gradient), "eap" (atp for edges), "eap_ig_inputs" (gradients on the way of
    the input from corrupted to clean in `steps`, at k / steps: by `rule` "left" k = 0 .., "right" 1 ..,
    or "midpoint"), "eap_ig_activations" (on the way of each module's output by itself),
    "clean_corrupted" (at both ends). `sites`: z (heads), mlp_out, q, k, v (KV heads), attn_out, resid_pre.

    The table has a row for each node and method: `component` (head, mlp, query, key, value, attention,
    stream), `layer`, `head` (a KV head for key and value), `effect` (mean over records), `magnitude`
    (what it is ranked by: the mean size of the records' effects; of atp_star, of effects with layers
    left out), `estimate` (always True), `exact` and `exact_size` (mean and mean size of the exact effect).
    Node scores of eap are those of atp, and given where atp is not asked for.
    Tables: `agreement`, by method and component: `spearman` (of effects with exact), `spearman_size` (of
    magnitudes with sizes), `error` (mean |effect - exact|) and `relative` (over the mean |exact|);
    `edges`, the `top_edges` (None: all) edges of each edge method by size: `source` -> `destination`,
    `score` of the loss, so above 0 where corrupting the edge hurts; `sums`: what an edge method's edges
    out of the input add up to beside the true change of the loss; `records`: the metric of each, clean
    and corrupted.
    """
    chosen = _chosen(methods, METHODS, "method")
    fractions(steps, rule)
    if metric not in METRICS:
        raise LookupError(unknown("metric", metric, list(METRICS)))
    for name, value in (("batch", batch), ("top_edges", 1 if top_edges is None else top_edges)):
        if value < 1:
            raise ValueError(f"{name}={value}: give at least 1.")
    tower = choose_stack(model.stacks, stack, model.name)
    settings = Settings(chosen, chosen_sites(sites), steps, rule, metric, first, exact, batch)
    asked = Asked(model, tower, settings)
    asked.read(task)
    table = node_table(asked)
    tables = {"agreement": agreement(table)} if exact and len(table) else {}
    if asked.edges:
        tables |= {"edges": asked.edge_table(top_edges), "sums": asked.sums()}
    tables["records"] = asked.records()
    return Result("attribution", table, tables, notes=notes(asked, table, tables))


def _chosen(given: Sequence[str] | str, known: Sequence[str], noun: str) -> tuple[str, ...]:
    listed = (given,) if isinstance(given, str) else tuple(given)
    for name in listed:
        if name not in known:
            raise LookupError(unknown(noun, name, list(known)))
    if not listed or len(set(listed)) < len(listed):
        raise ValueError(f"{noun}s={listed}: name each once, and one at least.")
    return listed
