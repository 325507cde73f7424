"""What interventions did in a run: where, how often, how much of it, and how long it took."""

import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from html import escape
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.asking import choose_heads, interventions
from interp.composing import Several, kind_of
from interp.prompt import Prompt
from interp.shadow import COUNTED, Calls, shadowed
from interp.sites import At, Hook, LogitsHook
from interp.steering.intervention import Settings
from interp.steering.measuring import difference, first_of, real_rows
from interp.taps import taps_for

if TYPE_CHECKING:
    import pandas

    from interp.model import Model

PLAN = "prompt"  # the site of a plan: what it changes is the prompt
Place = tuple[int, str, str, int]  # which intervention, site, stack, layer (-1: none)
Meeting = tuple[int, int, str, str, int]  # two interventions, what they changed, stack, layer


@dataclass
class _Total:
    calls: int = 0
    rows: int = 0
    changed: int = 0
    moved: float = 0.0  # sum over changed rows
    heads: set[int] = field(default_factory=set)
    seconds: float = 0.0


class Report(Several):
    """Interventions that are watched at their work. It stands wherever they would.

        report = Report(VAR(), PAI())
        model.generate(prompt, using=report)
        print(report)  # VAR: 96 of 120 rows of pattern changed, in 3 of 4 layers, ...

    What the model says is what it says without the report. Several runs add up until `clear()`.

    A row is one position of one head, or one position where a site has no heads; it counts each time it
    is computed, and padding does not count. `moved` is the mean over changed rows: of attention and of
    logits the share of the weight that has moved (learned sinks aside), of other values |after - before|
    / |before|. `seconds` are the intervention's own, and so are `forwards` of the model.
    """

    def __init__(self, *items: Any):
        given = interventions(items)
        if not given:
            raise ValueError("Report() watches nothing: Report(VAR()), or several, or hooks.")
        given = [item() if isinstance(item, Settings) else item for item in given]
        self.names = _names(given)
        self.each: Sequence[Any] = [_Told(self, n, item) for n, item in enumerate(given)]
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget the runs so far."""
        with self._lock:
            self._totals: dict[Place, _Total] = {}
            self._met: dict[Meeting, Tensor] = {}
            self._counts: list[tuple[int, dict]] = []
            self._forwards = [0] * len(self.each)

    @property
    def changed(self) -> bool:
        """Whether anything was changed at all."""
        with self._lock:
            return any(total.changed for total in self._totals.values())

    @property
    def table(self) -> "pandas.DataFrame":
        """One row for each intervention, site and layer; site "prompt" is the plan, rows are prompts."""
        import pandas

        rows = [
            {
                "intervention": self.names[who],
                "site": site,
                "stack": stack,
                "layer": None if layer < 0 else layer,
                "calls": total.calls,
                "rows": total.rows,
                "changed": total.changed,
                "moved": total.moved / total.changed if total.moved else 0.0,
                "heads": tuple(sorted(total.heads)),
                "seconds": total.seconds,
                "forwards": self._forwards[who] if site == PLAN else 0,
            }
            for (who, site, stack, layer), total in self._sorted()
        ]
        columns = "intervention site stack layer calls rows changed moved heads seconds forwards"
        table = pandas.DataFrame(rows, columns=columns.split())
        return table.astype({"layer": "Int64"})

    @property
    def counts(self) -> "pandas.DataFrame":
        """What methods count themselves, such as sinks: a number for each intervention, layer and name."""
        import pandas

        found: dict[tuple[int, int, str], float] = {}
        with self._lock:
            kept = list(self._counts)
        for who, counts in kept:
            for layer, name, number in _flat(counts):
                found[who, layer, name] = found.get((who, layer, name), 0) + float(number)
        rows = [
            (self.names[who], None if layer < 0 else layer, name, number)
            for (who, layer, name), number in sorted(found.items())
        ]
        table = pandas.DataFrame(rows, columns=["intervention", "layer", "name", "number"])
        return table.astype({"layer": "Int64"})

    @property
    def conflicts(self) -> "pandas.DataFrame":
        """Rows that two interventions both changed, by stack, layer and head; without any, none met."""
        import pandas

        with self._lock:
            met = sorted(self._met.items(), key=lambda item: item[0])
        rows = [
            (self.names[one], self.names[other], what, stack, layer, head, int(count))
            for (one, other, what, stack, layer), counts in met
            for head, count in enumerate(counts.tolist())
            if count
        ]
        columns = ["first", "second", "what", "stack", "layer", "head", "rows"]
        table = pandas.DataFrame(rows, columns=columns)
        table["head"] = table["head"].where(table["what"].isin(["attention", "q", "k", "v", "z"]))
        return table.astype({"layer": "Int64", "head": "Int64"})

    def plan(self, model: "Model", prompt: Prompt) -> tuple[Prompt, list[Any]]:
        hooks: list[Any] = []
        for told in self.each:
            prompt, own = told.plan(model, prompt)
            hooks += own
        return prompt, hooks

    def __str__(self) -> str:
        from interp.steering.telling import sentences

        return "\n".join(sentences(self))

    def __repr__(self) -> str:
        return f"Report({', '.join(self.names)})"

    def _repr_html_(self) -> str:
        said = "".join(f"<li>{escape(line)}</li>" for line in str(self).splitlines())
        return f"<ul>{said}</ul>{self.table.to_html(index=False)}"

    def _sorted(self) -> list[tuple[Place, _Total]]:
        with self._lock:
            found = [(place, replace(total)) for place, total in self._totals.items()]
        return sorted(found, key=lambda item: (item[0][0], item[0][1] != PLAN, *item[0][1:]))

    def _add(self, place: Place, more: _Total) -> None:
        with self._lock:
            total = self._totals.setdefault(place, _Total())
            for name in ("calls", "rows", "changed", "moved", "seconds"):
                setattr(total, name, getattr(total, name) + getattr(more, name))
            total.heads = total.heads | more.heads

    def _meet(self, meeting: Meeting, heads: Tensor) -> None:
        with self._lock:
            known = self._met.get(meeting)
            self._met[meeting] = heads if known is None else known + heads


class _Told:
    """One intervention, or hook, of a report."""

    def __init__(self, report: Report, number: int, item: Any):
        self.report, self.number, self.item = report, number, item
        self.owner = None if isinstance(item, Hook) else type(item).__name__

    def plan(self, model: "Model", prompt: Prompt) -> tuple[Prompt, Any]:
        if isinstance(self.item, Hook):
            return prompt, [self._watched(self.item, model)]
        seen = shadowed(taps_for(model.hf, model.stacks, (), weakref.ref(model)))
        with seen, self._timed(model, model.device) as clock:
            after, hooks = self.item.plan(model, prompt)
        changed = 0 if after is prompt else len(prompt)
        total = _Total(1, len(prompt), changed, 0.0, set(), clock.seconds)
        self.report._add((self.number, PLAN, "", -1), total)
        if not isinstance(hooks, Iterable):
            return after, hooks  # refused by who asked
        return after, [self._watched(hook, model) for hook in hooks]

    @contextmanager
    def _timed(self, model: "Model", device: torch.device) -> Iterator["_Clock"]:
        """Seconds and forwards in the block are this intervention's."""
        calls = Calls(model.hf)
        token = COUNTED.set(calls)
        try:
            with _Clock(device) as clock:
                yield clock
        finally:
            COUNTED.reset(token)
            with self.report._lock:
                self.report._forwards[self.number] += calls.count

    def _watched(self, hook: Any, model: "Model") -> Any:
        """The same hook, its function watched."""
        if isinstance(hook, LogitsHook):
            return replace(hook, fn=_named(self._logits(hook, model), hook.name))
        if not isinstance(hook, Hook) or not callable(hook.fn):
            return hook  # refused by who asked

        def told(value: Tensor, at: At) -> Tensor | None:
            heads = choose_heads(model.stacks[at.stack], hook.heads, at.site)
            return self._call(lambda at: hook.fn(value, at), value, at, model, heads)

        return replace(hook, fn=_named(told, hook.name))

    def _logits(self, hook: LogitsHook, model: "Model") -> Callable[..., Tensor]:
        def told(ids: Tensor, logits: Tensor, at: At) -> Tensor:
            return self._call(lambda at: hook.fn(ids, logits, at), logits, at, model, None)

        return told

    def _call(
        self,
        call: Callable[[At], Any],
        value: Tensor,
        at: At,
        model: "Model",
        heads: tuple[int, ...] | None,
    ) -> Any:
        memo = at.memo.setdefault(self, {})  # those of other interventions are theirs
        memo["counting"] = True
        before = value.detach().clone()
        with self._timed(model, value.device) as clock:
            after = call(replace(at, memo=memo))
        with self.report._lock:
            self._keep_counts(memo)
        given = value if after is None else after
        if isinstance(given, Tensor) and given.shape == value.shape:  # others are refused
            self._measure(before, given, at, model, heads, clock.seconds)
        return after

    def _keep_counts(self, memo: dict) -> None:
        if "counts" in memo and "counts kept" not in memo:
            memo["counts kept"] = True
            self.report._counts.append((self.number, memo["counts"]))

    def _measure(
        self,
        before: Tensor,
        after: Tensor,
        at: At,
        model: "Model",
        heads: tuple[int, ...] | None,
        seconds: float,
    ) -> None:
        kept = at.run.memos.setdefault(id(self.report), {})
        seen = difference(at.site, before, after, real_rows(before, at, kept))
        stack = model.stacks[at.stack]
        total = stack.kv_heads if at.site in ("k", "v") else stack.heads
        rows, changed, moved = torch.stack(
            [seen.real.sum().double(), seen.changed.sum().double(), seen.moved.sum().double()]
        ).tolist()
        which: set[int] = set()
        by_head = at.site in ("q", "k", "v", "z", "scores", "pattern")
        own = heads if heads is not None else tuple(range(seen.changed.shape[1]))
        if changed and by_head:
            which = {own[n] for n in seen.changed.any(-1).any(0).nonzero()[:, 0].tolist()}
        place = (self.number, at.site, at.stack, at.layer)
        self.report._add(place, _Total(1, int(rows), int(changed), moved, which, seconds))
        if changed and len(self.report.each) > 1:
            width = total if by_head else 1
            self._mark(seen.changed, own, width, at, kept)

    def _mark(
        self, changed: Tensor, heads: tuple[int, ...], width: int, at: At, kept: dict
    ) -> None:
        """Where this one has changed something in this run; and whom it met there."""
        first, count = first_of(at), changed.shape[2]
        key = (kind_of(at.site), at.stack, at.layer)
        marks: dict[int, Tensor] = kept.setdefault("marks", {}).setdefault(key, {})
        if any(len(one) != len(changed) for one in marks.values()):
            marks.clear()  # another batch: beams that began, or a run in pieces
        end = first + count
        for number in {self.number, *marks}:
            known = marks.get(number)
            if known is None:
                known = changed.new_zeros(len(changed), width, end)
            elif known.shape[2] < end:
                known = torch.nn.functional.pad(known, (0, end - known.shape[2]))
            marks[number] = known
        own = torch.zeros_like(marks[self.number][:, :, first:end])
        own[:, list(heads)] = changed
        fresh = own & ~marks[self.number][:, :, first:end]
        marks[self.number][:, :, first:end] |= own
        for other, known in marks.items():
            if other == self.number:
                continue
            met = (fresh & known[:, :, first:end]).sum((0, 2)).cpu()
            if bool(met.any()):
                one, two = sorted((self.number, other))
                self.report._meet((one, two, *key), met)


class _Clock:
    """Seconds in the block, with what it started on an accelerator."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, 0.0

    def __enter__(self) -> "_Clock":
        self._begun = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = self._now() - self._begun

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _named(function: Any, name: str) -> Any:
    function.__name__ = name
    return function


def _names(items: Sequence[Any]) -> list[str]:
    """What each is called; a second of the same name gets a number."""
    plain = [item.name if isinstance(item, Hook) else type(item).__name__ for item in items]
    return [
        name if plain[:place].count(name) == 0 else f"{name} ({plain[:place].count(name) + 1})"
        for place, name in enumerate(plain)
    ]


def _flat(counts: dict) -> list[tuple[int, str, Any]]:
    """Counts by name, or by layer and name."""
    found = []
    for key, value in counts.items():
        if isinstance(value, dict):
            found += [(int(key), str(name), number) for name, number in value.items()]
        else:
            found.append((-1, str(key), value))
    return found
