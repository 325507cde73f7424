"""From runs to tables: answers, next tokens, heads, tokens that are looked at, and what was touched."""

from typing import Any

import pandas
from torch import Tensor

from analyses.compare.asked import REFUSALS
from analyses.steer.asked import PLAIN, Asked
from analyses.steer.runs import Run
from interp.prompt import Prompt
from interp.scoring import answer_ids
from interp.steering.highlights import spans_of, union

PARTS = ("image", "first", "span")
LOOKS = 6  # heads of a run whose looks are told token by token
NAN = float("nan")


def tables(asked: Asked, runs: list[Run]) -> dict[str, Any]:
    """By name; a run that was refused is in the first alone."""
    plain = {run.record: run for run in runs if run.name == PLAIN}
    done = [run for run in runs if not run.refused]
    heads = [row for run in done if run.report for row in _heads(asked, plain[run.record], run)]
    steered = [run for run in done if run.report is not None]
    rows = {
        "table": [_row(asked, plain[run.record], run, heads) for run in runs],
        "tokens": [row for run in plain.values() for row in _tokens(asked, run, done)],
        "heads": heads,
        "looks": [row for run in steered for row in _looks(asked, plain[run.record], run, heads)],
        "touched": [row for run in steered for row in _touched(run)],
        "records": [_record(asked, number) for number in plain],
    }
    made = {name: pandas.DataFrame(own) for name, own in rows.items() if own}
    made["table"] = _typed(made["table"])
    return made


def _record(asked: Asked, number: int) -> dict[str, Any]:
    record = asked.task[number]
    said = {"prompt": record.prompt, "answers": list(record.answers)}
    return {"record": number, **said, "image": record.image is not None}


def _typed(table: Any) -> Any:
    """What a refused or a plain run has not is missing; texts are empty."""
    words = {name: table[name].fillna("") for name in ("answer", "first", "report")}
    kinds = {"right": "boolean", "inert": "boolean", "rows": "Int64", "changed": "Int64"}
    return table.assign(**words).astype(kinds)


def _row(asked: Asked, plain: Run, run: Run, heads: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"record": run.record, "intervention": run.name}
    row |= {"settings": asked.said[run.name], "refused": run.refused}
    if run.refused:
        return row
    assert run.chances is not None and plain.chances is not None
    best = int(run.chances.argmax())
    row |= {"answer": run.answer, "right": _right(asked, run)}
    row |= {"first": asked.model.tokenizer.decode([best]), "probability": float(run.chances[best])}
    row |= {"expected": _expected(asked, run)}
    if run.report is not None:
        own = [one["moved"] for one in heads if _same(one, run)]
        sites: Any = run.report.table
        sites = sites[sites.groupby("site")["changed"].transform("sum") > 0]  # not those only read
        row |= {"token_moved": _moved(plain.chances, run.chances)}
        row |= {"look_moved": sum(own) / len(own), "rows": int(sites["rows"].sum())}
        row |= {"changed": int(sites["changed"].sum()), "inert": not run.report.changed}
        row |= {"report": str(run.report)}
    times = run.seconds / plain.seconds if plain.seconds else NAN
    return row | {"seconds": run.seconds, "times": times}


def _same(row: dict[str, Any], run: Run) -> bool:
    return row["record"] == run.record and row["intervention"] == run.name


def _moved(before: Tensor, after: Tensor) -> float:
    """The share that is elsewhere; of maps with other keys there is none to tell."""
    if before.shape != after.shape:
        return NAN
    return float((before - after).abs().sum() / 2)


def _right(asked: Asked, run: Run) -> bool | None:
    """Whether the answer begins with one of the record's, as whole words."""
    answers = asked.task[run.record].answers
    return any(_begins(run.answer, one) for one in answers) if answers else None


def _begins(said: str, answer: str) -> bool:
    said, answer = said.strip().casefold(), answer.strip().casefold()
    return said.startswith(answer) and not said[len(answer) : len(answer) + 1].isalnum()


def _expected(asked: Asked, run: Run) -> float:
    """The probability of what right answers begin with, where the tokenizer can tell."""
    assert run.chances is not None and run.look is not None
    answers = asked.task[run.record].answers
    try:
        ids = answer_ids(asked.model, run.look.prompt, 0, answers)
    except ValueError:
        return NAN
    return float(run.chances[ids].sum()) if ids else NAN


def _tokens(asked: Asked, plain: Run, done: list[Run]) -> list[dict[str, Any]]:
    """The likeliest of each run of a record, in all of them; the plain run's first."""
    own = [run for run in done if run.record == plain.record]
    chances = {run.name: run.chances for run in own if run.chances is not None}
    count = min(asked.top, *(len(one) for one in chances.values()))
    likely = [i for one in chances.values() for i in one.topk(count).indices.tolist() if one[i] > 0]
    ids = list(dict.fromkeys(likely))
    return [
        {"record": plain.record, "intervention": name, "id": each,
         "token": asked.model.tokenizer.decode([each]), "probability": float(one[each])}
        for name, one in chances.items() for each in ids
    ]  # fmt: skip


def _heads(asked: Asked, plain: Run, run: Run) -> list[dict[str, Any]]:
    assert plain.look is not None and run.look is not None
    before, after = (_parts(asked, look.prompt) for look in (plain.look, run.look))
    rows = []
    for layer in sorted(run.look.rows):
        was, now = plain.look.rows[layer], run.look.rows[layer]
        for head in range(len(now)):
            row = {"record": run.record, "intervention": run.name, "layer": layer, "head": head}
            row["moved"] = _moved(was[head], now[head])
            for part in PARTS:
                row[f"{part}_before"] = _share(was[head], before.get(part))
                row[f"{part}_after"] = _share(now[head], after.get(part))
            rows.append(row)
    return rows


def _share(row: Tensor, mask: Tensor | None) -> float:
    return NAN if mask is None else float(row[mask].sum())


def _parts(asked: Asked, prompt: Prompt) -> dict[str, Tensor]:
    """Masks over the prompt's positions; what it does not have is left out."""
    found = {"first": prompt.where("first")[0].cpu()}
    if "image" in prompt.names and bool(prompt.where("image").any()):
        found["image"] = prompt.where("image")[0].cpu()
    if asked.shown is not None:
        try:
            found["span"] = union(prompt, spans_of(prompt, asked.shown))[0].cpu()
        except REFUSALS:
            if asked.span is not None:
                raise
    return found


def _looks(asked: Asked, plain: Run, run: Run, heads: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the most moved heads look at less or more, the largest change first."""
    assert plain.look is not None and run.look is not None
    own = [one for one in heads if _same(one, run) and one["moved"] > 0]
    tokens, rows = run.look.prompt.tokens[0], []
    for one in sorted(own, key=lambda one: -one["moved"])[:LOOKS]:
        place = one["layer"], one["head"]
        was, now = (look.rows[place[0]][place[1]] for look in (plain.look, run.look))
        for key in (now - was).abs().topk(min(asked.top, len(now))).indices.tolist():
            row = {
                "record": run.record,
                "intervention": run.name,
                "layer": place[0],
                "head": place[1],
            }
            row |= {"position": key, "token": tokens[key]}
            rows.append(row | {"before": float(was[key]), "after": float(now[key])})
    return rows


def _touched(run: Run) -> list[dict[str, Any]]:
    assert run.report is not None
    table = run.report.table
    table["heads"] = [list(heads) for heads in table["heads"]]
    rows: list[dict[str, Any]] = table.rename(columns={"intervention": "of"}).to_dict("records")
    return [{"record": run.record, "intervention": run.name, **row} for row in rows]
