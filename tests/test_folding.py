"""Folding by hand: which cell gets what, what a tower sees, with no model."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from interp.families import FAMILIES
from interp.images import Region, finest, paint, visible_box
from interp.layouts import Seen, mistral3


def test_mistral3_counts_tokens_of_merged_patches() -> None:
    config = FAMILIES["mistral3"].tiny()
    sizes = {"image_sizes": torch.tensor([[28, 28], [56, 84]])}
    layout = mistral3(Seen(config, None, sizes, 0, 1, 1, 2, (50, 80)))
    assert layout.count == 6
    assert layout.regions[0].index.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_one_whole_grid_folds_to_itself() -> None:
    region = Region((2, 3), torch.tensor([[4, 5, 6], [8, 9, 10]]))
    values = torch.arange(12.0)
    assert torch.equal(paint([region], values, *finest([region])), values[region.index])
    both = paint([region], torch.stack([values, -values]), 2, 3)
    assert torch.equal(both[1], -values[region.index])


def test_folding_keeps_the_mass() -> None:
    """A 1 x 1 base of mass 1 under 1 x 2 tiles of mass 2 and 4, by hand and at any size."""
    base = Region((1, 1), torch.tensor([[0]]))
    tiles = Region((1, 2), torch.tensor([[1, 2]]))
    values = torch.tensor([1.0, 2.0, 4.0])
    assert paint([base, tiles], values, *finest([base, tiles])).tolist() == [[2.5, 4.5]]
    for rows, columns in ((1, 3), (5, 7), (64, 31)):
        assert paint([base, tiles], values, rows, columns).sum() == pytest.approx(7)


def test_padding_gets_nothing_of_the_image() -> None:
    """Three columns of which the last is padding and half of the second: its mass stays visible."""
    region = Region((1, 3), torch.tensor([[0, 1, 2]]), (0.0, 0.0, 2.0, 1.0))
    painted = paint([region], torch.tensor([1.0, 10.0, 100.0]), 1, 3)
    assert painted.tolist() == [pytest.approx([0.5, 0.5, 10.0])]


@pytest.mark.parametrize(
    ("settings", "box"),
    [
        ({"size": {"height": 8, "width": 8}}, (0, 0, 1, 1)),
        ({"size": {"longest_edge": 8}}, (0, 0, 1, 1)),
        # 100 x 200 becomes 8 x 16, of which the middle 8 columns stay.
        (
            {
                "size": {"shortest_edge": 8},
                "do_center_crop": True,
                "crop_size": {"height": 8, "width": 8},
            },
            (0.25, 0, 0.75, 1),
        ),
        # Padded above and below to 200 x 200 first.
        (
            {
                "size": {"shortest_edge": 8},
                "do_pad": True,
                "pad_to_square": None,
                "do_center_crop": True,
                "crop_size": {"height": 8, "width": 8},
            },
            (0, -0.5, 1, 1.5),
        ),
    ],
)
def test_the_part_of_an_image_that_a_tower_sees(
    settings: dict[str, Any], box: tuple[float, ...]
) -> None:
    processor = SimpleNamespace(do_resize=True, **settings)
    assert visible_box(processor, (100, 200)) == pytest.approx(box)
