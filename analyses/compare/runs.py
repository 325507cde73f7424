"""Every entry on every task, and what was chosen on the validation task before."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy

from analyses.compare.asked import PLAIN, REFUSALS, WHOLE, Asked, told
from analyses.compare.items import RANDOM_HEADS, YES_BIAS, Entry
from interp.evaluation import Rate, Scored
from interp.evaluation.controls import has_heads, random_heads, tuned_bias
from interp.progress import counted
from interp.registry import unknown
from interp.task import Task


@dataclass(frozen=True, eq=False)
class Run:
    """One entry on one task: a score for each draw of it."""

    entry: Entry
    scores: tuple[Scored, ...]
    seconds: float  # of one draw

    @property
    def rates(self) -> dict[str, Rate]:
        """Of draws the mean, record by record."""
        first = self.scores[0].rates
        if len(self.scores) == 1:
            return dict(first)
        return {name: _mean([one.rates[name] for one in self.scores]) for name in first}


@dataclass(eq=False)
class Found:
    """Runs by task, in the order of the entries, plain first."""

    entries: list[Entry]
    headline: str
    runs: dict[str, list[Run]] = field(default_factory=dict)
    choices: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)
    protocol: Mapping[str, Any] = field(default_factory=dict)

    @property
    def better(self) -> str:
        """Which way the rate that is told gets better."""
        return next(iter(self.runs.values()))[0].rates[self.headline].better


def ran(asked: Asked) -> Found:
    """Plain, the unbroken model, interventions and controls on each task."""
    choices: list[dict[str, Any]] = []
    entries = [_chosen(asked, entry, choices) for entry in asked.entries]
    entries += list(_built_in(asked, entries, choices))
    _score(asked, next(iter(asked.tasks.values()))[: asked.settings.batch], None)  # warms up
    found = Found([Entry(PLAIN, PLAIN), *entries], "", choices=choices, refused=asked.refused)
    for name, task in asked.tasks.items():
        runs = [_run(asked, found, task, entry) for entry in counted(found.entries, name)]
        found.runs[name] = [run for run in runs if run is not None]
        if asked.settings.whole is not None:
            found.runs[name].insert(1, _run_whole(asked, task))
    found.entries = [entry for entry in found.entries if not _gone(found, entry)]
    for runs in found.runs.values():
        runs[:] = [run for run in runs if not _gone(found, run.entry)]
    first = next(iter(found.runs.values()))[0].scores[0]
    found.headline = _headline(asked, first)
    found.protocol = dict(first.protocol)
    return found


def _gone(found: Found, entry: Entry) -> bool:
    return any(one["name"] == entry.name for one in found.refused)


def _headline(asked: Asked, scored: Scored) -> str:
    name = asked.settings.rate or scored.headline
    if name not in scored.rates:
        raise LookupError(
            unknown(f"rate of the measure {scored.measure}", name, list(scored.rates))
        )
    return name


def _score(asked: Asked, task: Task, using: Any, model: Any = None) -> Scored:
    settings = asked.settings
    given = {"using": using, "batch": settings.batch, **settings.scoring}
    scored = asked.measure(model or asked.model, task, **given)
    if not isinstance(scored, Scored):
        raise TypeError(
            f"the measure gave {type(scored).__name__}, not an interp.evaluation.Scored."
        )
    if settings.rate is not None:
        _headline(asked, scored)
    return scored


def _run(asked: Asked, found: Found, task: Task, entry: Entry) -> Run | None:
    """A run; none of one that refuses, where nobody asked for it by name."""
    if _gone(found, entry):
        return None
    started = time.perf_counter()
    try:
        scores = tuple(_score(asked, task, item) for item in entry.items)
    except REFUSALS as problem:
        if entry.kind != "intervention" or not asked.settings.everything:
            raise
        found.refused.append({"name": entry.name, "why": told(problem)})
        return None
    return Run(entry, scores, (time.perf_counter() - started) / len(scores))


def _run_whole(asked: Asked, task: Task) -> Run:
    started = time.perf_counter()
    scored = _score(asked, task, None, asked.settings.whole)
    return Run(Entry(WHOLE, WHOLE), (scored,), time.perf_counter() - started)


def _chosen(asked: Asked, entry: Entry, choices: list[dict[str, Any]]) -> Entry:
    """Of several settings the best on the validation task; of equals the first."""
    if len(entry.items) == 1:
        return entry
    scored = [_score(asked, asked.settings.validation, item) for item in entry.items]
    name = _headline(asked, scored[0])
    rates = [one.rates[name] for one in scored]
    sign = -1 if rates[0].better == "lower" else 1
    values = [rate.value for rate in rates]
    worth = [-numpy.inf if value != value else sign * value for value in values]
    best = max(range(len(worth)), key=worth.__getitem__)
    for place, (item, value) in enumerate(zip(entry.items, values, strict=True)):
        one = replace(entry, items=(item,))
        choices.append(
            {"name": entry.name, "setting": one.said, "n": len(asked.settings.validation),
             "value": value, "chosen": place == best}
        )  # fmt: skip
    return replace(entry, items=(entry.items[best],))


def _built_in(asked: Asked, entries: list[Entry], choices: list[dict[str, Any]]) -> Iterator[Entry]:
    settings = asked.settings
    if YES_BIAS in asked.built_in:
        bias, tried = tuned_bias(asked.model, settings.validation, batch=settings.batch)
        choices += [
            {"name": YES_BIAS, "setting": f"{amount:+.4g}", "n": len(settings.validation),
             "value": value, "chosen": amount == bias.amount}
            for amount, value in zip(tried["amount"], tried["accuracy"], strict=True)
        ]  # fmt: skip
        yield Entry(YES_BIAS, "control", (bias,))
    if RANDOM_HEADS in asked.built_in:
        for entry in entries:
            if entry.kind == "intervention" and has_heads(entry.items[0]):
                drawn = random_heads(
                    asked.model, entry.items[0], settings.random_sets, settings.seed
                )
                yield Entry(f"{entry.name}, {RANDOM_HEADS}", "control", tuple(drawn))


def _mean(rates: list[Rate]) -> Rate:
    tops, bottoms = (
        numpy.stack([getattr(one, part) for one in rates]) for part in ("top", "bottom")
    )
    each = numpy.stack([one.by_record for one in rates])
    known = ~numpy.isnan(each)
    own = numpy.where(known, each, 0).sum(0) / numpy.where(known.any(0), known.sum(0), numpy.nan)
    return Rate(tops.mean(0), bottoms.mean(0), rates[0].better, own)
