"""What the tables say, in sentences."""

from collections.abc import Sequence
from typing import Any

from analyses.emergent_heads.asked import Settings
from analyses.emergent_heads.judging import listed

FEW = 30  # held-out records below which accuracies are coarse
NAMED = 12  # heads to name


def notes(table: Any, tables: dict[str, Any], asked: Settings, order: Sequence[str]) -> list[str]:
    said = []
    for task in dict.fromkeys(table["task"]):
        own = table[table["task"] == task]
        tests = tables["tests"][tables["tests"]["task"] == task].set_index("condition")
        draws = tables["draws"][tables["draws"]["task"] == task]
        said += [_gain(task, tests, order), _heads(task, own, asked)]
        said += _grown(task, own, tables["checkpoints"], asked, order)
        said += _tested(task, own, tests, draws, asked)
        said += _parts(task, tables["parts"][tables["parts"]["task"] == task], tests)
    said.append(_method(asked))
    fewest = int(tables["checkpoints"]["records"].min())
    if fewest < FEW:
        said.append(f"{fewest} held-out records are few: accuracies are coarse, intervals wide.")
    return said


def _gain(task: str, tests: Any, order: Sequence[str]) -> str:
    plain, start = tests.loc["plain"], tests.loc[order[0]]
    gain = plain["accuracy"] - start["accuracy"]
    told = (
        f"the gain is {gain:+.2f}."
        if plain["removed"] == plain["removed"]
        else f"the gain of {gain:+.2f} is not told from chance, so no share of it is given."
    )
    return (
        f"{task}: {order[-1]} is right in {plain['accuracy']:.2f} of the held-out records and {order[0]} in "
        f"{start['accuracy']:.2f}; {told}"
    )


def _heads(task: str, own: Any, asked: Settings) -> str:
    parts = []
    for status in ("emergent", "retained", "lost"):
        some = own[own["status"] == status].sort_values("after", key=abs, ascending=False)
        heads = list(zip(some["layer"], some["head"], strict=True))
        more = ", ..." if len(heads) > NAMED else ""
        parts.append(f"{status} {len(heads)}{f' ({listed(heads[:NAMED])}{more})' if heads else ''}")
    between = own[(own["frequency"] > 0) & (own["status"] == "neither")]
    heads = list(zip(between["layer"], between["head"], strict=True))
    passing = f" In circuits only in between: {listed(heads[:NAMED])}." if heads else ""
    if not (own["in_before"] | own["in_after"]).any():
        edges = " Edges do less than heads; a lower least= lets more in." * (
            asked.method == "eap_ig"
        )
        return (
            f"{task}: no head is in the circuit of the first or the last checkpoint; none does as much as "
            f"least={asked.least:g} asks for.{edges}{passing}"
        )
    return f"{task}, of {len(own)} heads: {'; '.join(parts)}.{passing}"


def _grown(task: str, own: Any, points: Any, asked: Settings, order: Sequence[str]) -> list[str]:
    """Emergent heads that were at work on a smaller scale before."""
    some = own[own["grew"].eq(True)]
    if not len(some):
        return []
    change = points[points["task"] == task].set_index("checkpoint")["change"]
    heads = list(zip(some["layer"], some["head"], strict=True))
    return [
        f"{task}: of the emergent ones {listed(heads[:NAMED])} did {asked.least:.0%} or more of what "
        f"{order[0]} could do already, a change of the metric of {change[order[0]]:.2f} where {order[-1]} "
        f"has {change[order[-1]]:.2f}: they grew, rather than came new."
    ]


def _tested(task: str, own: Any, tests: Any, draws: Any, asked: Settings) -> list[str]:
    said = []
    for status in ("emergent", "retained"):
        if f"{status} silenced" in tests.index:
            row = tests.loc[f"{status} silenced"]
            share = row["removed"]
            gone = f", which is {share:.0%} of the gain" if share == share else ""
            said.append(
                f"{task}: with the {status} heads silenced {row['accuracy']:.2f} are right "
                f"({row['low']:.2f} to {row['high']:.2f}){gone}."
            )
    emergent = int((own["status"] == "emergent").sum())
    if not emergent:
        return said
    if len(draws):
        said[0] += (
            f" {len(draws)} random sets of as many other heads leave {draws['accuracy'].mean():.2f} right "
            f"({draws['accuracy'].min():.2f} to {draws['accuracy'].max():.2f}); "
            f"{int(draws['as_much'].sum())} of them hurt as much."
        )
    elif asked.draws:
        said[0] += " There are not as many other heads, so no random control."
    others = [name for name in tests.index if str(name).startswith("emergent for ")]
    said += [
        f"{task}: with the heads {str(name).removesuffix(' silenced')} silenced "
        f"{tests.loc[name, 'accuracy']:.2f} are right."
        for name in others
    ]
    scaled = [name for name in tests.index if str(name).startswith("emergent x ")]
    if scaled:
        shown = "; ".join(
            f"{name.removeprefix('emergent ')}: {tests.loc[name, 'accuracy']:.2f}"
            f" right, metric {tests.loc[name, 'metric']:.2f}"
            for name in scaled
        )
        said.append(
            f"{task}: emergent heads scaled, {shown}; as they are the metric is "
            f"{tests.loc['plain', 'metric']:.2f}."
        )
    return said


def _parts(task: str, parts: Any, tests: Any) -> list[str]:
    """Which of several emergent heads the answers hang on."""
    if len(parts) < 2:
        return []
    alone = parts[parts["count"] == 1].nsmallest(1, "accuracy").iloc[0]
    together = parts[parts["count"] > 1]
    shown = "".join(
        f" All of {row['heads']} silenced: {row['accuracy']:.2f}." for _, row in together.iterrows()
    )
    return [
        f"{task}: silenced alone, the emergent head that costs most is {alone['heads']}: "
        f"{alone['accuracy']:.2f} right, of {tests.loc['plain', 'accuracy']:.2f}.{shown}"
    ]


def _method(asked: Settings) -> str:
    if asked.method == "eap_ig":
        return (
            "Circuits are estimates (EAP-IG), not tested edge by edge; importances have no intervals. "
            "Ablation and scaling are exact."
        )
    blind = {
        "noise": " Heads that back each other up have small effects this way; direction='both' sees them.",
        "denoise": " Heads that only work together have small effects this way; direction='both' sees them.",
    }.get(asked.direction, "")
    return (
        "Importances are exact effects of patching one head, and see only what the counterfactuals change: "
        f"a head that does the same on both prompts has none.{blind}"
    )
