"""Residual sites, and the bookkeeping of a run: what the tapped modules do when called."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from interp.composing import report_between
from interp.live import LIVE, RUN, Place, Run, carrier_of, hooks_at, pass_through, sessions_of
from interp.prompt import Prompt
from interp.shadow import Around
from interp.speaking import processors, said
from interp.spread import runs_on
from interp.structure import Stack, tops

Forward = Callable[..., Any]


def taps_for(
    hf: nn.Module, stacks: dict[str, Stack], wanted: Iterable[tuple[str, str]], owner: Any
) -> Iterator[tuple[nn.Module, str, Around]]:
    """The methods to shadow so that these (stack, site) pairs and the run's positions are seen."""
    for top in tops(hf, stacks):
        yield top, "forward", _top(owner)
    if hasattr(hf, "generate"):
        yield hf, "generate", _generate(owner)
    for name, site in sorted(set(wanted)):
        for layer in stacks[name].layers.values():
            if layer.module is not None and site in (
                "resid_pre",
                "resid_post",
                "mlp_out",
                "attn_out",
            ):
                yield layer.module, "forward", around_layer
            if layer.out is not None and site == "attn_out":
                yield layer.out, "forward", around_part
            if layer.mlp is not None and site == "mlp_out":
                yield layer.mlp, "forward", around_part


def layer_taps(stack: Stack) -> Iterator[tuple[nn.Module, str, Around]]:
    for layer in stack.layers.values():
        if layer.module is not None:
            yield layer.module, "forward", around_layer


def around_layer(original: Forward, module: nn.Module, args: tuple, kwargs: dict) -> Any:
    """resid_pre before a layer, resid_post after it."""
    place, sessions = sessions_of(module)
    if place is None:
        return original(*args, **kwargs)
    run = RUN.get()
    asked = any(hooks_at(place, site, sessions) for site in ("resid_pre", "resid_post"))
    if asked and run is not None and not place.stack.startswith("vision"):
        run.visit_once(module, place)
    hidden, put = _hidden(args, kwargs)
    device = runs_on(module)
    if device is not None:  # all sites of a layer lie where it runs, its input too
        hidden = hidden.to(device)
    if place.between and place.layer > 0:
        # The model adds to the stream between two layers: what leaves one is what enters the next.
        before = Place("layer", place.stack, place.layer - 1, place.causal)
        hidden = _through(hidden, "resid_post", before, sessions)
    hidden = _through(hidden, "resid_pre", place, sessions)
    if run is not None:
        run.shape = (hidden.shape[0], hidden.shape[1]) if hidden.ndim > 2 else (1, hidden.shape[0])
    args, kwargs = put(hidden)
    carrier = carrier_of(sessions)
    output = (
        original(*args, **kwargs)
        if carrier is None
        else carrier.layer(place, original, args, kwargs)
    )
    if place.between and not place.last:
        return output
    return _change_output(output, lambda value: _through(value, "resid_post", place, sessions))


def around_part(original: Forward, module: nn.Module, args: tuple, kwargs: dict) -> Any:
    """attn_out after an output projection, mlp_out after an MLP."""
    place, sessions = sessions_of(module)
    output = original(*args, **kwargs)
    if place is None:
        return output
    return _change_output(output, lambda value: _through(value, place.role, place, sessions))


def _through(value: Tensor, site: str, place: Place, sessions: list) -> Tensor:
    """Hooks see [batch, position, d_model], whatever the family flattens."""
    hooks = hooks_at(place, site, sessions)
    if not hooks:
        return value
    if value.ndim > 3:
        raise ValueError(
            f"{site} of layer {place.layer} of the {place.stack} stack is {tuple(value.shape)}, not "
            "[batch, position, d_model]: this family keeps several streams there; it is not served."
        )
    run = RUN.get()
    first = run.first if run is not None and (place.causal or place.stack == "cross") else 0
    shape = value.shape
    if value.ndim == 2:
        batch, positions = run.shape if run is not None else (1, len(value))
        fits = batch * positions == len(value)
        value = value.view(batch, positions, -1) if fits else value[None]
    return pass_through(value, hooks, place, first=first).view(shape)


def _hidden(args: tuple, kwargs: dict) -> tuple[Tensor, Callable[[Tensor], tuple[tuple, dict]]]:
    """The residual stream among a layer's arguments, and how to put another one there."""
    if args:
        return args[0], lambda value: ((value, *args[1:]), kwargs)
    name = "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
    return kwargs[name], lambda value: ((), {**kwargs, name: value})


def _change_output(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(output, tuple):
        return (change(output[0]), *output[1:])
    return change(output)


def _top(owner: Any) -> Around:
    """Around the whole model's forward: where in the text it is, and what interventions plan."""

    def around(original: Forward, module: nn.Module, args: tuple, kwargs: dict) -> Any:
        place, sessions = sessions_of(module)
        run = RUN.get()
        # A tower that its model calls is a part of that forward; one that `generate` calls by itself is not.
        if place is None or (run is not None and run.inside):
            return original(*args, **kwargs)
        _check_checkpointing(owner().hf)
        for session in sessions:
            session.used = True
        given = _given(original, args, kwargs)
        token = None
        if run is None:
            run = Run(source=lambda: _prompt(owner(), given))
            token = RUN.set(run)
        try:
            changed = plan_run(module, run)
            if changed is not None:
                args, kwargs = (), {**given, **owner().arguments(changed)}
                given = kwargs
            run.enter(_cached(given.get("past_key_values")), _positions(given))
            run.inside = True
            return said(module, run, given.get("input_ids"), original(*args, **kwargs))
        finally:
            run.inside = False
            if token is not None:
                RUN.reset(token)
                run.end()

    return around


def _generate(owner: Any) -> Around:
    """Around `generate` of the plain model under `using`: all its steps are one run."""

    def around(original: Forward, module: nn.Module, args: tuple, kwargs: dict) -> Any:
        if sessions_of(module)[0] is None or RUN.get() is not None:
            return original(*args, **kwargs)
        given = dict(kwargs)
        if args:
            given[module.main_input_name] = args[0]
        if "inputs" in given:
            given[module.main_input_name] = given.pop("inputs")
        run = Run(source=lambda: _prompt(owner(), given))
        token = RUN.set(run)
        try:
            changed = plan_run(module, run)
            if changed is not None:
                given.update(changed.inputs)
                args, kwargs = args[1:], given
            run.length = prompt_length(owner(), given)
            kwargs = {**kwargs, **processors(module, run, kwargs.get("logits_processor"))}
            return original(*args, **kwargs)
        finally:
            RUN.reset(token)
            run.end()

    return around


def prompt_length(model: Any, given: dict[str, Any]) -> int:
    """Positions of the prompt in the stack that will have a cache; 0 when only its start tells.

    With a cache of an earlier turn, ids may be the new ones only: the mask counts all.
    """
    if model.config.is_encoder_decoder:
        return 0
    mask = given.get("attention_mask")
    seen = mask.shape[-1] if isinstance(mask, Tensor) and mask.ndim == 2 else 0
    return max(seen, _positions(given))


def _given(original: Forward, args: tuple, kwargs: dict) -> dict[str, Any]:
    """A forward's arguments by name."""
    given = inspect.signature(original).bind_partial(*args, **kwargs).arguments
    return {**given, **given.pop("kwargs", {})}


def _prompt(model: Any, given: dict[str, Any]) -> Prompt | None:
    """The prompt of ready inputs; None where there are only embeddings."""
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    if not {"input_ids", "pixel_values", "input_features", "input_values"} & set(tensors):
        return None
    return Prompt.from_inputs(model, tensors)


def _check_checkpointing(hf: Any) -> None:
    """Backward would compute the layers again after the hooks have left: wrong, and in silence."""
    if not (hf.training and torch.is_grad_enabled()):
        return
    if any(getattr(module, "gradient_checkpointing", False) for module in hf.modules()):
        raise ValueError(
            "gradient checkpointing runs the layers again during backward, when the hooks of this run "
            "are gone. Disable it on the model first, or call eval()."
        )


def plan_run(module: nn.Module, run: Run) -> Prompt | None:
    """Let every `using` session of this model plan, once a run; the prompt if one changed it."""
    changed, begun = None, False
    for session in LIVE.get():
        if module in session.places and session.plan is not None and id(session) not in run.planned:
            run.planned[id(session)] = []
            before = run.prompt
            if before is None:
                raise ValueError(
                    "interventions plan from a prompt, and this forward was given embeddings only; "
                    "give token ids."
                )
            after = session.plan(run)
            if after is not None and after is not before:
                run.prompt = changed = after
            begun = True
    if begun:
        live = [session for session in LIVE.get() if module in session.places]
        report_between([[*run.planned.get(id(one), []), *one.hooks] for one in live])
    return changed


def _cached(past: Any) -> int:
    """Positions that the cache already holds."""
    if past is None or not hasattr(past, "get_seq_length"):
        return 0
    return int(past.get_seq_length())


def _positions(given: dict[str, Any]) -> int:
    for name in ("decoder_input_ids", "input_ids", "inputs_embeds", "decoder_inputs_embeds"):
        if isinstance(given.get(name), Tensor):
            return given[name].shape[1]
    return 0
