"""A run kept so that changed copies of it can be gone on with, by the shortest way that is exact."""

import contextvars
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from interp.asking import choose_stack, interventions, place_hooks, plan
from interp.forward import check_padding
from interp.live import LIVE, RUN, Run, Session, live
from interp.metrics import owns
from interp.readouts import Readout
from interp.replay.capture import Captured, NotReplayed, Recorder
from interp.replay.changes import Change, check_site
from interp.replay.head import of_rows, of_tokens
from interp.replay.packing import cuts
from interp.replay.pieces import projection_taps, taps
from interp.replay.reach import starts
from interp.replay.rows import Row, rows_of
from interp.replay.saved import of_run
from interp.replay.wave import Wave
from interp.shadow import Shadow, shadowed
from interp.sites import Hook
from interp.structure import Stack
from interp.taps import layer_taps, plan_run
from interp.trace import main_output

if TYPE_CHECKING:
    from interp.model import Model
    from interp.prompt import Prompt

PATHS = ("positions", "layers", "whole")
# What trying has shown, by model: (stack, positions, rows, ...) -> "" or why not.
_TRIED: "weakref.WeakKeyDictionary[nn.Module, dict[Any, str]]" = weakref.WeakKeyDictionary()
# What code that was not made for packed tokens may raise.
CODE = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError, AssertionError)
CLOSE = 2e-5  # of the largest logit, above 1


class Replay:
    """One run of a prompt, from which changed runs go on.

    `path` says how: "positions" (only layers and positions that may differ are run again), "layers"
    (all positions of the layers that may differ) or "whole" (every changed run is a forward of its
    own). `why` says why not more.

        replay = Replay(model, prompt)
        replay.values(cells, metric)  # cells: lists of Change; [batch, cell]
    """

    def __init__(
        self,
        model: "Model",
        prompt: Any,
        stack: str | None = None,
        using: Any = None,
        hooks: Sequence[Hook] | Hook = (),
        readers: Sequence[Hook] = (),
        path: str | None = None,
    ):
        if model.hf.training:
            raise ValueError("the model is in training mode, where dropout differs from run to run; call "
                             "model.hf.eval() first.")  # fmt: skip
        self.model = model
        self.given: Prompt = model._prompt(prompt)
        self.prompt = self.given  # as interventions leave it
        self.stack = choose_stack(model.stacks, stack, model.name)
        place_hooks(model.stacks, hooks, model.name)  # refuses what is no hook
        self.asked = [*interventions(using), *([hooks] if isinstance(hooks, Hook) else hooks)]
        self.readers, self.wanted = tuple(readers), path
        self.kept: Captured | None = None
        self.reach = torch.empty(0)
        self.narrow, self._narrow_tried = True, False
        self.path, self.why = "whole", ""
        self.logits = torch.empty(0)
        with torch.no_grad():
            self._run(readers, path)
            self._choose(path)

    # The run itself

    def _run(self, readers: Sequence[Hook], path: str | None) -> None:
        model = self.model
        prompt, placed = plan(model, self.given, self.asked)
        self.prompt = prompt
        check_padding(model.hf, prompt)
        keeps = path != "whole" and self._may_replay()
        recorder = Recorder(self.stack, self._beside(), prompt) if keeps else None
        own = [*placed, *place_hooks(model.stacks, list(readers), model.name)]
        session = Session(model.places, own, carrier=recorder)
        wanted = [(hook.stack, hook.hook.site) for hook in own]
        run = Run()
        run.prompt = prompt
        with ExitStack() as leaving:
            tapped = [*model._taps(wanted)]
            if recorder is not None:
                tapped += layer_taps(self.stack)
                tapped += projection_taps(self.stack)
            leaving.enter_context(shadowed(tapped))
            leaving.enter_context(live(session))
            leaving.callback(RUN.reset, RUN.set(run))
            leaving.callback(run.end)
            plan_run(model.hf, run)
            output = model._once(run.prompt)
        model._complain(placed)
        self.logits = main_output(output).detach()
        if recorder is not None:
            try:
                self.kept = recorder.finish(output, self.logits)
            except NotReplayed as problem:
                self.why = str(problem)

    def _beside(self) -> list[str]:
        """Stacks of cross attention inside this stack's layers."""
        return [name for name, other in self.model.stacks.items()
                if other.path == self.stack.path and name != self.stack.name]  # fmt: skip

    @property
    def hooks(self) -> list[Hook]:
        """The hooks that are part of the run."""
        return [item for item in self.asked if isinstance(item, Hook)]

    def _may_replay(self) -> bool:
        """What is live in deeper layers would have to run again in every changed run."""
        if self.model.backend != "hf":
            self.why = f'backend="{self.model.backend}" has no way to go on from a layer'
        elif any(session.places is self.model.places for session in LIVE.get()):
            self.why = "model.using(...) is open around it"
        elif any(not isinstance(item, Hook) for item in self.asked):
            self.why = "interventions are part of the run"
        elif any(not self._at_input(hook) for hook in self.hooks):
            self.why = "hooks of the run act inside its layers"
        elif self.stack.name not in _ends_of(self.model):
            self.why = f"what follows the {self.stack.name} stack is more than an unembedding"
        return not self.why

    def _at_input(self, hook: Hook) -> bool:
        placed = place_hooks(self.model.stacks, hook, self.model.name)[0]
        if placed.stack == self.stack.name:
            return placed.hook.site == "resid_pre" and placed.layers == {0}
        return placed.stack not in ("cross",) and self.stack.name in ("text", "decoder")

    # Which way

    def _choose(self, path: str | None) -> None:
        if path is not None and path not in PATHS:
            raise ValueError(f"path={path!r}: one of {', '.join(PATHS)}.")
        if self.kept is None or path == "whole":
            self.why = self.why or "asked for"
            return
        kept = self.kept
        unknown = [place for place, one in kept.attended.items() if not one.known]
        if unknown:
            self.why = f"attention of the {unknown[0][0]} stack has an arithmetic of its own"
            return
        calls = [one.call for (name, _), one in kept.attended.items() if name == self.stack.name]
        self.reach = starts(calls, kept.batch, kept.positions)
        if path == "layers":
            self.reach = torch.zeros_like(self.reach)
        self.why = self._tried()
        if self.why:
            return
        self.path = "positions" if bool(self.reach[:, -1].any()) else "layers"
        if self.path == "layers" and kept.positions > 1:
            self.why = "asked for" if path == "layers" else "positions see both ways here"

    def _tried(self) -> str:
        """Whether a change that is gone on with equals the same change in a forward of its own."""
        kept = self.kept
        assert kept is not None
        calls = [one.call for one in kept.attended.values()]
        # What a layer is given, and masks, depend on images and padding; how they are cut on the shapes.
        key = (self.stack.name, calls[0].mask is None, bool(kept.prompt.mask.all()), bool(self.reach.any()),
               cuts([call.given for call in kept.layers], kept.batch, kept.positions))  # fmt: skip
        key = (*key, kept.stream[0].dtype, _standing(self.stack))
        known = _TRIED.setdefault(self.model.hf, {})
        if key not in known:
            known[key] = self._try()
        return known[key]

    def _try(self) -> str:
        kept = self.kept
        assert kept is not None
        rows = torch.arange(kept.batch)
        reads = self._real()[:, -1] if self.reads_positions else None
        try:
            for cell in self._trials():
                expected = self.whole(cell)
                if reads is not None:  # a copy: the whole logits of a long batch are large
                    expected = expected[rows, reads].clone()
                found = self._replayed(cell, reads)
                limit = max(CLOSE, 8 * torch.finfo(expected.dtype).eps)
                real = expected.isfinite()
                off = float((found - expected)[real].abs().max())
                if not off <= limit * max(1.0, float(expected[real].abs().max())):
                    return "its layers do more to a token than norms, projections and attention"
        except torch.OutOfMemoryError:
            raise  # it says nothing about the model
        except NotReplayed as problem:
            return str(problem)
        except CODE as problem:
            return f"its code does not run on packed tokens ({type(problem).__name__}: {str(problem)[:120]})"
        return ""

    def _real(self) -> Tensor:
        """[batch, 3]: of each row's tokens the middle, the last but one, and the last."""
        kept = self.kept
        assert kept is not None
        mask = torch.ones(kept.batch, kept.positions, dtype=torch.bool)
        if owns(self.stack.name, kept.prompt) and kept.prompt.mask.shape == mask.shape:
            mask = kept.prompt.mask.cpu()
        found = []
        for row in mask:
            real = row.nonzero().flatten()
            found.append(real[torch.tensor([len(real) // 2, max(0, len(real) - 2), len(real) - 1])])
        return torch.stack(found)

    def _trials(self) -> list[list[Change]]:
        """Something at the stream of the first layer, and something inside a later one."""
        kept = self.kept
        assert kept is not None
        generator = torch.Generator().manual_seed(0)
        middle, late, _ = self._real().unbind(1)
        last = len(kept.layers) - 1
        cells = []
        for layer, site, place in (
            (0, "resid_pre", middle),
            (last // 2, "z", late),
        ):
            rows, places = torch.arange(kept.batch), place
            if site == "z":
                found = kept.attended.get((self.stack.name, layer))
                if found is None:
                    continue
                own = found.output[rows, places]
            else:
                own = kept.stream[layer][rows, places]
            noise = torch.randn(own.shape, generator=generator).to(own)
            cells.append(
                [Change(site, layer, rows, places, own + noise * own.std(), None, self.stack.name)]
            )
        return cells

    # Changed runs

    def values(
        self,
        cells: Sequence[Sequence[Change]],
        metric: Any,
        budget: float = 1e9,
        save: str | Path | None = None,
        progress: bool | None = None,
    ) -> Tensor:
        """What the metric reads off each changed run, [batch, cell] or [batch, cell, k]."""
        from interp.replay.measuring import measured

        if isinstance(metric, Readout):
            metric = metric.bind(self.model, self.prompt)
        cells = [[self._named(change) for change in cell] for cell in cells]
        made = None if save is None else of_run(self.model, self.prompt, self.hooks)
        with torch.no_grad():
            return measured(self, cells, metric, budget, save, progress, made)

    def _named(self, change: Change) -> Change:
        check_site(change)
        if change.fn is not None and self.path != "whole":
            raise ValueError(
                "a change by a function needs forwards of its own: Replay(..., path='whole')."
            )
        if change.site == "scores" and self.path != "whole":
            raise ValueError(
                "changes of scores are not replayed: give the pattern that they make, or path='whole'."
            )
        return change if change.stack else replace(change, stack=self.stack.name)

    @property
    def reads_positions(self) -> bool:
        """Whether logits of a position follow from that position's state alone."""
        return self.stack.name in ("text", "decoder") and self.logits.ndim == 3

    def columns(self, metric: Readout) -> Tensor | None:
        """The tokens to be unembedded for a metric; None (all) where the model does more with them."""
        columns = metric.columns()
        if columns is None or not self.narrow:
            return None
        if not self._narrow_tried:
            self._narrow_tried = True
            assert self.kept is not None
            reads = metric.places(self.prompt, self.logits)
            rows = torch.arange(len(reads))
            expected = self.logits[rows, reads][:, columns]
            try:
                found = self.head_tokens(self.kept.stream[-1][rows, reads], columns)
                scale = max(1.0, float(expected.abs().max()))
                same = (
                    found.shape == expected.shape
                    and float((found - expected).abs().max()) < CLOSE * scale
                )
            except (RuntimeError, ValueError, IndexError):
                same = False
            self.narrow = bool(same)
        return columns if self.narrow else None

    def whole(self, cell: Sequence[Change]) -> Tensor:
        """A forward of its own, with a hook for each change."""
        hooks = [change.hook(self.stack.name) for change in cell]
        return self.model.logits(self.given, using=self.asked, hooks=hooks)

    def rows(self, cells: Sequence[Sequence[Change]]) -> list[Row]:
        """What a replay runs for these cells, row by row of the prompt."""
        assert self.kept is not None
        layers = len(self.kept.layers)
        return [
            row
            for number, cell in enumerate(cells)
            for row in rows_of(number, cell, layers, self.reach, self.stack.name)
        ]

    def _replayed(self, cell: Sequence[Change], reads: Tensor | None) -> Tensor:
        """Logits of a cell that changes every row, by replay."""
        rows = self.rows([cell])
        states = self.states(rows, reads)
        if reads is not None:
            return self.head_tokens(states, None)
        return self.head_rows(states, torch.tensor([row.base for row in rows]))

    def states(self, rows: Sequence[Row], reads: Tensor | None) -> Tensor:
        """What the last layer hands on, of all positions, or of the read one [batch] alone."""
        return contextvars.copy_context().run(self._states, rows, reads)

    @torch.no_grad()
    def _states(self, rows: Sequence[Row], reads: Tensor | None) -> Tensor:
        LIVE.set(())
        RUN.set(None)
        model = self.model
        assert self.kept is not None
        wave = Wave(self.kept, reads)
        placed = place_hooks(model.stacks, list(wave.hooks(rows)), model.name)
        wanted = [(hook.stack, hook.hook.site) for hook in placed]
        tapped = [tap for tap in model._taps(wanted)
                  if tap[0] is not model.hf]  # fmt: skip
        with (
            shadowed([*tapped, *taps(self.stack)]),
            live(Session(model.places, placed, carrier=wave)),
        ):
            return wave.run(rows)

    def head_tokens(self, states: Tensor, columns: Tensor | None) -> Tensor:
        """Logits [n, token] of states [n, d_model]."""
        assert self.kept is not None
        return contextvars.copy_context().run(
            _alone, of_tokens, self.model, self.kept, states, columns
        )

    def head_rows(self, states: Tensor, bases: Tensor) -> Tensor:
        """Logits of states [row, position, d_model], as the model gives them."""
        assert self.kept is not None
        if self.reads_positions:
            return self.head_tokens(states.flatten(0, 1), None).unflatten(0, states.shape[:2])
        return contextvars.copy_context().run(_alone, of_rows, self.model, self.kept, states, bases)


@torch.no_grad()
def _alone(call: Callable[..., Tensor], *arguments: Any) -> Tensor:
    LIVE.set(())
    RUN.set(None)
    return call(*arguments)


def _standing(stack: Stack) -> int:
    """Changes when a layer gets another module, hook or forward than it had."""
    found = []
    for layer in stack.layers.values():
        for module in layer.module.modules() if layer.module is not None else ():
            own = module.__dict__.get("forward")
            own = own.own if isinstance(own, Shadow) else own
            found.append(
                (id(module), id(own), *module._forward_hooks, -1, *module._forward_pre_hooks)
            )
    return hash(tuple(found))


def _ends_of(model: "Model") -> tuple[str, ...]:
    """Stacks whose last layer is followed by a norm and an unembedding, or a pooler, alone."""
    main = next(iter(model.stacks))
    if model.kind == "dual" or (model.kind == "audio" and main != "decoder"):
        return ()
    return (main,)
