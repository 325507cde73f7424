"""What `trace` keeps: hooks that record sites, and metrics with who takes their numbers."""

from typing import Any

from torch import Tensor

from interp.asking import choose_layers, place_hooks
from interp.live import Placed, Watched
from interp.metrics import Metric, SiteMetric, owns
from interp.sites import ATTENTION_SITES, QUERY_HEAD_SITES, At, Hook, parse_site
from interp.structure import Stack
from interp.trace import Trace


def recorded(
    stacks: dict[str, Stack],
    trace: Trace,
    stack: Stack,
    site: str,
    layers: Any,
    heads: Any,
    everything: bool,
) -> list[Placed]:
    """Hooks that record one site; when every site is asked for, absent ones are passed over."""
    name, own = parse_site(site)
    if own is not None and layers is not None and own not in layers:
        raise ValueError(f"{site} is in layer {own}, and layers= asks for {layers}.")
    try:
        chosen = choose_layers(stack, layers if own is None else own, name)
    except LookupError:
        if everything and layers is None:
            return []
        raise
    chosen = chosen - trace.recorded(name, stack.name)  # named twice, perhaps by another name
    if not chosen:
        return []
    counted = QUERY_HEAD_SITES if everything else ATTENTION_SITES[:-1]
    heads = heads if name in counted else None
    trace.expect(name, stack.name, chosen)
    hook = Hook(name, trace.recorder(name), sorted(chosen), stack.name, heads)
    return place_hooks(stacks, hook, trace.model)


def watched(trace: Trace, stack: Stack, name: str, metric: Metric, layers: Any) -> Watched:
    """A metric that takes attention maps block by block."""
    chosen = choose_layers(stack, layers, metric.site)
    return Watched(metric, stack.name, chosen, trace.collect(name, metric.joins))


def measured(
    stacks: dict[str, Stack], trace: Trace, stack: Stack, name: str, metric: SiteMetric, layers: Any
) -> list[Placed]:
    """Hooks that read a metric off a site that passes whole."""
    chosen = sorted(choose_layers(stack, layers, metric.site))
    keep = trace.collect(name, metric.joins)

    def measure(value: Tensor, at: At) -> None:
        owner = at.prompt if owns(at.stack, at.prompt, at.site) else None
        keep(metric(value, owner, stack.layers[at.layer]), at)

    return place_hooks(stacks, Hook(metric.site, measure, chosen, stack.name), trace.model)
