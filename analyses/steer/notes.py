"""What a reader of steered answers should know, in sentences."""

from typing import Any

from analyses.steer.asked import PLAIN, Asked
from analyses.steer.runs import Run


def notes(asked: Asked, runs: list[Run], made: dict[str, Any]) -> list[str]:
    """What each did, what was refused, what cannot be compared, what was warned of."""
    table, heads = made["table"], made["heads"]
    said = [_did(table, name) for name, item in asked.entries if item is not None]
    said = [one for one in said if one] + _refused(runs)
    longer = heads[heads["moved"].isna()]
    if len(longer):
        names = ", ".join(dict.fromkeys(longer["intervention"]))
        said.append(
            f"{names} changed the length of the prompt, so that rows of attention cannot be compared token "
            "by token; shares are still told."
        )
    if asked.shown is not None and 0 < heads["span_before"].isna().sum() < len(heads):
        said.append(f"Some records have no span {asked.shown!r}; its share is not told there.")
    warned = dict.fromkeys(f"{run.name}: {one}" for run in runs for one in run.warned)
    said += [f"Warned: {one}" for one in warned]
    took = "CPU time of the process" if asked.model.device.type == "cpu" else "time by the clock"
    return [
        *said,
        f"Greedy, at most {asked.max_new_tokens} new tokens. Next tokens and attention are those of the "
        f"prompt's last row, which writes the first token. Seconds are {took}, of one run: no benchmark.",
    ]


def _did(table: Any, name: str) -> str:
    own = table[(table["intervention"] == name) & (table["refused"] == "")]
    if not len(own):
        return ""
    plain = table[table["intervention"] == PLAIN].set_index("record").loc[own["record"]]
    others = int((own["answer"].to_numpy() != plain["answer"].to_numpy()).sum())
    differ = "differs" if others == 1 else "differ"
    said = f"{name}: {others} of {len(own)} answers {differ} from the plain one"
    if own["right"].notna().any():
        right, before = int(own["right"].sum()), int(plain["right"].sum())
        said += f"; right: {right}, plain {before}"
    inert: list[int] = own.loc[own["inert"], "record"].tolist()
    if len(inert) == len(own):
        return f"{said}; it changed nothing at all."
    return f"{said}{f'; it changed nothing at all in records {inert}' if inert else ''}."


def _refused(runs: list[Run]) -> list[str]:
    """Each refusal once, with the records that it is about."""
    found: dict[tuple[str, str], list[int]] = {}
    for run in runs:
        if run.refused:
            found.setdefault((run.name, run.refused), []).append(run.record)
    return [f"{name} was not run on records {own}: {why}" for (name, why), own in found.items()]
