"""Which ways are run at which shapes, and how often."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.case import Case

OWN = ("interp", "sdpa")  # interp first: the others' numbers are compared with its
PEERS = ("eager", "hook", "lens", "nnsight")


@dataclass(frozen=True)
class Entry:
    """A case and how many processes run it."""

    case: Case
    rounds: int = 1
    steady: bool = True  # one more process reads memory, with an allocator that keeps none back


def _entries(
    ways: Sequence[str],
    length: int,
    rounds: int,
    again: int = 0,
    family: str = "gpt2",
    layers: int = 12,
    steady: bool = True,
) -> list[Entry]:
    return [Entry(Case(way, family, length, layers, again), rounds, steady) for way in ways]


def quick() -> list[Entry]:
    """A few minutes: enough to see that everything runs and where the numbers lie."""
    return [*_entries((*OWN, *PEERS), 512, 1, 2), *_entries((*OWN, *PEERS), 1024, 1, 1)]


def full() -> list[Entry]:
    """About forty minutes on two cores."""
    own = (*OWN, "interp+waad")
    return [
        *_entries((*own, *PEERS), 512, 2, 3),
        *_entries((*own, *PEERS), 1024, 2, 1),
        *_entries(own, 2048, 3),
        *_entries(PEERS, 2048, 2),
        *_entries(own, 4096, 2),
        *_entries((*OWN, *PEERS), 4096, 1, layers=3, steady=False),
        *_entries(OWN, 8192, 1, steady=False),
        *_entries((*OWN, *PEERS), 1024, 2, 1, family="llama"),
        *_entries(OWN, 2048, 2, family="llama"),
        *_entries(PEERS, 2048, 1, family="llama"),
        *_entries(OWN, 32768, 1, layers=2, steady=False),
    ]


def idle(is_quick: bool) -> list[list[str]]:
    """Arguments of benchmarks.idle."""
    call = ["call", "--pairs", "60"]
    if is_quick:
        return [call, ["forward", "--length", "128", "--pairs", "10"]]
    return [
        call,
        ["forward", "--length", "128", "--pairs", "60"],
        ["forward", "--length", "512", "--pairs", "20"],
        ["forward", "--family", "llama", "--length", "128", "--pairs", "60"],
        ["generate", "--length", "64", "--pairs", "8"],
    ]
