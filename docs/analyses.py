"""`python -m docs.analyses`: ask the shipped models every analysis, and write on its page what was found.

About twenty minutes on one core; `python -m docs.analyses sinks flow` does some. Each result is kept in
the folder given by --runs, and the pages of those that are there are written.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import torch

import interp
from analyses import ANALYSES
from docs.pages import page_of
from docs.readme import put
from interp import Result, Task
from interp.interventions import VAR

SERIES = ("demo-lm-before-induction", "demo-lm-after-induction")


@dataclass(frozen=True)
class Asked:
    """One analysis of one model, and what of its tables to show."""

    name: str
    call: str  # as a reader would type it
    run: Callable[[], Result]
    shown: Callable[[Result], Any]
    beside: str = ""  # what was measured beside it, by hand


def _sinks(model: str, fault: str | None = None, **domains: dict[str, Any]) -> Callable[[], Result]:
    def run() -> Result:
        task = {
            name: Task.load(**{"source": name, "count": 40, **own}) for name, own in domains.items()
        }
        return ANALYSES["sinks"](interp.load(model, fault=fault), task)

    return run


def _resting(result: Result) -> Any:
    rest = result.tables["rest"].dropna(subset="effect")
    columns = [
        "domain",
        "layer",
        "head",
        "label",
        "alpha_first",
        "effect",
        "low",
        "high",
        "confirmed",
    ]
    heads = rest.groupby(["layer", "head"])["effect"].transform(lambda one: one.abs().max())
    return rest[heads > 0.05][columns].sort_values(["layer", "head", "domain"])


def _visual(result: Result) -> Any:
    table = result.table[result.table["stack"] == "text"]
    columns = ["alpha_first", "hidden_mass", "visual_sink", "visual_rest"]
    return table.groupby("layer", as_index=False)[columns].mean()


def _of(
    name: str,
    model: str | None,
    task: str | None = None,
    settings: dict[str, Any] | None = None,
    **own: Any,
) -> Callable[[], Result]:
    """An analysis under settings, of a model on a task with its own."""

    def run() -> Result:
        loaded = None if model is None else interp.load(model)
        asked = None if task is None else Task.load(task, **{"count": 20, **own})
        return ANALYSES[name](loaded, asked, **(settings or {}))

    return run


def _types(result: Result) -> Any:
    """Heads that do something, strongest types first."""
    columns = [
        name
        for name in ("layer", "head", "types", "previous", "induction", "sink", "answer", "image",
                     "seeing", "vhd", "nearer", "name_copy", "copying")
        if name in result.table
    ]  # fmt: skip
    plain = {"other", "local", "global", "local (weak)", "global (weak)"}
    return result.table[~result.table["type"].isin(plain)][columns]


def _overall(result: Result) -> Any:
    columns = ["statistic", "observed", "random", "low", "high", "lift", "density", "tokens"]
    return result.table[result.table["depth"] == "all"][columns]


def _areas(result: Result) -> Any:
    """Methods by curve: the area, and whether it beats chance."""
    table = result.table.copy()
    table["area"] = [f"{auc:.3f}{'*' if beats is True else ''}" for auc, beats in
                     zip(table["auc"], table["beats"], strict=True)]  # fmt: skip
    return table.pivot(index="method", columns="curve", values="area").reset_index()


def _trajectory(result: Result) -> Any:
    return result.table


def _importance(result: Result) -> Any:
    """The heads that matter most by mean ablation."""
    measures = ["zero", "mean", "resample", "gradient", "mask", "direct", "vhd"]
    columns = ["layer", "head", *(name for name in measures if name in result.table)]
    order = result.table["mean"].abs().sort_values(ascending=False).index[:8]
    return result.table.loc[order, columns]


def _paths(result: Result) -> Any:
    columns = ["layer", "head", "share", "share_low", "share_high", "raw"]
    order = result.table["share"].abs().sort_values(ascending=False).index[:8]
    return result.table.loc[order, columns]


def _peaks(*axes: str) -> Callable[[Result], Any]:
    """Of each combination of these columns, the row with the largest effect."""

    def shown(result: Result) -> Any:
        name = "rate" if "rate" in result.table else "effect"
        table = result.table.dropna(subset=name)
        rows = table.groupby(list(axes), sort=False)[name].apply(lambda one: one.abs().idxmax())
        hidden = {
            "low",
            "high",
            "effect_low",
            "effect_high",
            "share_low",
            "share_high",
            "mean_of_ratios",
        }
        return table.loc[rows, [one for one in table if one not in hidden]]

    return shown


def _circuit(result: Result) -> Any:
    """The heads of the circuit, largest first."""
    columns = [
        "layer",
        "head",
        "score",
        "score_low",
        "score_high",
        "stage",
        "role",
        "looks",
        "looks_share",
    ]
    own = result.table[result.table["in_circuit"]].sort_values("rank")
    return own[[name for name in columns if name in own]]


def _reuse() -> Result:
    return ANALYSES["circuit_reuse"](interp.load("demo-lm"))


def _shared(result: Result) -> Any:
    """Circuits as they were found, and the first pair at all sizes."""
    table = result.table
    first = (table["first"] == table["first"].iloc[0]) & (
        table["second"] == table["second"].iloc[0]
    )
    columns = ["first", "second", "size", "first_heads", "second_heads", "shared", "ratio", "jaccard",
               "expected", "most", "p", "above_chance"]  # fmt: skip
    return table[first | (table["size"] == "own")][columns]


def _conditions(result: Result) -> Any:
    columns = [
        "condition",
        "accuracy",
        "gain",
        "gain_low",
        "gain_high",
        "options",
        "metric",
        "mended",
        "broken",
    ]
    return result.table[[name for name in columns if name in result.table]]


def _emergent(last: str, *names: str, before: Sequence[str]) -> Callable[[], Result]:
    def run() -> Result:
        tasks = {name: Task.load(name, count=100) for name in names}
        return ANALYSES["emergent_heads"](interp.load(last), tasks, before=list(before))

    return run


def _tests(result: Result) -> Any:
    columns = ["task", "condition", "heads", "accuracy", "low", "high", "metric", "removed"]
    return result.tables["tests"][[name for name in columns if name in result.tables["tests"]]]


def _resting_most(result: Result) -> Any:
    """The heads that give the first token most."""
    return result.table.nlargest(6, "first")


def _steered() -> Result:
    mend = VAR(rho=0, mass=0, layers=[1, 2, 3])
    model = interp.load("demo-vlm", fault="parked-on-sinks")
    return ANALYSES["steer"](
        model, Task.load("existence", count=8), interventions=[mend, "VHR"], records=8
    )


def _answers(result: Result) -> Any:
    columns = [
        "record",
        "intervention",
        "answer",
        "right",
        "probability",
        "token_moved",
        "look_moved",
    ]
    return result.table[columns]


def _agreement(result: Result) -> Any:
    return result.tables["agreement"]


BACKCOPY = """Measured beside it, each once. Other seeds at step 1000 (`seed=1`, `seed=2`): sink
0.858 and 0.192, drain 0.122 and 0.325, copy risk 0.0026 and 0.0027: with seed 2 the model copies,
and its sink has not come. The residual peak does not form in one layer. With three (`layers=3,
steps=5000, every=500`) it does, a little: in the layer that copies, the first, <s> has 0.90 times
the largest other norm at step 0, 1.00 at step 1500 and 1.13 at step 5000; in the other two it falls
to 0.68 and 0.40, and the sink is in the third (0.71), where triggers look one back with 0.48."""
HAND_SET = """Measured beside it, on models whose weights were set by hand (`tests/known_models.py`,
`tests/known_ioi.py`): knocking out heads and patching paths find the heads that were put there and no
others (recall and precision 1); of EAP-IG, an estimate, the edges' AUROC against the known graph is
1.0000 on all three models, by logit difference and by KL. Of two heads that stand in for each other a
sweep keeps one, and says so. `interp.roles.ioi_classes` finds every head of the seven published
classes, and names no other."""
ASKED = (
    Asked(
        "sinks",
        'sinks(demo_lm, {"facts": ..., "ioi": ..., "objects": ..., "who": ...})',
        _sinks("demo-lm", facts={}, ioi={}, objects={"source": "colored_objects", "shots": 0},
               who={"source": "open_book", "kind": "who", "sentences": 8}),
        _resting,
    ),
    Asked("sinks", "sinks(demo_vlm, colour)", _sinks("demo-vlm", colour={}), _visual),
    Asked(
        "sinks",
        'sinks(interp.load("demo-vlm", fault="parked-on-sinks"), colour)',
        _sinks("demo-vlm", "parked-on-sinks", colour={}),
        _visual,
    ),
    Asked("heads", "heads(demo_lm, ioi)", _of("heads", "demo-lm", "ioi"), _types),
    Asked("heads", "heads(demo_vlm, colour)", _of("heads", "demo-vlm", "colour"), _types),
    Asked(
        "rhythm",
        "rhythm(demo_lm, open_book, min_new_tokens=60, max_new_tokens=60)",
        _of("rhythm", "demo-lm", "open_book", {"min_new_tokens": 60, "max_new_tokens": 60}, count=70,
            sentences=6),
        _overall,
    ),
    Asked(
        "rhythm",
        "rhythm(demo_lm, ioi, min_new_tokens=60, max_new_tokens=60)",
        _of("rhythm", "demo-lm", "ioi", {"min_new_tokens": 60, "max_new_tokens": 60}, count=70),
        _overall,
    ),
    Asked("flow", "flow(demo_lm, colored_objects)", _of("flow", "demo-lm", "colored_objects", shots=0),
          _areas),
    Asked("flow", "flow(demo_vit, digits, limit=65)", _of("flow", "demo-vit", "digits", {"limit": 65}),
          _areas),
    Asked("flow", "flow(demo_vlm, colour)", _of("flow", "demo-vlm", "colour"), _areas),
    Asked("causal_tracing", "causal_tracing(demo_lm, facts)",
          _of("causal_tracing", "demo-lm", "facts", count=40), _peaks("kind", "role")),
    Asked("causal_tracing",
          'causal_tracing(demo_lm, facts, corruption="tokens", severed=["mlp_out", "attn_out"])',
          _of("causal_tracing", "demo-lm", "facts",
              {"corruption": "tokens", "severed": ("mlp_out", "attn_out")}, count=40),
          _peaks("kind", "severed", "role")),
    Asked("activation_patching", "activation_patching(demo_lm, ioi)",
          _of("activation_patching", "demo-lm", "ioi", count=32), _peaks("direction", "site", "place")),
    Asked("fcct", "fcct(demo_vlm, existence)", _of("fcct", "demo-vlm", "existence", count=40),
          _peaks("group", "component")),
    Asked("head_importance", "head_importance(demo_lm, ioi)",
          _of("head_importance", "demo-lm", "ioi", count=32), _importance),
    Asked("head_importance", "head_importance(demo_vlm, existence)",
          _of("head_importance", "demo-vlm", "existence", count=32), _importance),
    Asked("head_importance", "head_importance(demo_vit, digits)",
          _of("head_importance", "demo-vit", "digits", count=32), _importance),
    Asked("path_patching", "path_patching(demo_lm, ioi)",
          _of("path_patching", "demo-lm", "ioi", count=64), _paths),
    Asked("path_patching", 'path_patching(demo_lm, ioi, receivers=[(2, 1, "k"), (2, 1, "v")], position="S2")',
          _of("path_patching", "demo-lm", "ioi",
              {"receivers": [(2, 1, "k"), (2, 1, "v")], "position": "S2"}, count=64), _paths),
    Asked("attribution", "attribution(demo_lm, ioi)",
          _of("attribution", "demo-lm", "ioi", count=32), _agreement),
    Asked(
        "bigram_backcopy",
        "bigram_backcopy()",
        _of("bigram_backcopy", None, settings={"progress": False}),
        _trajectory,
        BACKCOPY,
    ),
    Asked("circuit", "circuit(demo_lm, ioi)", _of("circuit", "demo-lm", "ioi", count=200), _circuit),
    Asked("circuit", "circuit(demo_lm, colored_objects)",
          _of("circuit", "demo-lm", "colored_objects", count=200, apart=True), _circuit),
    Asked("circuit", 'circuit(demo_lm, colored_objects, method="paths")',
          _of("circuit", "demo-lm", "colored_objects", {"method": "paths"}, count=200, apart=True), _circuit),
    Asked("circuit", 'circuit(demo_lm, ioi, method="eap_ig")',
          _of("circuit", "demo-lm", "ioi", {"method": "eap_ig"}, count=80), _circuit, HAND_SET),
    Asked("circuit_reuse", "circuit_reuse(demo_lm)", _reuse, _shared),
    Asked("repair", "repair(demo_lm, colored_objects)",
          _of("repair", "demo-lm", "colored_objects", count=400, shots=4), _conditions),
    Asked("repair", "repair(demo_lm, open_book)",
          _of("repair", "demo-lm", "open_book", count=600, kind="where", sentences=12,
              conflict="statements", last=1.0), _conditions),
    Asked("emergent_heads", "emergent_heads(demo_lm_after_induction, {induction, sentiment}, before=...)",
          _emergent("demo-lm-after-induction", "induction", "sentiment", before=SERIES[:1]), _tests),
    Asked("emergent_heads", "emergent_heads(demo_lm, induction, before=[...])",
          _emergent("demo-lm", "induction", before=SERIES[:2]), _tests),
    Asked("attention", "attention(demo_lm, ioi)", _of("attention", "demo-lm", "ioi", count=1), _resting_most),
    Asked("steer", 'steer(interp.load("demo-vlm", fault="parked-on-sinks"), existence, interventions=...)',
          _steered, _answers),
)  # fmt: skip


def markdown(table: Any) -> str:
    """A table as GitHub shows it; numbers to three digits."""
    rows = [list(table.columns), ["---"] * len(table.columns)]
    rows += [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(value: Any) -> str:
    if pandas.isna(value):
        return ""
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("<", "&lt;")


def section(asked: Asked, result: Result) -> str:
    notes = "\n".join(f"* {note}" for note in result.notes).replace("<", "&lt;")
    made = f"{result.made['seconds']:.1f} s on one core"
    beside = "\n{}\n".format(asked.beside.replace("<", "&lt;")) if asked.beside else ""
    return f"`{asked.call}`, {made}:\n\n{markdown(asked.shown(result))}\n\n{notes}\n{beside}"


def write(found: list[tuple[Asked, Result]]) -> None:
    """Put what was found on the page of its analysis; pages of others stay as they are."""
    for name in dict.fromkeys(asked.name for asked, _ in found):
        parts = [section(asked, result) for asked, result in found if asked.name == name]
        page = page_of(name)
        text = put(page.read_text(encoding="utf-8"), "found", "\n".join(parts).rstrip())
        page.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="analyses to ask again; none: all")
    parser.add_argument("--runs", default="runs/docs", help="where results are kept")
    parser.add_argument(
        "--page", action="store_true", help="only write the pages, of what is there"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for number, asked in enumerate(ASKED):
        path = Path(given.runs) / f"{number}-{asked.name}"
        if not given.page and (not given.names or asked.name in given.names):
            asked.run().save(path)
            print(f"{asked.name}: {asked.call}", flush=True)
        if path.exists():
            found.append((asked, Result.load(path)))
    write(found)


if __name__ == "__main__":
    main()
