"""`interp generate`: what a model writes, plainly and under interventions, side by side."""

from pathlib import Path
from typing import Annotated, Any

import typer

from app.command.opening import loaded
from app.command.saying import JSON_HELP, document, quiet, records, say


def generate(
    prompt: Annotated[str, typer.Argument(help="What the model goes on from.")],
    model: Annotated[str, typer.Option(help="A shipped name, a folder or a hub id.")],
    image: Annotated[
        list[Path] | None, typer.Option(help="An image that the prompt is about; repeatable.")
    ] = None,
    using: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INTERVENTION",
            help='An intervention such as VAR or "VAR(keep=0.4)"; several are used together.',
        ),
    ] = None,
    fault: Annotated[str | None, typer.Option(help="Known damage to a shipped model.")] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Lay the prompt into the model's chat template.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="How long an answer may be.")] = 64,
    backend: Annotated[str, typer.Option(help="hf, lens (TransformerLens) or nnsight.")] = "hf",
    dtype: Annotated[str | None, typer.Option(help="float16, bfloat16 or float32.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    json_asked: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> None:
    """What a model writes after a prompt, greedily.

    With --using the plain answer stands beside the changed one, with what the interventions touched.
    """
    with quiet(json_asked):
        from interp.steering.written import written

        items = [written(line) for line in using or []]
        pictures = [_opened(path) for path in image or []]

        opened = loaded(model, backend=backend, fault=fault, dtype=dtype, device=device)
        text: Any = [{"role": "user", "content": prompt}] if chat else prompt
        asked = opened.encode(text, images=pictures or None)
        found = _answers(opened, asked, items, max_new_tokens)
    if json_asked:
        named = {"model": opened.name, "fault": fault, "prompt": prompt, "using": using or []}
        document(named | {"images": [str(path) for path in image or []]} | found)
        return
    for line in _told(using or [], found):
        say(line)


def _opened(path: Path) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(path).convert("RGB")
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no image {str(path)!r}.") from None
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as problem:
        raise ValueError(
            f"{str(path)!r} cannot be read as an image ({problem}); give a PNG or a JPEG."
        ) from None


def _answers(model: Any, asked: Any, items: list[Any], most: int) -> dict[str, Any]:
    """The plain answer and, with interventions, the changed one and what was touched."""
    from interp.progress import bar
    from interp.steering.report import Report

    report = Report(*items) if items else None
    with bar(most * (2 if items else 1), "tokens") as shown:
        plain = _written(model, asked, None, most, shown)
        if report is None:
            return {"answer": plain}
        changed = _written(model, asked, report, most, shown)
    return {
        "plain": plain,
        "answer": changed,
        "touched": str(report).splitlines(),
        "report": records(report.table),
        "counts": records(report.counts),
        "conflicts": records(report.conflicts),
    }


def _written(model: Any, asked: Any, using: Any, most: int, shown: Any) -> str:
    import torch

    if not hasattr(model.hf, "generate"):
        return model.generate(asked)  # refuses, and says what else would do
    ticks = _Ticks(shown)
    options = {"do_sample": False, "max_new_tokens": most, "streamer": ticks}
    with torch.no_grad():
        ids = model.generate(asked, using=using, **options)
    ticks.over(most)
    return model.decode(ids, asked)[0]


class _Ticks:
    """Moves a bar at each token: `generate` streams here, the prompt first."""

    def __init__(self, shown: Any):
        self.shown, self.calls = shown, -1

    def put(self, value: Any) -> None:
        self.calls += 1
        self.shown.update(1 if self.calls else 0)

    def end(self) -> None: ...

    def over(self, most: int) -> None:
        """An answer that ended early leaves nothing to go."""
        self.shown.update(most - max(self.calls, 0))


def _told(using: list[str], found: dict[str, Any]) -> list[str]:
    if "plain" not in found:
        return [found["answer"].strip()]
    name = " + ".join(using)
    wide = max(len(name), len("plain"))
    said = [f"{'plain':{wide}}  {found['plain'].strip()}"]
    said.append(f"{name:{wide}}  {found['answer'].strip()}")
    if found["plain"] == found["answer"]:
        said.append("The answer is the same.")
    return said + [f"* {line}" for line in found["touched"]]
