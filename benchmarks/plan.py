"""Which ways are run at which shapes, and how often."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.case import Case

OWN = ("interp", "sdpa")  # interp first: the others' numbers are compared with its
PEERS = ("eager", "hook", "lens", "nnsight")
FIVE = ("interp five", "eager five", "hook five", "lens five")


@dataclass(frozen=True)
class Entry:
    """A case and how many processes run it."""

    case: Case
    rounds: int = 1


def _entries(
    ways: Sequence[str],
    length: int,
    rounds: int,
    again: int = 0,
    family: str = "gpt2",
    layers: int = 12,
) -> list[Entry]:
    return [Entry(Case(way, family, length, layers, again), rounds) for way in ways]


def quick() -> list[Entry]:
    """A few minutes: enough to see that everything runs and where the numbers lie."""
    return [*_entries((*OWN, *PEERS), 512, 1, 2), *_entries((*OWN, *PEERS, *FIVE), 1024, 1, 1)]


def full() -> list[Entry]:
    """About half an hour on a quiet machine."""
    return [
        *_entries((*OWN, "interp+waad", *PEERS), 512, 2, 2),
        *_entries((*OWN, "interp+waad", *PEERS), 1024, 1, 2),
        *_entries((*OWN, "interp+waad", "none", *PEERS, *FIVE), 2048, 2),
        *_entries((*OWN, "interp+waad"), 4096, 1),
        *_entries((*OWN, "none", *PEERS), 4096, 1, layers=3),
        *_entries(OWN, 8192, 1),
        *_entries((*OWN, *PEERS), 1024, 1, 2, family="llama"),
        *_entries((*OWN, "none", *PEERS), 2048, 1, family="llama"),
        *_entries(("sdpa", "interp five"), 16384, 1, layers=4),
        *_entries(OWN, 32768, 1, layers=2),
    ]


def idle(is_quick: bool) -> list[list[str]]:
    """Arguments of benchmarks.idle."""
    call = ["call", "--pairs", "60"]
    if is_quick:
        return [call, ["forward", "--length", "128", "--pairs", "10"]]
    return [
        call,
        ["forward", "--length", "128", "--pairs", "60"],
        ["forward", "--length", "512", "--pairs", "80"],
        ["forward", "--family", "llama", "--length", "128", "--pairs", "60"],
        ["generate", "--length", "64", "--pairs", "40"],
    ]
