"""What the toolkit promises of its statistics, and whether this run kept it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.children import Row
from benchmarks.shapes import Shape
from benchmarks.ways import WAYS

Rows = dict[tuple[str, Shape], Row]


@dataclass(frozen=True)
class Goal:
    what: str
    limit: float
    value: float
    at_least: bool = False
    unit: str = "x"
    note: str = ""

    error: float = 0.0

    @property
    def verdict(self) -> str:
        """A value that its own error could carry over the limit decides nothing."""
        if abs(self.value - self.limit) < self.error:
            return "undecided"
        met = self.value >= self.limit if self.at_least else self.value <= self.limit
        return "met" if met else "MISSED"

    def __str__(self) -> str:
        sign, digits = (">=" if self.at_least else "<="), 3 if self.limit < 1.1 else 2
        digits = 0 if self.unit != "x" else digits
        note = f" ({self.note})" if self.note else ""
        return (
            f"| {self.what} | {sign} {self.limit:g}{self.unit} "
            f"| {self.value:.{digits}f}{self.unit}{note} | {self.verdict} |"
        )


def goals(rows: Sequence[Row], idle: Sequence[dict]) -> list[Goal]:
    """The goals that this run can judge; those whose shapes it left out are not listed."""
    known = {(row.case.way, row.case.shape): row for row in rows}
    found = list(_idle(idle))
    for family in ("gpt2", "llama"):
        found += _over_floor(known, Shape(family, 2048), time=1.3)
        found += _over_floor(known, Shape(family, 4096), time=1.4, memory=1.3)
        found += _over_peers(known, Shape(family, 2048), faster=3.0, leaner=6.0)
    found += _over_floor(known, Shape("gpt2", 2048), time=1.6, way="interp five")
    found += _below(known, Shape("gpt2", 8192), 1000)
    found += _below(known, Shape("gpt2", 32768, 2), 4000)
    found += _below(known, Shape("gpt2", 16384, 4), 2000, way="interp five")
    return found


def _idle(idle: Sequence[dict]) -> Iterator[Goal]:
    for record in idle:
        if record["what"] != "call":
            error = record["error"]
            note = f"+- {error:.3f}"
            yield Goal(idle_title(record), 1.01, record["ratio"], note=note, error=error)


def idle_title(record: dict) -> str:
    if record["what"] == "generate":
        return f"wrapped and idle, {record['family']} generate after {record['length']} tokens"
    return f"wrapped and idle, {record['family']} forward T={record['length']}"


def _over_floor(
    rows: Rows, shape: Shape, time: float, memory: float | None = None, way: str = "interp"
) -> Iterator[Goal]:
    own, floor = rows.get((way, shape)), rows.get(("sdpa", shape))
    if own is None or floor is None:
        return
    what = way.replace("interp", "streamed")
    yield Goal(f"{what}, {shape}: time over SDPA", time, own.time / floor.time)
    if memory is not None:
        title = f"{what}, {shape}: memory over SDPA"
        yield Goal(title, memory, own.memory / floor.memory)


def _over_peers(rows: Rows, shape: Shape, faster: float, leaner: float) -> Iterator[Goal]:
    own, floor = rows.get(("interp", shape)), rows.get(("sdpa", shape))
    peers = [row for (way, at), row in rows.items() if at == shape and WAYS[way].peer]
    if own is None or floor is None or not peers:
        return
    fastest = min(peers, key=lambda row: row.time)
    leanest = min(peers, key=lambda row: row.memory)
    yield Goal(
        f"streamed, {shape}: faster than the fastest peer",
        faster,
        fastest.time / own.time,
        at_least=True,
        note=f"{WAYS[fastest.case.way].title}; SDPA itself {fastest.time / floor.time:.2f}x",
    )
    yield Goal(
        f"streamed, {shape}: leaner than the leanest peer",
        leaner,
        leanest.memory / own.memory,
        at_least=True,
        note=f"{WAYS[leanest.case.way].title}; SDPA itself {leanest.memory / floor.memory:.2f}x",
    )


def _below(rows: Rows, shape: Shape, megabytes: float, way: str = "interp") -> Iterator[Goal]:
    own = rows.get((way, shape))
    if own is not None:
        what = way.replace("interp", "streamed")
        yield Goal(f"{what}, {shape}: extra memory", megabytes, own.memory, unit=" MB")
