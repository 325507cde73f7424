"""`python -m docs.pictures`: the README's three pictures, asked of the demo models and taken by Chromium.

About two minutes on one core; `python -m docs.pictures see` takes one of them again. Data are seeded.
"""

import base64
import io
import sys
import tempfile
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import torch

import interp
from analyses import ANALYSES
from docs.study_controls import random_tokens
from interp import Task, plots
from interp.interventions import VAR
from interp.plots.style import FAINT, INK, QUIET, SERIES, WORDS

FOLDER = Path(__file__).parent / "pictures"
CHROMIUM = "/usr/bin/chromium"
SIZE, SCALE = {"width": 1200, "height": 500}, 1.5
FONT = "font-family: Inter, Helvetica, Arial, sans-serif"
PAGE = f"""<!doctype html><meta charset="utf-8"><style>
* {{ margin: 0; box-sizing: border-box }}
body {{ {FONT}; color: {INK}; background: white; width: 1200px; height: 500px; overflow: hidden }}
h1 {{ font-size: 21px; padding: 16px 22px 3px }} h1 + p {{ color: {QUIET}; padding: 0 22px; font-size: 15px }}
.row {{ display: flex; align-items: flex-start; margin-top: 8px }}
.card {{ display: flex; align-items: center; gap: 18px; margin: 10px 0 14px 26px;
        font-size: 15px; line-height: 1.6 }}
.card img {{ width: 112px; height: 112px; border: 1px solid {FAINT}; image-rendering: pixelated }}
</style>"""
LAYER, HEAD = 3, 6  # of demo-lm: carries the name that is due
SCENES = [0, 1, 3]  # of those that are mended: large enough to be made out
MEND = VAR(rho=0, mass=0, layers=[1, 2, 3])


def see() -> str:
    """Every head of a text model, one head large, and what a head of an image model looks at."""
    model = interp.load("demo-lm")
    record = Task.load("ioi", count=1)[0]
    trace = model.trace(record.prompt, "pattern")
    tokens = trace.prompt.tokens[0]
    every = plots.head_maps(trace).update_layout(
        title_text="Every head of demo-lm: layers down, heads across", width=540, height=420
    )
    every.update_traces(showscale=False).update_layout(margin={"l": 16, "r": 28, "t": 66, "b": 16})
    one = plots.head_map(trace["pattern", LAYER][0, HEAD], tokens, f"Layer {LAYER}, head {HEAD}")
    one.update_traces(showscale=False)
    one.update_layout(width=400, height=420, margin={"l": 78, "r": 8, "t": 40, "b": 66})
    vlm, scene = interp.load("demo-vlm"), Task.load("colour", count=1)[0]
    prompt = vlm.encode(scene.prompt, images=scene.image)
    seen = vlm.trace(prompt, "pattern")
    image = prompt.where("image")[0]
    _, layer, head = max(
        (float(seen["pattern", layer][0, head, -1][image].max()), layer, head)
        for layer in seen.layers("pattern")
        for head in range(seen["pattern", layer].shape[1])
    )
    heat = prompt.heatmap(seen["pattern", layer][0, head, -1])
    where = plots.image_map(scene.image, heat, f"demo-vlm, layer {layer}, head {head}")
    where = plots.fit(where, 300).update_traces(showscale=False, selector={"type": "heatmap"})
    where.update_layout(width=250, height=420, margin={"l": 8, "r": 24, "t": 40, "b": 10})
    return _page(
        "See: what every head looks at, in text and on images",
        f"“{record.prompt}” <b>{record.answers[0].strip()}</b>; “{scene.prompt}” <b>"
        f"{scene.answers[0].strip()}</b>. Dark: much attention; orange: where the last token looks.",
        every, one, where,
    )  # fmt: skip


def cause() -> str:
    """The circuits of two tasks, found by changing one head at a time, and the heads in both."""
    tasks = [Task.load("ioi", count=200), Task.load("colored_objects", count=200, apart=True)]
    result = ANALYSES["circuit_reuse"](
        interp.load("demo-lm"), tasks, roles=False, draws=3, progress=False
    )
    figure = result.figure().update_layout(title_text="", width=1200, height=430)
    figure.update_layout(margin={"t": 36, "b": 100, "l": 60, "r": 26}, legend_font_size=14)
    return _page(
        "Cause: which heads do the work, and which do it for two tasks",
        "Share of the answer that is lost when one head of demo-lm is replaced; frames: the heads that "
        "are enough for each task.",
        figure,
    )  # fmt: skip


def steer() -> str:
    """What one intervention mends in a broken model, three answers of it, and a control beside it."""
    broken, task = interp.load("demo-vlm", fault="parked-on-sinks"), Task.load("colour", count=200)
    found = ANALYSES["compare"](
        broken, task, interventions={"VAR": MEND}, whole=interp.load("demo-vlm"),
        controls={"VAR, random tokens": random_tokens(MEND.kept, [1, 2, 3])},
    )  # fmt: skip
    figure = found.figure().update_layout(title_text="", width=770, height=400)
    figure.update_layout(margin={"l": 178, "r": 24, "t": 44, "b": 104})
    plain, mended = (interp.score(broken, task, using=using) for using in ((), MEND))
    turned = (mended["right"] & ~plain["right"]).to_numpy().nonzero()[0][SCENES]
    cards = "".join(_card(broken, task[int(place)]) for place in turned)
    return _page(
        "Steer: change attention while the model answers, and hold it against controls",
        "demo-vlm with its attention parked on sinks; VAR gives it back to the image. Right: the change "
        "of accuracy on 200 held-out scenes, 95 % intervals.",
        f"<div style='width: 420px'>{cards}</div>", figure,
    )  # fmt: skip


def _card(model: Any, record: Any) -> str:
    """A scene, its question, and the answers without and with the intervention."""
    prompt = model.encode(record.prompt, images=record.image)
    plain, mended = (
        model.decode(model.generate(prompt, using=using, max_new_tokens=1, do_sample=False), prompt)[0]
        for using in ((), MEND)
    )  # fmt: skip
    with io.BytesIO() as file:
        record.image.save(file, "PNG")
        picture = base64.b64encode(file.getvalue()).decode()
    question = escape(record.prompt.split("USER:")[-1].split("ASSISTANT")[0].replace("<image>", ""))
    return (
        f"<div class='card'><img src='data:image/png;base64,{picture}'><div>{question.strip()}<br>"
        f"plain: <b style='color: {WORDS[SERIES[1]]}'>{escape(plain.strip())}</b><br>"
        f"with VAR: <b style='color: {SERIES[0]}'>{escape(mended.strip())}</b></div></div>"
    )


def _page(title: str, says: str, *parts: Any) -> str:
    """A heading, a sentence, and figures beside each other."""
    drawn = [
        part if isinstance(part, str)
        else part.to_html(full_html=False, include_plotlyjs=place == _first(parts))
        for place, part in enumerate(parts)
    ]  # fmt: skip
    cells = "".join(f"<div>{part}</div>" for part in drawn)
    return f"{PAGE}<h1>{title}</h1><p>{says}</p><div class='row'>{cells}</div>"


def _first(parts: tuple[Any, ...]) -> int:
    """The first figure brings plotly along for all."""
    return next(place for place, part in enumerate(parts) if not isinstance(part, str))


PICTURES: dict[str, Callable[[], str]] = {"see": see, "cause": cause, "steer": steer}


def take(names: list[str]) -> None:
    from playwright.sync_api import sync_playwright

    flags = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--hide-scrollbars",
    ]
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as play, tempfile.TemporaryDirectory() as folder:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport=SIZE, device_scale_factor=SCALE)  # type: ignore[arg-type]
        for name in names:
            file = Path(folder) / f"{name}.html"
            file.write_text(PICTURES[name](), encoding="utf-8")
            page.goto(file.as_uri())
            page.wait_for_selector(".main-svg")
            page.wait_for_timeout(500)
            page.screenshot(path=FOLDER / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        take(sys.argv[1:] or list(PICTURES))
