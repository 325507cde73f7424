"""A Hugging Face model with named sites: read it, reduce what passes, change it."""

import functools
import threading
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from interp.asking import (
    check_metric,
    choose_stack,
    interventions,
    note_ran,
    place_hooks,
    plan,
    whole_numbers,
)
from interp.families import family_of
from interp.fitting import check_fit, check_kind, fit, kind_of, places_of, unfit
from interp.forward import arguments, check_padding, single_pass
from interp.keeping import measured, recorded, watched
from interp.live import RUN, Placed, Run, Session, Watched, live
from interp.metrics import METRICS, SiteMetric, resolve
from interp.prompt import Prompt
from interp.shadow import Around, bare_calls, shadowed
from interp.shipped import called
from interp.sites import SITES, Hook
from interp.speaking import processors
from interp.structure import Stack, find_stacks, rotated
from interp.taps import plan_run, prompt_length, taps_for
from interp.trace import Trace, main_output

if TYPE_CHECKING:
    import pandas
    from transformers import PreTrainedModel

    from interp.sweep import Grid


class Model:
    """Wraps a live model; `hf` stays the model it was, on SDPA until something is asked.

    `stacks` names its towers. Hooks and traces belong to the thread (context) that asked for them.
    """

    backend = "hf"

    def __init__(self, hf: Any, processor: Any = None):
        check_kind(hf)
        self.hf: Any = hf
        self.processor = processor
        self.family = family_of(hf.config)
        self.stacks: dict[str, Stack] = find_stacks(hf)
        fit(hf, self.stacks)
        self.places = places_of(hf, self.stacks)
        self.kind = kind_of(hf, self.stacks)

    @property
    def name(self) -> str:
        """The folder or hub id it came from, else its class."""
        return called(self.hf.config.name_or_path or "") or type(self.hf).__name__

    @property
    def plain(self) -> Any:
        """The model as transformers builds it: whose weights these are, by its own names."""
        return self.hf

    @property
    def weighed(self) -> "Model":
        """What its weights are read through: itself, or the plain model behind another back end."""
        return self

    @property
    def config(self) -> Any:
        """The Hugging Face config of the model that is wrapped."""
        return self.hf.config

    @property
    def device(self) -> torch.device:
        """Where the first of its weights lies."""
        return next(self.hf.parameters()).device

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, also where it is part of a processor; None without one."""
        own = getattr(self.processor, "tokenizer", None)
        return own or (self.processor if hasattr(self.processor, "convert_ids_to_tokens") else None)

    @property
    def image_processor(self) -> Any:
        """The image processor, also where it is part of a processor; None without one."""
        own = getattr(self.processor, "image_processor", None)
        return own or (self.processor if hasattr(self.processor, "image_mean") else None)

    @functools.cached_property
    def rotated(self) -> frozenset[str]:
        """The stacks whose queries and keys are rotated by position before attention sees them."""
        return rotated(self.hf, self.stacks)

    def __repr__(self) -> str:
        stacks = ", ".join(repr(stack).removeprefix("Stack") for stack in self.stacks.values())
        return f"{type(self).__name__}({self.name}: {stacks})"

    def encode(self, text: Any = None, images: Any = None, **settings: Any) -> Prompt:
        """Text, chat messages, token ids or images as a `Prompt`; a list is a batch."""
        from interp.encode import encode

        return encode(self, text, images, **settings)

    def decode(self, ids: Tensor, prompt: Prompt | None = None) -> list[str]:
        """Token ids as text, without special tokens; with `prompt`, only what came after it."""
        if self.tokenizer is None:
            raise ValueError(f"{self.name} has no tokenizer; the ids are all there is.")
        if prompt is not None and not self.config.is_encoder_decoder:
            ids = ids[:, prompt.length :]
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def arguments(self, prompt: Prompt) -> dict[str, Any]:
        """What one forward needs: the prompt, positions that skip padding, a decoder's first token."""
        return arguments(self, prompt)

    def trace(
        self,
        prompt: Any,
        *sites: str,
        layers: Sequence[int] | int | None = None,
        stack: str | Sequence[str] | None = None,
        keep: Any = None,
        using: Any = None,
        hooks: Sequence[Hook] | Hook = (),
        heads: Sequence[int] | int | None = None,
    ) -> Trace:
        """Run once and keep what passes: sites whole, metrics (`keep=`) streamed with no map made.

        Values are those after every change. No sites and no metrics: every site. Gradients reach
        what is kept as whole sites unless torch.no_grad is on; a trace of metrics alone keeps none.
        """
        prompt = self._prompt(prompt)
        sites = tuple(
            name for site in sites for name in ([site] if isinstance(site, str) else site)
        )
        for name in set(sites) & set(METRICS):
            raise LookupError(f"{name!r} is a metric, not a site: trace(prompt, keep={name!r}).")
        layers = None if layers is None else whole_numbers(layers, "layers")
        metrics = resolve(keep) if keep is not None else {}
        names = [stack] if stack is None or isinstance(stack, str) else list(stack)
        chosen = [choose_stack(self.stacks, name, self.name) for name in names]
        sizes = {name: stack.size for name, stack in self.stacks.items()}
        trace = Trace(prompt, chosen[0].name, self.name, sizes, self.rotated)
        sites = sites or (() if metrics else tuple(SITES))
        readers = [
            placed
            for tower in chosen
            for site in sites
            for placed in recorded(
                self.stacks, trace, tower, site, layers, heads, len(sites) == len(SITES)
            )
        ]
        gradient = torch.is_grad_enabled() and bool(readers)
        wanted = [(tower, name, metric) for tower in chosen for name, metric in metrics.items()]
        for tower, _, metric in wanted:
            check_metric(metric, tower, prompt)
        readers += [
            placed
            for tower, name, metric in wanted
            if isinstance(metric, SiteMetric)
            for placed in measured(self.stacks, trace, tower, name, metric, layers)
        ]
        watching = [
            watched(trace, tower, name, metric, layers)
            for tower, name, metric in wanted
            if not isinstance(metric, SiteMetric)
        ]
        with (
            torch.set_grad_enabled(gradient),
            self._asked(prompt, using, hooks, readers, watching) as run,
        ):
            trace.prompt = run.prompt
            trace.output = self._once(run.prompt)
        if len(trace) == 0:
            raise LookupError(
                f"nothing passed {', '.join([*sites, *metrics])} of the "
                f"{trace.stack} stack: this prompt does not reach it."
            )
        return trace

    def logits(self, prompt: Any, using: Any = None, hooks: Sequence[Hook] | Hook = ()) -> Tensor:
        """Run once and return the logits; gradients flow."""
        with self._asked(self._prompt(prompt), using, hooks) as run:
            return main_output(self._once(run.prompt))

    def generate(
        self, prompt: Any, using: Any = None, hooks: Sequence[Hook] | Hook = (), **generate: Any
    ) -> Any:
        """What `hf.generate` returns for this prompt and these options, under the hooks."""
        if not hasattr(self.hf, "generate"):
            raise ValueError(f"{type(self.hf).__name__} cannot generate; use trace or logits.")
        with self._asked(self._prompt(prompt), using, hooks) as run:
            given = {**run.prompt.inputs, **generate}
            run.length = prompt_length(self, given)
            given |= processors(self.hf, run, generate.get("logits_processor"))
            return self.hf.generate(**given)

    @contextmanager
    def using(self, *items: Any) -> Iterator["Model"]:
        """Plain code on `model.hf` inside the block runs under these hooks and interventions.

            with model.using(Hook("z", silence)):
                model.hf.generate(**inputs)

        They hold for this thread (context). A thread started inside takes them along when its target
        is run by `contextvars.copy_context().run`.
        """
        self._check()
        listed = interventions(items)
        hooks = [item for item in listed if isinstance(item, Hook)]
        placed = place_hooks(self.stacks, hooks, self.name)  # refuses now, not at the first call

        def begin(run: Run) -> Prompt | None:
            prompt, own = plan(self, run.prompt, listed)
            run.planned[id(session)] = own
            run.ending.append(lambda: note_ran(own, planned))
            return prompt

        planned: dict[tuple[str, str], Placed] = {}  # of all runs, by owner and site

        plans = len(hooks) < len(listed)
        session = Session(self.places, plan=begin) if plans else Session(self.places, placed)
        wanted = [(name, site) for name in self.stacks for site in SITES]
        with shadowed(self._taps(wanted)), live(session):
            before = bare_calls(self.hf)
            yield self
            elsewhere = bare_calls(self.hf) > before
        if session.used:
            self._complain(list(planned.values()) if plans else placed)
        if elsewhere and not session.used:
            warnings.warn(
                "the model ran in another thread while using(...) was open here, and without it: a thread "
                "takes the block along when its target is run by contextvars.copy_context().run.",
                stacklevel=3,
            )

    def points(self, prompt: Any = None) -> "pandas.DataFrame":
        """Which site of which stack and layer can be read and changed, proved by trying each."""
        from interp.points import probe

        return probe(self, prompt)

    def sweep(
        self,
        prompt: Any,
        site: str,
        take: Any = "zero",
        over: Sequence[str] | str = ("layer", "position"),
        metric: Any = None,
        *,
        layers: Any = None,
        positions: Any = None,
        heads: Any = None,
        spans: Any = None,
        window: int = 1,
        stack: str | None = None,
        reference: Any = None,
        scale: float = 3.0,
        seed: int = 0,
        hooks: Sequence[Hook] | Hook = (),
        using: Any = None,
        budget: float = 1e9,
        save: Any = None,
        progress: bool | None = None,
        path: str | None = None,
        on: str | None = None,
    ) -> "Grid":
        """Many single changes of one run, and what each does to a number: a grid [batch, *over].

            grid = model.sweep(prompt, "resid_pre", take=clean_trace, metric=logit_diff(right, wrong))

        For each cell of `over` ("layer", "position" or "span", "head") the site's values are replaced at
        that cell, and the metric is read off the changed run. Exact: as a forward with a hook would give.

        `take`: a Trace (patching: its values at the same places), "zero", "mean" (over the rows of
        `reference` at each position), "mean_all" (over positions too), "resample" (another row of it),
        "noise" (`scale` standard deviations, `seed`), a function (value, at) -> value as a Hook's (of all
        heads), or a mapping layer -> tensor. `reference` is a Prompt or Trace; without it, the prompt's own
        rows.
        `metric`: interp.metrics.logit_diff and its kin, or a function of logits -> [batch] or [batch, k].
        `layers`, `positions` (numbers, a span's name, a mask), `heads`, `spans` restrict; what `over` does
        not name is changed all together. `window` layers around each one (2: it and the one before) are
        changed together. `hooks` and `using` are part of the run and of every changed run. `stack` names
        the tower.
        Replayed rows run together up to `budget` bytes, what is kept of the run included (an estimate);
        `save` is a folder where finished chunks are kept, so that a killed sweep goes on. `grid.path` says
        how it was done, `path=` asks for a slower way. What padding itself says is not served.
        `on="ray"` shares the work out to the workers of a Ray cluster (interp.mapping), to the same bytes.
        """
        from interp.sweep import sweep

        return sweep(
            self, prompt, site, take, over, metric, layers=layers, positions=positions, heads=heads,
            spans=spans, window=window, stack=stack, reference=reference, scale=scale, seed=seed,
            hooks=hooks, using=using, budget=budget, save=save, progress=progress, path=path,
            on=on,
        )  # fmt: skip

    def unwrap(self) -> "PreTrainedModel":
        """Give the model its own attention back; this object is of no use afterwards."""
        with WRAPPING:
            unfit(self.hf)
            WRAPPED.pop(self.hf, None)
        return self.hf

    def _prompt(self, prompt: Any) -> Prompt:
        """A prompt as it is, ready forward inputs as one, anything else encoded."""
        if isinstance(prompt, Mapping):
            return Prompt.from_inputs(self, dict(prompt))
        return prompt if isinstance(prompt, Prompt) else self.encode(prompt)

    @contextmanager
    def _asked(
        self,
        prompt: Prompt,
        using: Any,
        hooks: Sequence[Hook] | Hook,
        readers: Sequence[Placed] = (),
        metrics: Sequence[Watched] = (),
    ) -> Iterator[Run]:
        """One run of this model under interventions, hooks, readers and metrics, in that order."""
        self._check()
        prompt, placed = plan(self, prompt, interventions(using))
        check_padding(self.hf, prompt)
        placed += place_hooks(self.stacks, hooks, self.name)
        session = Session(self.places, [*placed, *readers], list(metrics))
        wanted = [(hook.stack, hook.hook.site) for hook in session.hooks]
        run = Run()
        run.prompt = prompt
        with ExitStack() as leaving:
            leaving.enter_context(shadowed(self._taps(wanted)))
            leaving.enter_context(live(session))
            leaving.callback(RUN.reset, RUN.set(run))
            leaving.callback(run.end)
            plan_run(self.hf, run)  # `using` blocks around this call see its prompt
            yield run
        self._complain(placed)

    # What another back end does in its own way.

    def _check(self) -> None:
        """Refuse when it cannot run as it was wrapped."""
        check_fit(self.name, self.stacks)

    def _taps(self, wanted: Iterable[tuple[str, str]]) -> Iterable[tuple[nn.Module, str, Around]]:
        """The methods that stand in the way of these (stack, site) pairs while something is asked."""
        return taps_for(self.hf, self.stacks, wanted, weakref.ref(self))

    def _once(self, prompt: Prompt) -> Any:
        """One forward of the prompt under what is live in this context."""
        return self.hf(**single_pass(self, prompt))

    def _complain(self, placed: Sequence[Placed]) -> None:
        """A hook that nothing passed is an error: it must not look like a hook without effect."""
        for hook in placed:
            if not hook.ran:
                raise LookupError(
                    f"{hook.hook.name} at {hook.hook.site} of the {hook.stack} stack never ran: this "
                    "prompt does not pass there (no image, or layers that the model skipped)."
                )


WRAPPED: "weakref.WeakKeyDictionary[nn.Module, weakref.ref[Model]]" = weakref.WeakKeyDictionary()
WRAPPING = threading.Lock()
