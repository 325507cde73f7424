"""Statistics by hand."""

import math

import pytest
import torch

from interp.statistics import (
    jaccard,
    jensen_shannon,
    open_probability,
    paired_shares,
    pass_at_k,
    wilson,
)


def test_pass_at_k():
    assert pass_at_k(16, 3, 4) == pytest.approx(0.607143, abs=1e-6)
    assert pass_at_k(16, 0, 4) == 0 and pass_at_k(16, 16, 1) == 1
    assert pass_at_k(10, 3, 1) == pytest.approx(0.3)  # of one answer it is the share of right ones
    assert pass_at_k(4, 2, 3) == 1  # only two are wrong
    for given in ((4, 5, 1), (4, -1, 1), (4, 1, 5), (4, 1, 0)):
        with pytest.raises(ValueError, match="0 <= right <= count"):
            pass_at_k(*given)


def test_jensen_shannon_in_nats():
    first, second = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.1, 0.2, 0.7])
    assert float(jensen_shannon(first, second)) == pytest.approx(0.253102, abs=1e-6)
    assert float(jensen_shannon(second, first)) == pytest.approx(0.253102, abs=1e-6)
    assert float(jensen_shannon(first, first)) == 0
    apart = jensen_shannon(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    assert float(apart) == pytest.approx(math.log(2))
    many = jensen_shannon(first.expand(2, 4, 3), second.expand(2, 4, 3))
    assert many.shape == (2, 4)
    with pytest.raises(ValueError, match="takes distributions"):
        jensen_shannon(first * 2, second)
    with pytest.raises(ValueError, match="no number below 0"):
        jensen_shannon(torch.tensor([1.5, -0.5]), torch.tensor([0.5, 0.5]))


def test_jaccard():
    assert jaccard({1, 2}, [2, 1]) == 1 and jaccard("ab", "cd") == 0
    assert jaccard({1, 2, 3}, {2, 3, 4}) == 0.5
    assert jaccard([], []) == 1 and jaccard([], [1]) == 0


def test_hard_concrete_gate():
    assert float(open_probability(torch.tensor(0.0))) == pytest.approx(0.6881, abs=1e-4)
    wide = open_probability(torch.tensor([-20.0, 20.0]))
    assert float(wide[0]) < 1e-6 and float(wide[1]) > 1 - 1e-6
    # What the formula says is what sampling finds.
    chance = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    gate = torch.sigmoid((chance.logit() - 1.0) / 0.33) * 1.2 - 0.1
    assert float((gate > 0).float().mean()) == pytest.approx(
        float(open_probability(torch.tensor(-1.0))), abs=0.005
    )
    for given in ({"temperature": 0.0}, {"ends": (0.1, 1.1)}):
        with pytest.raises(ValueError, match="stretched to both sides of 0"):
            open_probability(torch.tensor(0.0), **given)


def test_wilsons_interval():
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(10, 10)[1] == 1


def test_the_interval_of_a_paired_change():
    """34 mended and 10 broken of 300, worked by hand; no change at all has a width."""
    low, high = paired_shares(34, 10, 300)
    middle = 24 / 302
    half = 1.96 * math.sqrt((45 / 302 - middle**2) / 302)
    assert (low, high) == pytest.approx((middle - half, middle + half))
    assert paired_shares(0, 0, 12) == pytest.approx((-1.96 / 14, 1.96 / 14))
    assert paired_shares(5, 0, 5)[1] == 1
