"""`python -m app.demo OUT.html`: ask the shipped models, look inside, write what was seen."""

import sys
import time
from pathlib import Path
from typing import Any

LAYER, HEAD = 3, 3  # of demo-lm: rests, and reads what stands beside a noun


def report(path: Path) -> str:
    """Write the report and say in a few lines what it holds."""
    started = time.process_time()
    text, said = _language()
    vision, answered = _vision()
    caused, moved = _causes()
    asked, found = _analyses()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_page([*text, *vision, *caused, *asked]), encoding="utf-8")
    return (
        f"{said}\n{answered}\n{moved}\n{found}\n"
        f"Open it in a browser: {path} ({time.process_time() - started:.1f} s of CPU)"
    )


def _language() -> tuple[list[Any], str]:
    """demo-lm tells the colour of an object, and forgets how without one head that rests elsewhere."""
    import interp
    from interp import Hook
    from interp.plots import head_map, head_maps, metric_map

    model = interp.load("demo-lm")
    record = interp.Task.load("colored_objects", count=1, shots=0)[0]
    prompt = model.encode(record.prompt)
    trace = model.trace(prompt, "pattern", keep=["received"])
    silence = Hook("z", lambda z, at: z * 0, layers=[LAYER], heads=[HEAD])
    rows = []
    for name in ("facts", "ioi", "induction", "colored_objects"):
        task = interp.Task.load(name, count=60)
        plain, silenced = (
            interp.score(model, task, hooks=hooks)["right"].mean() for hooks in ((), silence)
        )
        rows.append((name, task[0].prompt, plain, silenced))
    answer = model.decode(model.generate(prompt, max_new_tokens=1, do_sample=False), prompt)[0]
    points = model.points(prompt)
    parts = [
        f"<h2>demo-lm: {_count(model)} parameters, trained on words</h2>",
        f"<p>Prompt: <i>{record.prompt}</i> The model says <b>{answer.strip()}</b>.</p>",
        head_maps(trace),
        f"<p>Head {HEAD} of layer {LAYER} mostly rests on the first token. At the end, where the "
        "answer is due, it looks at the noun that is asked for.</p>",
        head_map(trace["pattern", LAYER][0, HEAD], prompt.tokens[0], f"layer {LAYER}, head {HEAD}"),
        "<p>Without that one head (share of 60 held-out prompts answered right):</p>",
        _table(rows),
        metric_map(trace, "received"),
    ]
    told = ", ".join(f"{name} {plain:.2f} -> {silenced:.2f}" for name, _, plain, silenced in rows)
    return parts, (
        f"{model}\n{sum(points['read'])} of {len(points)} sites can be read, "
        f"{sum(points['change'])} changed.\n"
        f"Without head {HEAD} of layer {LAYER}: {told}."
    )


def _vision() -> tuple[list[Any], str]:
    """demo-vlm answers a question about a scene; where its heads look when it does."""
    import interp
    from interp.plots import image_map

    model = interp.load("demo-vlm")
    record = next(each for each in interp.Task.load("colour", count=40) if _unusual(each))
    prompt = model.encode(record.prompt, images=record.image)
    trace = model.trace(prompt, "pattern")
    answer = model.decode(model.generate(prompt, max_new_tokens=2, do_sample=False), prompt)[0]
    image = prompt.where("image")[0]
    seen = max(
        (trace["pattern", layer][0, head, -1][image].max().item(), layer, head)
        for layer in trace.layers("pattern")
        for head in range(trace["pattern", layer].shape[1])
    )
    _, layer, head = seen
    heat = prompt.heatmap(trace["pattern", layer][0, head, -1])
    parts = [
        f"<h2>demo-vlm: {_count(model)} parameters, trained on scenes of shapes</h2>",
        f"<p>Question: <i>{record.prompt}</i> The model says <b>{answer.strip()}</b>, "
        f"which is {'right' if answer.strip() == record.answers[0].strip() else 'wrong'}.</p>",
        image_map(record.image, heat, f"where layer {layer}, head {head} looks when it answers"),
    ]
    return parts, f"{model}\n{record.prompt} {answer.strip()}"


def _causes() -> tuple[list[Any], str]:
    """Where one name's difference lies on its way to the answer: every cell is a run of its own."""
    import interp
    from interp.metrics import logit_diff

    model = interp.load("demo-lm")
    record = interp.Task.load("ioi", count=1, counterfactual="flip")[0]
    metric = logit_diff(record.answers[0], record.wrong[0])
    clean = model.trace(record.prompt, "resid_pre", "z")
    grids = [
        model.sweep(record.counterfactual, "resid_pre", take=clean, metric=metric),
        model.sweep(record.counterfactual, "z", take=clean, over=("layer", "head"), metric=metric),
    ]
    cells = sum(grid.numel() for grid in grids)
    parts = [
        "<h2>Where it comes from</h2>",
        f"<p>Clean: <i>{record.prompt}</i> <b>{record.answers[0].strip()}</b>. Corrupted: "
        f"<i>{record.counterfactual}</i>. Into it one state of the clean run is put at a time; "
        "colour says what the clean answer's logit gains on the other name's.</p>",
        grids[0].figure(title="the residual stream, token by token"),
        grids[1].figure(title="each head at all positions"),
    ]
    best = grids[1].effect[0].flatten().argmax()
    layer, head = divmod(int(best), grids[1].shape[-1])
    return parts, (
        f"{cells} patched runs, exact; the metric goes from {float(grids[0].plain[0]):+.2f} by up to "
        f"{float(grids[1].effect.max()):+.2f} with head {layer}.{head} alone."
    )


def _analyses() -> tuple[list[Any], str]:
    """What some analyses say of the two models, in figures and in sentences."""
    import interp
    from analyses import ANALYSES

    language, vision = interp.load("demo-lm"), interp.load("demo-vlm")
    task = interp.Task.load
    who = task("open_book", count=10, kind="who", sentences=8)
    results = [
        ANALYSES["heads"](language, task("ioi", count=10), pairs=0),
        ANALYSES["sinks"](language, {"facts": task("facts", count=10), "who": who}),
        ANALYSES["head_importance"](language, task("ioi", count=16)),
        ANALYSES["flow"](vision, task("colour", count=10), methods=["rollout", "chefer", "lrp"]),
    ]
    two = [task("ioi", count=100), task("colored_objects", count=100, apart=True)]
    reuse = ANALYSES["circuit_reuse"](language, two, roles=False, draws=3, progress=False)
    results.insert(-1, reuse)
    parts: list[Any] = ["<h2>What the analyses say</h2>"]
    for result in results:
        notes = "".join(f"<li>{_escaped(note)}</li>" for note in result.notes)
        parts += [f"<h3>{result.analysis}</h3>", result.figure(), f"<ul>{notes}</ul>"]
    kinds = results[0].table["type"].value_counts()
    said = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    judged = next(note for note in results[-1].notes if note.startswith("Deletion"))
    shared = next(note for note in reuse.notes if "smaller circuit" in note)
    return parts, f"heads: {said}\nsinks: {results[1].notes[0]}\ncircuits: {shared}\nflow: {judged}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _unusual(record: Any) -> bool:
    """A colour that the shape mostly does not have: it has to be seen, not guessed."""
    from interp.tasks.scene import USUAL_COLOUR

    usual = [colour for shape, (colour, _) in USUAL_COLOUR.items() if shape in record.prompt]
    return bool(usual) and record.answers[0].strip() not in usual


def _count(model: Any) -> str:
    return f"{sum(weight.numel() for weight in model.hf.parameters()):,}"


def _table(rows: list[tuple[str, str, float, float]]) -> str:
    cells = "".join(
        f"<tr><td>{name}</td><td><i>{prompt}</i></td><td>{plain:.2f}</td><td>{silenced:.2f}</td></tr>"
        for name, prompt, plain, silenced in rows
    )
    head = "<tr><th>task</th><th>for example</th><th>plain</th><th>silenced</th></tr>"
    return f"<table>{head}{cells}</table>"


def _page(parts: list[Any]) -> str:
    figures = [part for part in parts if not isinstance(part, str)]
    body = "".join(
        part
        if isinstance(part, str)
        else part.to_html(
            full_html=False,
            include_plotlyjs=part is figures[0],
            config={"displayModeBar": False},
        )
        for part in parts
    )
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>interp: a first look</title>
<style>body{{font:15px/1.5 Inter,Helvetica,Arial,sans-serif;color:#1f2933;max-width:1240px;
margin:2rem auto;padding:0 1rem}}td,th{{text-align:left;padding:.3rem .8rem .3rem 0;
border-bottom:1px solid #d9e2ec;vertical-align:top}}</style>
<h1>A first look</h1>
<p>Two models that come with the project, small enough to train on a laptop: what is seen here is what
they learned (their cards say what they were guided to).</p>
{body}
</html>"""


def main() -> None:
    import torch

    torch.set_num_threads(1)  # so small a model loses more to hand-overs than it gains
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "demo/report.html")
    print(report(path))


if __name__ == "__main__":
    main()
