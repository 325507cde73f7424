"""Image tokens and the image: counted, placed and folded back, against what each model computes.

With attention silenced in the vision tower, an image token depends on its own pixels alone: which
tokens move when part of the image changes tells where each of them lies, whatever the layout says.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from processors import PROCESSORS, processor_of
from tower_processors import TOWERS

import interp
from interp.families import FAMILIES
from interp.images import Region, patch_grid

PLACED = sorted(set(PROCESSORS) - {"blip-2"})
CORNERS = {"top left": (0, 0), "top right": (0, 1), "bottom left": (1, 0), "bottom right": (1, 1)}
SIZES = [(70, 100), (100, 70)]  # height and width


@functools.cache
def model_of(family: str) -> Any:
    entry = FAMILIES[family]
    return interp.wrap(entry.model(), processor_of(family, entry.tiny()))


def picture(size: tuple[int, int], corner: str | None = None) -> Image.Image:
    """Grey, with one corner bright up to four tenths of each side."""
    pixels = numpy.full((*size, 3), 90, dtype=numpy.uint8)
    if corner:
        down, along = CORNERS[corner]
        high, wide = int(0.4 * size[0]), int(0.4 * size[1])
        pixels[down * (size[0] - high) :, along * (size[1] - wide) :][:high, :wide] = 250
    return Image.fromarray(pixels)


@contextmanager
def silenced(model: Any) -> Iterator[None]:
    """No attention in the vision towers."""

    def zero(module: Any, arguments: Any, output: Any) -> Any:
        return (output[0] * 0, *output[1:]) if isinstance(output, tuple) else output * 0

    layers = [
        layer
        for name, stack in model.stacks.items()
        if name.startswith("vision")
        for layer in stack.layers.values()
    ]
    hooks = [layer.attention.register_forward_hook(zero) for layer in layers]
    yield
    for hook in hooks:
        hook.remove()


def seen_keys(model: Any, prompt: Any) -> torch.Tensor:
    """[batch, key, width]: what the text attends to, as it enters the language model."""
    kept: list[torch.Tensor] = []

    def keep(module: Any, arguments: Any, named: Any) -> None:
        given = [*arguments, named.get("cross_attention_states"), named.get("hidden_states")]
        kept.append(next(each for each in given if each is not None))

    language = [stack for name, stack in model.stacks.items() if name in ("text", "encoder")]
    inner = language[0].layers[0].module
    if model.config.model_type == "mllama":
        inner = model.hf.model.language_model
    hook = inner.register_forward_pre_hook(keep, with_kwargs=True)
    with torch.no_grad(), silenced(model):
        model.hf(**prompt.inputs)
    hook.remove()
    return kept[0].reshape(len(prompt), -1, kept[0].shape[-1])


def moved_keys(plain: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
    return (changed - plain).abs().amax(-1) > 1e-5


def cells(region: Region) -> Iterator[tuple[int, tuple[float, float, float, float]]]:
    """Each cell's key and its left, top, right, bottom."""
    (rows, columns), (left, top, right, bottom) = region.grid, region.box
    tall, wide = (bottom - top) / rows, (right - left) / columns
    for row in range(rows):
        for column in range(columns):
            x, y = left + column * wide, top + row * tall
            yield int(region.index[row, column]), (x, y, x + wide, y + tall)


def overlap(box: tuple[float, ...], corner: str, side: float) -> float:
    """The share of a cell that lies in a corner of this side."""
    down, along = CORNERS[corner]
    left, top = along * (1 - side), down * (1 - side)
    wide = min(box[2], left + side) - max(box[0], left)
    tall = min(box[3], top + side) - max(box[1], top)
    return max(wide, 0) * max(tall, 0) / ((box[2] - box[0]) * (box[3] - box[1]))


def check_corner(
    prompt: Any, moved: torch.Tensor, corner: str, row: int = 0, image: int = 0
) -> None:
    """Keys moved in the corner and nowhere else, and fold puts them there."""
    for region in prompt.regions(row, image):
        for key, box in cells(region):
            if overlap(box, corner, 0.4) > 0.1:
                assert moved[key], (corner, region.grid, box)
            if overlap(box, corner, 0.5) == 0:
                assert not moved[key], (corner, region.grid, box)
    height, width = prompt.images[row][image].size
    heat = prompt.heatmap(moved.float(), row, image)
    assert heat.shape == (height, width)
    down, along = CORNERS[corner]
    tall, wide = (int(0.8 * height), int(0.2 * height)), (int(0.8 * width), int(0.2 * width))
    assert heat[tall[1 - down], wide[1 - along]] > 0
    assert heat[tall[down], wide[along]] == 0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", PLACED)
def test_tokens_that_see_a_corner_are_placed_there(family: str, size: tuple[int, int]) -> None:
    model = model_of(family)
    images = [picture(size), *[picture(size, corner) for corner in CORNERS]]
    prompt = model.encode(["Where is it?"] * len(images), images=images)
    keys = seen_keys(model, prompt)
    for row, corner in enumerate(CORNERS, start=1):
        check_corner(prompt, moved_keys(keys[0], keys[row]), corner, row)


@pytest.mark.parametrize("family", PLACED)
def test_two_images_in_one_prompt_keep_apart(family: str) -> None:
    model = model_of(family)
    first, second = picture(SIZES[0]), picture(SIZES[1])
    shown = [[first, second], [first, picture(SIZES[1], "bottom left")]]
    prompt = model.encode(["Where is it?"] * 2, images=shown)
    moved = moved_keys(*seen_keys(model, prompt))
    check_corner(prompt, moved, "bottom left", 1, 1)
    assert prompt.fold(moved.float(), row=1, image=0).max() == 0
    assert [each.size for each in prompt.images[1]] == SIZES
    apart = [prompt.where("image", image=each) for each in (0, 1)]
    assert torch.equal(apart[0] | apart[1], prompt.where("image"))
    assert not (apart[0] & apart[1]).any()


@pytest.mark.parametrize("family", PLACED)
def test_each_spatial_token_is_in_one_cell(family: str) -> None:
    model = model_of(family)
    prompt = model.encode(
        ["Where is it?", "What colour is the square in the image?"],
        images=[picture(SIZES[0]), picture(SIZES[1])],
    )
    with torch.no_grad():
        model.hf(**prompt.inputs)
        model.hf.generate(**prompt.inputs, max_new_tokens=2, do_sample=False)
    assert len(prompt) == 2
    for row in range(2):
        keys = [key for region in prompt.regions(row) for key, _ in cells(region)]
        assert len(set(keys)) == len(keys)
        if family == "mllama":
            assert int(prompt.where("image")[row].sum()) == 1
            continue
        tokens = set(prompt.where("image")[row].nonzero()[:, 0].tolist())
        assert set(keys) <= tokens
        # What has no place is the newline after each row of LLaVA-NeXT's tiles.
        lines = prompt.regions(row)[-1].grid[0] if family.endswith(("next", "onevision")) else 0
        assert len(tokens) - len(keys) == lines


@pytest.mark.parametrize("family", ["llava_next", "llava_onevision"])
@pytest.mark.parametrize("size", [(28, 56), (90, 30), (30, 100), (70, 100)])
def test_tiles_are_read_in_the_order_they_are_packed(family: str, size: tuple[int, int]) -> None:
    model = model_of(family)
    prompt = model.encode("Where is it?", images=picture(size))
    height, width = {True: (1, 3), False: (2, 1)}[size[1] > size[0]]  # tiles of 2 x 2 patches
    places = torch.stack(
        torch.meshgrid(torch.arange(height * 2), torch.arange(width * 2), indexing="ij"), -1
    ).float()
    tiles = places.view(height, 2, width, 2, 2).transpose(1, 2).reshape(height * width, 4, 2)
    base = torch.tensor([[-9.0, 0], [-9, 1], [-9, 2], [-9, 3]])
    named = {"vision_feature_select_strategy": "default"} if family == "llava_next" else {}
    packed, _ = model.hf.model.pack_image_features(
        [torch.cat([base[None], tiles])],
        image_sizes=torch.tensor([size]),
        image_newline=torch.tensor([-7.0, -7.0]),
        **named,
    )
    keys = prompt.where("image")[0].nonzero()[:, 0]
    features = torch.zeros(prompt.length, 2)
    features[keys] = packed[0]
    small, large = prompt.regions()
    assert features[small.index].flatten(0, 1).tolist() == base.tolist()
    shown = features[large.index]
    assert torch.equal(shown - shown[0, 0], places[: large.grid[0], : large.grid[1]])
    newlines = set(keys.tolist()) - {key for region in (small, large) for key, _ in cells(region)}
    assert all(features[key].tolist() == [-7, -7] for key in newlines)


def test_several_images_of_onevision_have_no_tiles() -> None:
    model = model_of("llava_onevision")
    prompt = model.encode("Where is it?", images=[picture((40, 80)), picture((80, 40))])
    # Padded to a square: half of it above and below the wide one, beside the tall one.
    assert [region.box for region in prompt.regions(0, 0)] == [(0.0, -0.5, 1.0, 1.5)]
    assert [region.box for region in prompt.regions(0, 1)] == [(-0.5, 0.0, 1.5, 1.0)]
    assert int(prompt.where("image", image=0).sum()) == 4 + 1


@pytest.mark.parametrize("family", sorted(TOWERS))
def test_patches_of_a_vision_tower(family: str) -> None:
    model = model_of(family)
    text = "Where is it?" if FAMILIES[family].kind == "dual" else None
    kept: list[torch.Tensor] = []
    layer = model.stacks["vision"].layers[0].module
    hook = layer.register_forward_pre_hook(lambda module, given: kept.append(given[0]))
    for corner in (None, *CORNERS):
        prompt = model.encode(text, images=picture((70, 100), corner))
        with torch.no_grad():
            model.hf(**prompt.inputs)
        if corner:
            check_corner(prompt, moved_keys(kept[0][0], kept[-1][0]), corner)
    hook.remove()


def test_images_alone_are_rows_of_patches() -> None:
    model = model_of("vit")
    prompt = model.encode(images=[picture((70, 100)), picture((42, 42))])
    assert (len(prompt), prompt.ids, prompt.length) == (2, None, 10)
    assert prompt.tokens[0] == ["class", *[f"{row},{at}" for row in range(3) for at in range(3)]]
    assert prompt.where("image").tolist() == [[False] + [True] * 9] * 2
    assert prompt.images[0][0].size == (70, 100)


def test_a_prompt_without_places_says_why() -> None:
    model = model_of("blip-2")
    prompt = model.encode("Where is it?", images=picture((40, 40)))
    assert int(prompt.where("image").sum()) == 4
    with pytest.raises(ValueError, match="queries of its Q-Former.*no grid to fold onto"):
        prompt.fold(torch.ones(prompt.length))
    with pytest.raises(ValueError, match="swin tower are not known to be one grid"):
        patch_grid(SimpleNamespace(model_type="swin"))


def test_values_must_reach_the_image() -> None:
    prompt = model_of("llava").encode("Where is it?", images=picture((42, 42)))
    with pytest.raises(ValueError, match="values of 5 keys cannot be folded.* reach key 1"):
        prompt.fold(torch.ones(5))
    longer = torch.ones(2, 4, prompt.length + 3)  # keys that were generated later do no harm
    assert prompt.fold(longer).shape == (2, 4, 3, 3)
