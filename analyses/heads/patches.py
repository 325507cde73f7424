"""Heads of a vision tower: how near they look, by hops and by distance, and the class token."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from analyses.heads.asked import Asked, Means
from interp.images import patch_grid
from interp.metrics import METRICS, Metric
from interp.prompt import Prompt

if TYPE_CHECKING:
    import pandas


def seen(asked: Asked) -> None:
    if asked.task is None:
        raise ValueError(
            f"the vision tower of {asked.model.name} is shown images, and no task was given: "
            "interp.Task.load('digits'), or records of your own with images."
        )
    means = Means()
    for part in asked.batches():
        means.add(_of_images(asked, part.prompt))
    columns = means.means()
    hops = {form: columns.pop(f"hops {form}") for form in ("mean", "sum")}
    near, even = hops["sum"][..., :2].sum(-1), float(columns.pop("even").flatten()[0])
    asked.columns |= columns | {"near": near, "nearer": (near - even) / (1 - even)}
    asked.notes.append(f"Even attention to all patches would put {even:.3f} of it within one hop.")
    asked.tables["profile"] = _profile(asked, hops)
    asked.notes.append("A vision tower reads no words: no scores of repeats, answers or copying.")


def _of_images(asked: Asked, prompt: Prompt) -> dict[str, Tensor]:
    grid, before = _patches(asked, prompt)
    place = {"grid": grid, "before": before}
    metrics: dict[str, Metric] = {
        "distance": METRICS["image_distance"](**place),
        "hops mean": METRICS["neighbours"](**place),
        "hops sum": METRICS["neighbours"](**place, form="sum"),
        "confidence": METRICS["confidence"](),
    }
    starts = tuple(sorted({0, min(before, 1), before}))
    if before:
        metrics["chunks"] = METRICS["chunks"](starts=starts)
    found = asked.keep(prompt, metrics)
    found["distance"] = found["distance"].nanmean(-1)
    found["confidence"] = found["confidence"].mean(-1)
    found["even"] = _even(grid).expand_as(found["confidence"])
    if before:
        chunks = found.pop("chunks")
        found["to_class"] = chunks[..., -1, 0]
        found["class_to_image"] = chunks[..., 0, -1] * grid[0] * grid[1]
    return found


def _patches(asked: Asked, prompt: Prompt) -> tuple[tuple[int, int], int]:
    """Rows and columns of patches, and how many tokens come before them."""
    if asked.model.kind != "vision":
        return patch_grid(asked.model.config)
    if not prompt.images:  # ready pixels
        height, width = prompt.inputs["pixel_values"].shape[-2:]
        return patch_grid(asked.model.config, (height, width))
    region = prompt.regions(0)[0]
    return region.grid, int(region.index.min())


def _even(grid: tuple[int, int]) -> Tensor:
    """What attention that is the same everywhere puts within one hop."""
    patches = grid[0] * grid[1]
    pattern = torch.full((1, 1, patches, patches), 1 / patches)
    return METRICS["neighbours"](grid=grid, form="sum")(pattern)[..., :2].sum(-1)


def _profile(asked: Asked, hops: dict[str, Tensor]) -> "pandas.DataFrame":
    """Attention by hops between patches: to one patch that far away, and to all of them."""
    import pandas

    rows = [
        {"layer": layer, "head": head, "hop": hop}
        | {form: float(values[at, head, hop]) for form, values in hops.items()}
        for at, layer in enumerate(asked.layers)
        for head in range(asked.stack.heads)
        for hop in range(hops["mean"].shape[-1])
    ]
    return pandas.DataFrame(rows)
