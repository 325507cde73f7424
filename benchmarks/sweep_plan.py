"""Which grids are swept in which ways, and how often."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from benchmarks.sweep_case import SweepCase
from benchmarks.sweep_work import Work, named_works

PATCHED = ("interp", "lens", "hook")
BATCHED = (*PATCHED, "nnsight", "nnsight last")
# interp comes first: the others' numbers are held against its.
WAYS_OF = {
    "resid_pre-16": BATCHED,
    "resid_pre-32": BATCHED,
    "heads-32": PATCHED,
    "llama-resid_pre-16": PATCHED,
    "llama-heads-32": PATCHED,
}
QUICK = ("resid_pre-16", "heads-16", "llama-resid_pre-16", "first")
MEMORY = Work("resid_pre", "gpt2", 128)
BUDGETS = (1e9, 3e8)


@dataclass(frozen=True)
class SweepEntry:
    """A case, the name by which it is chosen, and how many processes run it."""

    name: str
    case: SweepCase
    rounds: int = 1


def full() -> list[SweepEntry]:
    """About half an hour on a quiet machine."""
    timed = [entry for name, work in named_works() for entry in _timed(name, work, 2)]
    again = SweepCase("interp", **asdict(Work("resid_pre", "gpt2", 16)), what="first")
    memory = [
        SweepCase("interp", **asdict(MEMORY), what="memory", budget=budget) for budget in BUDGETS
    ]
    return [
        *timed,
        SweepEntry("first", again, 2),
        *(SweepEntry("memory", case) for case in memory),
    ]


def quick() -> list[SweepEntry]:
    """About two minutes: prompts of 16 tokens, each way once."""
    chosen = [one for one in full() if one.name in QUICK and one.case.way != "nnsight last"]
    return [
        SweepEntry(one.name, replace(one.case, again=1))
        for one in chosen
        if one.case.way != "hook" or one.case.family == "gpt2"
    ]


def names() -> list[str]:
    return list(dict.fromkeys(entry.name for entry in full()))


def _timed(name: str, work: Work, rounds: int) -> Iterator[SweepEntry]:
    ways: Sequence[str] = WAYS_OF.get(name, ("interp", "lens"))
    short = work.length * work.pairs <= 32
    for way in ways:
        yield SweepEntry(name, SweepCase(way, **asdict(work), again=2 if short else 1), rounds)
