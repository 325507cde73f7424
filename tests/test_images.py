"""Image tokens and the image: counted, placed and folded back, against what each model computes."""

import functools
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import interp
from interp.families import FAMILIES
from interp.images import patch_grid
from tests.corners import CORNERS, cells, check_corner, moved_keys, picture, seen_keys
from tests.processors import PROCESSORS, processor_of
from tests.tower_processors import TOWERS

PLACED = sorted(set(PROCESSORS) - {"blip-2"})
SIZES = [(70, 100), (100, 70)]  # height and width


@functools.cache
def model_of(family: str) -> Any:
    entry = FAMILIES[family]
    return interp.wrap(entry.model(), processor_of(family, entry.tiny()))


# A wide image loses its corners where a family cuts out the middle.
WIDE = [(family, (36, 108)) for family in ("idefics3", "internvl", "mllama", "qwen2_vl")]


@pytest.mark.parametrize(
    ("family", "size"), [(family, size) for family in PLACED for size in SIZES] + WIDE
)
def test_tokens_that_see_a_corner_are_placed_there(family: str, size: tuple[int, int]) -> None:
    model = model_of(family)
    images = [picture(size), *[picture(size, corner) for corner in CORNERS]]
    prompt = model.encode(["Where is it?"] * len(images), images=images)
    keys = seen_keys(model, prompt)
    for row, corner in enumerate(CORNERS, start=1):
        check_corner(prompt, moved_keys(keys[0], keys[row]), corner, row)


def _full(config: Any) -> None:
    config.vision_feature_select_strategy = "full"


def _whole(processor: Any) -> None:
    processor.image_processor.do_image_splitting = False


def _larger(processor: Any) -> None:
    processor.image_processor.size = {"longest_edge": 168}


@pytest.mark.parametrize(
    ("family", "config", "processor", "grids"),
    [
        ("llava", _full, None, [(3, 3)]),  # keeps the class token
        ("idefics3", None, _whole, [(2, 2)]),
        ("idefics3", None, _larger, [(2, 2)] * 10),  # 168 x 118 pixels: 3 x 3 tiles, and the whole
    ],
)
def test_settings_that_change_the_layout(
    family: str, config: Any, processor: Any, grids: list[tuple[int, int]]
) -> None:
    entry = FAMILIES[family]
    hf = entry.model()
    (config or (lambda given: None))(hf.config)
    made = processor_of(family, hf.config)
    (processor or (lambda given: None))(made)
    model = interp.wrap(hf, made)
    images = [picture((70, 100)), picture((70, 100), "top right")]
    prompt = model.encode(["Where is it?"] * 2, images=images)
    assert [region.grid for region in prompt.regions()] == grids
    check_corner(prompt, moved_keys(*seen_keys(model, prompt)), "top right", 1)


def test_a_setting_that_the_layout_does_not_know() -> None:
    model = interp.wrap(
        FAMILIES["internvl"].model(), processor_of("internvl", FAMILIES["internvl"].tiny())
    )
    model.processor.image_seq_length = 1
    prompt = model.encode("Where is it?", images=picture((70, 100)))
    with pytest.raises(ValueError, match="7 image tokens where the layout of its images has 28"):
        prompt.regions()


@pytest.mark.parametrize("family", PLACED)
def test_two_images_in_one_prompt_keep_apart(family: str) -> None:
    model = model_of(family)
    first, second = picture(SIZES[0]), picture(SIZES[1])
    shown = [[second], [first, second], [first, picture(SIZES[1], "bottom left")]]
    prompt = model.encode(["Where is it?"] * 3, images=shown)
    moved = moved_keys(*seen_keys(model, prompt)[1:])
    check_corner(prompt, moved, "bottom left", 2, 1)
    assert prompt.fold(moved.float(), row=2, image=0).max() == 0
    assert [each.size for each in prompt.images[2]] == SIZES
    apart = [prompt.where("image", image=each) for each in (0, 1)]
    assert not apart[1][0].any()
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
    with pytest.raises(ValueError, match="values over 5 keys are not over this prompt"):
        prompt.fold(torch.ones(5))
    longer = torch.ones(2, 4, prompt.length + 3)  # keys that were generated later do no harm
    assert prompt.fold(longer).shape == (2, 4, 3, 3)
