"""Where a model plans ahead while it writes, and which tokens it keeps coming back to: preplan and anchor.

WAAD of heads that look near, FAI of heads that look far, how their peaks fall together, and the
credit weights made of them (arXiv 2510.13554, "Attention Illuminates LLM Reasoning").
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses import analysis
from analyses.rhythm.asked import TRAINED, Asked
from analyses.rhythm.reading import Reading, check_model, written_and_read
from interp import coupling
from interp.coupling.heads import Groups, unscored
from interp.credit import Credit, too_short
from interp.result import Result

if TYPE_CHECKING:
    from pandas import DataFrame

    from interp.model import Model

MICRO_BATCH = 32  # the paper's, for which heads are grouped anew
THIRDS = ("early", "middle", "late")


@analysis
def rhythm(
    model: "Model",
    task: Any,
    *,
    window: int = 10,
    mode: str = "analysis",
    layers: Sequence[int] | None = None,
    share: float = 0.3,
    peaks: str = "maxima",
    peak_share: float | None = None,
    horizon: tuple[int, int | None] = (0, None),
    lag: int = 1,
    responses: Sequence[Any] | None = None,
    max_new_tokens: int | None = None,
    min_new_tokens: int | None = None,
    temperature: float | None = None,
    seed: int = 0,
    count: int | None = None,
    shuffles: int = 1000,
    receivers: int | None = None,
    chunks: int | None = None,
    proximity: int = 4,
    depth_control: bool = False,
    batch: int | None = None,
    credit: "Mapping[str, Any] | Credit | None" = None,
) -> Result:
    """Writes a response to each of the first `count` records, or takes given ones, and reads each once.

    Responses: sampled, `temperature` 0.7 (1.0 in mode "rl"; 0 is greedy), up to `max_new_tokens` (128), from
    `seed`; or `responses`, a text or token ids a record; or prompts with a span "response" of their own.

    Heads of lowest and highest span, `share` of all each, are local and global. mode="analysis": of all
    layers, over all records; "rl": of five middle ones, anew for every `batch` records (32). `layers`
    chooses others. WAAD (`window`) is of the local heads, FAI (`horizon`) of the global ones: (0, None)
    looks from the token itself to the end, `fai_v1` and `fai_v2` as the paper's two versions train.
    All are read in the response's rows. Entropy is of what predicts the token, in nats.

    The table: at `preplan` (WAAD peaks) the mean entropy against that of all tokens; of `receiver` FAI
    peaks the share that are FAI peaks too; of FAI peaks (`anchor`) the share with a WAAD peak at the token or
    up to `lag` before. `low` to `high` holds 95% of `shuffles`. Overall, and with heads of each third
    of the layers (mode "analysis"). `peaks`: "maxima", or "top" for the `peak_share` (0.2) of highest value.

    `receivers` heads (None: 20, at most a quarter of those outside layer 0; 0: none) look most unevenly
    at chunks `proximity` or more back: sentences, or runs of `chunks` tokens. `credit` has settings of
    `interp.credit.Credit`. Tables: `tokens`, with weights gamma for each response token (`position`
    counts the record's own tokens, padding left out), and `heads`. In the table `lift` is (observed -
    random) / random, `density` the share of tokens that are peaks, `shared_heads` the share of receiver
    heads that are global ones too.
    """
    given = {"max_new_tokens": max_new_tokens, "min_new_tokens": min_new_tokens,
             "temperature": temperature}  # fmt: skip
    asked = Asked(window, mode, layers, share, peaks, peak_share, horizon, lag, seed, shuffles, receivers,
                  chunks, proximity, depth_control, batch, count, Credit.of(credit), given)  # fmt: skip
    check_model(model)
    found = written_and_read(model, task, responses, asked)
    size = len(found) if mode == "analysis" else batch or MICRO_BATCH
    batches = [found[start : start + size] for start in range(0, len(found), size)]
    return _result(batches, asked)


def _result(batches: list[list[Reading]], asked: Asked) -> Result:
    import pandas

    readings = [reading for part in batches for reading in part]
    heads = readings[0].heads
    layers = sorted({int(layer) for layer in heads[:, 0]})
    groups = [_grouped(part, asked) for part in batches]
    rows, found = _coupled("all", layers, batches, groups, asked)
    if asked.mode == "analysis" and len(layers) >= len(THIRDS) and len(heads) > len(layers):
        for third, part in zip(THIRDS, np.array_split(layers, len(THIRDS)), strict=True):
            own = _grouped(readings, asked, part.tolist())
            rows += _coupled(third, part.tolist(), batches, [own], asked)[0]
    tables = {
        "tokens": [_tokens(*each, asked) for each in _curves(batches, groups)],
        "heads": [own.table(heads).assign(batch=order) for order, own in enumerate(groups)],
    }
    joined = {name: pandas.concat(parts, ignore_index=True) for name, parts in tables.items()}
    written = any(reading.written for reading in readings)
    made = {"layers": layers} | ({"writing": asked.writing()} if written else {})
    notes = _notes(groups, found, readings, asked)
    return Result("rhythm", pandas.DataFrame(rows), joined, {}, notes, made)


def _grouped(readings: list[Reading], asked: Asked, among: list[int] | None = None) -> Groups:
    values, layers = [reading.values for reading in readings], readings[0].heads[:, 0]
    return Groups.of(values, layers, asked.share, asked.receivers, among)


def _curves(
    batches: list[list[Reading]], groups: list[Groups]
) -> Iterator[tuple[Reading, dict[str, np.ndarray]]]:
    for readings, own in zip(batches, groups, strict=True):
        for reading in readings:
            yield reading, {"entropy": reading.entropy} | own.curves(reading.waad, reading.fai)


def _coupled(
    depth: str, layers: list[int], batches: list[list[Reading]], groups: list[Groups], asked: Asked
) -> tuple[list[dict[str, Any]], dict[str, coupling.Coupling]]:
    """Rows of the table, and what is in them."""
    curves = [own for _, own in _curves(batches, groups)]
    found = coupling.couplings(curves, asked.found, asked.lag, asked.shuffles, asked.seed)
    place = {"depth": depth, "layers": ", ".join(str(layer) for layer in layers)}
    shared = {"receiver": float(np.mean([own.shared for own in groups]))}
    rows = [place | {"statistic": name} | one.row() | {"shared_heads": shared.get(name, np.nan)}
            for name, one in found.items()]  # fmt: skip
    return rows, found


def _tokens(reading: Reading, curves: dict[str, np.ndarray], asked: Asked) -> "DataFrame":
    import pandas

    rows = {"record": reading.number, "position": reading.positions, "token": reading.tokens}
    rows |= curves | {"preplan": asked.found(curves["waad"]), "anchor": asked.found(curves["fai"])}
    trained = {version: curves[name] for version, name in TRAINED.items()}
    return pandas.DataFrame(rows | asked.credit.columns(curves["waad"], trained))


def _notes(
    groups: list[Groups],
    overall: dict[str, coupling.Coupling],
    readings: list[Reading],
    asked: Asked,
) -> list[str]:
    """What whoever reads the tables should know."""
    notes = groups[0].notes(asked.share)
    notes = [f"Batch 0: {note}" for note in notes] if len(groups) > 1 else notes
    receiving = any(len(own.receivers) for own in groups)
    notes += [note for name, one in overall.items() if receiving or name != "receiver"
              for note in one.note(name)]  # fmt: skip
    notes += too_short([len(reading.tokens) for reading in readings])
    if asked.receivers != 0 and not receiving:
        why = unscored([reading.chunks for reading in readings], asked.proximity)
        notes.append(f"Receiver heads are left out: {why}")
    if asked.mode == "analysis":
        notes.append(
            "Weights gamma are of heads grouped over all layers and records. In training they are of five "
            'middle layers, batch by batch: mode="rl".'
        )
    return notes
