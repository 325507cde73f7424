"""Weight moved between keys: equal to `redistribute`, whatever the precision, width and tests."""

import itertools

import pytest
import torch

from interp.edits import redistribute
from interp.steering.moving import ROOM, Moving, exact


def drawn(seed, group=3, rows=7, keys=20, dtype=torch.double):
    chance = torch.Generator().manual_seed(seed)
    pattern = torch.softmax(3 * torch.randn(group, rows, keys, generator=chance).to(dtype), -1)
    kinds = torch.randint(3, (group, keys), generator=chance)
    return pattern, kinds == 0, kinds == 1  # who receives, and who gives


@pytest.mark.parametrize("dtype", [torch.float32, torch.double])
@pytest.mark.parametrize("keep", [0.0, 0.4, 1.0])
def test_it_is_redistribute(keep, dtype):
    for seed in range(20):
        pattern, receivers, givers = drawn(seed, dtype=dtype)
        receivers[0] &= seed % 3 > 0  # nobody receives
        moving = Moving.of(receivers, givers, keep, dtype)
        changed, able = moving.shift(pattern, 0)
        expected = redistribute(pattern, givers[:, None], keep, receivers[:, None])
        assert (changed - expected).abs().max() < 1e-6
        assert (changed.sum(-1) - pattern.sum(-1)).abs().max() < 1e-6
        assert able[:, 0, 0].tolist() == receivers.any(1).tolist()


def test_rows_that_are_not_able_stay_to_the_bit():
    pattern, receivers, givers = drawn(1)
    other = torch.rand(3, 20).double()
    bound = torch.tensor([0.4, 0.5, 0.6]).double()
    rows = torch.rand(3, 7, 1) < 0.7
    moving = Moving.of(receivers, givers, 0.4, torch.double, [(other, bound)])
    changed, able = moving.shift(pattern, 0, rows)
    expected = redistribute(pattern, givers[:, None], 0.4, receivers[:, None])
    seen = 0
    for group, row in itertools.product(range(3), range(7)):
        passes = float((pattern[group, row] * other[group]).sum()) >= float(bound[group])
        moved = passes and bool(rows[group, row])
        assert bool(able[group, row]) == moved
        wanted = expected if moved else pattern
        assert (changed[group, row] - wanted[group, row]).abs().max() < (1e-12 if moved else 1e-300)
        seen += moved
    assert 0 < seen < 21


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize(
    ("first", "keys"), [(0, 12), (0, 20), (0, 23), (5, 40), (0, 20 + 2 * ROOM)]
)
def test_keys_that_are_left_out_and_tokens_to_come(new, first, keys):
    _, receivers, givers = drawn(2)
    moving = Moving.of(receivers, givers, 0.3, torch.double, new=new)
    pattern = torch.softmax(torch.randn(3, 1, keys).double(), -1)
    more = torch.full((3, 3 * ROOM), new)
    who = torch.cat([receivers, more], 1)[:, first : first + keys]
    gives = torch.cat([givers, more & False], 1)[:, first : first + keys]
    for _ in range(2):  # the second time they are laid already
        changed, _ = moving.shift(pattern, first)
        expected = redistribute(pattern, gives[:, None], 0.3, who[:, None])
        assert (changed - expected).abs().max() < 1e-12


def test_gradients_are_those_of_redistribute():
    pattern, receivers, givers = drawn(3)
    weight = torch.randn_like(pattern)
    found = []
    for way in (
        lambda x: Moving.of(receivers, givers, 0.4, torch.double).shift(x, 0)[0],
        lambda x: redistribute(x, givers[:, None], 0.4, receivers[:, None]),
    ):
        given = pattern.clone().requires_grad_()
        (way(given) * weight).sum().backward()
        found.append(given.grad)
    assert (found[0] - found[1]).abs().max() < 1e-9 and torch.equal(pattern, drawn(3)[0])


def test_what_is_given_stays_as_it_is():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        pattern, receivers, givers = drawn(4, dtype=dtype)
        before = pattern.clone()
        wide = exact(pattern)
        assert wide.dtype == torch.float32
        Moving.of(receivers, givers, 0.4, torch.float32).shift(wide, 0)
        assert torch.equal(pattern, before)
