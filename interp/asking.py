"""From what a user asks (hooks, layers, metrics) to what a session holds, or a refusal with its reason."""

import inspect
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from interp.composing import Several, report_conflicts
from interp.live import Placed
from interp.sites import MAP_SITES, Hook, LogitsHook, head_axis, parse_site, whole_number
from interp.structure import Stack

if TYPE_CHECKING:
    from interp.metrics import Metric

_GROUPS = itertools.count()  # each list of hooks, and each intervention, shares one memo

_NEEDS = {"attn_out": "out", "mlp_out": "mlp", "resid_pre": "module", "resid_post": "module"}


def choose_stack(stacks: dict[str, Stack], name: str | None, owner: str) -> Stack:
    """The named stack, or the main one."""
    if name is None:
        return next(iter(stacks.values()))
    if name not in stacks:
        raise LookupError(f"{owner} has no {name!r} stack. Its stacks are: {', '.join(stacks)}.")
    return stacks[name]


def whole_numbers(given: Any, noun: str) -> list[int]:
    """One number or several, as a list that is not empty."""
    if hasattr(given, "tolist"):  # numpy's and torch's
        given = given.tolist()
    if isinstance(given, str) or not isinstance(given, Iterable):
        return [whole_number(given, noun)]
    numbers = [whole_number(number, noun) for number in given]
    if not numbers:
        raise ValueError(f"{noun}= names none; leave it out for all of them.")
    return numbers


def choose_layers(stack: Stack, layers: Any, site: str) -> frozenset[int]:
    """Layer numbers that exist and hold the site; negative ones count from the end."""
    if site in stack.refused:
        raise LookupError(stack.refused[site])
    part = _NEEDS.get(site, "attention")
    holding = {index for index, layer in stack.layers.items() if getattr(layer, part) is not None}
    if not holding:
        raise LookupError(
            f"the {stack.name} stack has no {site}: it is the cross attention of another stack, "
            "whose layers hold the residual sites and mlp_out."
            if "cross" in stack.name
            else f"no layer of the {stack.name} stack offers {site}; see model.points()."
        )
    if layers is None:
        return frozenset(holding)
    asked = whole_numbers(layers, "layers")
    for layer in asked:
        if not -stack.size <= layer < stack.size:
            raise IndexError(
                f"layer {layer} is out of range: the {stack.name} stack has layers "
                f"0 to {stack.size - 1}."
            )
    chosen = frozenset(layer % stack.size for layer in asked)
    if missing := sorted(chosen - holding):
        raise LookupError(
            f"layers {missing} of the {stack.name} stack offer no {site}; "
            f"it is there in layers {sorted(holding)}."
        )
    return chosen


def choose_heads(stack: Stack, heads: Any, site: str) -> tuple[int, ...] | None:
    """Head numbers that exist at the site (KV heads at k and v)."""
    if heads is None:
        return None
    if head_axis(site) is None:
        raise ValueError(f"{site} has no heads; heads= goes with q, k, v, scores, pattern and z.")
    count = stack.kv_heads if site in ("k", "v") else stack.heads
    kind = "KV heads" if site in ("k", "v") else "heads"
    asked = whole_numbers(heads, "heads")
    for head in asked:
        if not -count <= head < count:
            raise IndexError(
                f"head {head} is out of range: {site} of the {stack.name} stack has {kind} "
                f"0 to {count - 1}."
            )
    chosen = tuple(head % count for head in asked)
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"heads={asked} names a head twice.")
    return chosen


def _check_within(hook: Hook, site: str) -> None:
    if hook.within is None:
        return
    if site not in MAP_SITES:
        raise ValueError(f"within= goes with the rows of scores and pattern, not with {site}.")
    given = hook.within
    if not isinstance(given, tuple) or len(given) != 2:
        raise TypeError(f"within={given!r}: positions (start, stop), or (start, None).")
    start = whole_number(given[0], "within=(start, stop)")
    stop = None if given[1] is None else whole_number(given[1], "within=(start, stop)")
    if start < 0 or (stop is not None and stop <= start):
        raise ValueError(
            f"within={given!r} holds no row: positions count from 0, start before stop."
        )


def _check_takes(hook: Hook) -> None:
    """A hook is called with the value and where it is."""
    try:
        inspect.signature(hook.fn).bind(None, None)
    except TypeError:
        raise TypeError(
            f"{hook.name} at {hook.site} cannot be called as fn(value, at): a hook takes the value and where "
            "it is (at.layer, at.first, ...), both by position."
        ) from None
    except ValueError:  # built in, and tells nothing of itself
        return


def place_hooks(
    stacks: dict[str, Stack], hooks: Any, owner: str, planner: str | None = None
) -> list[Placed]:
    """Hooks with their site, layers and heads checked; together they share one memo.

    `planner` is the intervention that they are of.
    """
    group, placed = next(_GROUPS), []
    if not isinstance(hooks, Iterable) and not isinstance(hooks, Hook):
        raise TypeError(f"hooks= takes interp.Hook objects, not {hooks!r}: Hook('z', function).")
    for hook in [hooks] if isinstance(hooks, Hook) else hooks:
        if isinstance(hook, LogitsHook):
            main, name = next(iter(stacks)), planner or hook.name
            placed.append(Placed(hook, frozenset(), main, None, group, name, planner is not None))
            continue
        if not isinstance(hook, Hook):
            raise TypeError(
                f"hooks= takes interp.Hook objects, not {hook!r}: Hook(site, function), where the "
                "function takes (value, at)."
            )
        if not callable(hook.fn):
            raise TypeError(
                f"the hook at {hook.site} needs a function fn(value, at), not {hook.fn!r}."
            )
        _check_takes(hook)
        site, layer = parse_site(hook.site)
        layers = hook.layers if layer is None else [layer]
        if layer is not None and hook.layers is not None:
            raise ValueError(f"{hook.site} names its layer; leave layers= out.")
        if hook.rows and site not in MAP_SITES:
            raise ValueError(f"rows=True goes with scores and pattern, not with {site}.")
        _check_within(hook, site)
        stack = choose_stack(stacks, hook.stack, owner)
        placed.append(
            Placed(
                replace(hook, site=site, layers=layers, stack=stack.name),
                choose_layers(stack, layers, site),
                stack.name,
                choose_heads(stack, hook.heads, site),
                group,
                planner or hook.name,
                planner is not None,
            )
        )
    return placed


def check_metric(metric: "Metric", stack: Stack, prompt: Any) -> None:
    """A metric that would give a number without meaning here is refused."""
    cross = "cross" in stack.name
    if cross and metric.one_sequence:
        raise ValueError(
            f"{metric.name} measures where in one sequence a query looks; in the {stack.name} stack "
            "queries and keys are different sequences."
        )
    if metric.only_causal and not stack.causal:
        raise ValueError(
            f"{metric.name} is defined for causal attention; the {stack.name} stack sees both ways."
        )
    metric.check(stack.name, prompt)


def interventions(using: Any) -> list[Any]:
    """`using=` as a flat list: an intervention, a hook, or lists of them, left to right."""
    if using is None:
        return []
    if isinstance(using, Several):
        return interventions(using.each)
    if isinstance(using, (list, tuple)):
        return [item for part in using for item in interventions(part)]
    if isinstance(using, type) and hasattr(using, "plan"):
        raise TypeError(
            f"using={using.__name__} is the class; give one with settings: {using.__name__}()."
        )
    if not isinstance(using, Hook) and not callable(getattr(using, "plan", None)):
        raise TypeError(
            "using= takes interp.Hook or interventions (objects with plan(model, prompt)), "
            f"not {using!r}."
        )
    return [using]


def plan(model: Any, prompt: Any, using: list[Any]) -> tuple[Any, list[Placed]]:
    """Let each intervention see the prompt as the ones before it left it, and name its hooks."""
    placed: list[Placed] = []
    for item in using:
        if isinstance(item, Hook):
            placed += place_hooks(model.stacks, item, model.name)
            continue
        before = prompt
        prompt, hooks = item.plan(model, prompt)
        planned = [one.owner for one in placed if one.planned]
        if prompt is not before and planned:
            raise ValueError(
                f"{type(item).__name__} changes the prompt, and {planned[0]} has planned for the one before: "
                f"put {type(item).__name__} first."
            )
        # What stands for another says whom, and a hook that is watched remains the user's own.
        owner = getattr(item, "owner", type(item).__name__)
        placed += place_hooks(model.stacks, hooks, model.name, owner)
    report_conflicts(placed)
    return prompt, placed


def note_ran(own: Sequence[Placed], seen: dict[tuple[str, str], Placed]) -> None:
    """What a run's hooks have come to; one that ran in any run has run."""
    for one in own:
        known = seen.setdefault((one.owner, one.hook.site), one)
        known.ran = known.ran or one.ran
