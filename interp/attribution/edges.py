"""Edge attribution patching and its integrated kinds (Syed et al. 2023; Hanna et al. 2024)."""

from typing import TYPE_CHECKING, Any

from interp.attribution.contrast import Contrast, contrast
from interp.attribution.graph import Edges
from interp.attribution.reads import READ_SITES, projections, readers
from interp.attribution.scores import Scores
from interp.attribution.steps import Walk
from interp.attribution.writes import VALUES, write_changes

if TYPE_CHECKING:
    from interp.model import Model


def eap(
    model: "Model", clean: Any, corrupted: Any, metric: Any, *, stack: str | None = None
) -> Edges:
    """Edge attribution patching: gradients of the clean run. Two forwards and a backward."""
    return _edges(contrast(model, clean, corrupted, metric, stack), "eap", Walk("clean"))


def clean_corrupted(
    model: "Model", clean: Any, corrupted: Any, metric: Any, *, stack: str | None = None
) -> Edges:
    """Gradients averaged over the clean and the corrupted run."""
    given = contrast(model, clean, corrupted, metric, stack)
    return _edges(given, "clean_corrupted", Walk("ends"))


def eap_ig_inputs(
    model: "Model",
    clean: Any,
    corrupted: Any,
    metric: Any,
    *,
    steps: int = 5,
    rule: str = "left",
    stack: str | None = None,
) -> Edges:
    """Gradients averaged while the input walks from corrupted to clean, in `steps` by `rule`.

    Rules: "left" (EAP-IG's for edges: k/m for k = 0 .. m - 1), "right" (1 .. m), "midpoint", which
    comes nearest. The edges that leave the input sum to the change of the loss as steps grow.
    """
    walk = Walk("inputs", steps, rule)
    return _edges(contrast(model, clean, corrupted, metric, stack), "eap_ig_inputs", walk)


def eap_ig_activations(
    model: "Model",
    clean: Any,
    corrupted: Any,
    metric: Any,
    *,
    steps: int = 5,
    rule: str = "left",
    stack: str | None = None,
) -> Edges:
    """The output of one module at a time walks: the input, a layer's heads together, an MLP.

    An edge takes the gradients of the walk of its own source, so that a module's edges sum to what
    corrupting it does as steps grow. (EAP-IG's code lets the walks of all modules count for every
    edge.) A forward and a backward for each step of each of 2 * layers + 1 modules.
    """
    walk = Walk("activations", steps, rule)
    return _edges(contrast(model, clean, corrupted, metric, stack), "eap_ig_activations", walk)


def _edges(given: Contrast, method: str, walk: Walk) -> Edges:
    sites, inside = tuple(dict.fromkeys([*READ_SITES, *VALUES])), projections(given)
    corrupted = None if walk.starts_corrupted else given.values(given.corrupted, *VALUES)
    clean = None if walk.way == "clean" else given.values(given.clean, *VALUES)
    ends = None if clean is None or corrupted is None else (clean, corrupted)
    total: Scores | None = None
    for step in walk.runs(given, sites, ends, inside):
        if total is None:  # the first run may be the clean one, or the corrupted one
            own = step.ran.trace
            one, other = own if clean is None else clean, own if corrupted is None else corrupted
            changes, sizes = write_changes(given, one, other)
            total = Scores(given, changes, readers(given, step.ran, sizes))
        total.add(step)
    assert total is not None
    total.finish()
    # The loss is the metric's opposite.
    return Edges(method, total.graph, -total.edges, -total.nodes, total.notes())
