"""Pure changes of attention: values worked by hand, slow loops beside them, half precision, hidden keys."""

import math

import pytest
import torch

from interp.edits import gain, inject, press, redistribute, replace, silence

HALVES = [torch.float16, torch.bfloat16]
DTYPES = [torch.float64, torch.float32, *HALVES]
CLOSE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
ROW = [0.4, 0.3, 0.2, 0.1]


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masks(*shape, seed=0, share=0.3):
    given = torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
    return given < share


def moved(row, sinks, keep, receivers=None):
    """The rule of redistribution, key by key."""
    keys = range(len(row))
    taking = [not sinks[k] and (receivers is None or receivers[k]) for k in keys]
    held = sum(row[k] for k in keys if taking[k])
    freed = sum((1 - keep) * row[k] for k in keys if sinks[k])
    if held == 0:
        return list(row)
    given = [freed * row[k] / held if taking[k] else 0.0 for k in keys]
    return [row[k] * keep if sinks[k] else row[k] + given[k] for k in keys]


@pytest.mark.parametrize("dtype", DTYPES)
def test_redistribution_by_hand(dtype):
    sinks = torch.tensor([False, False, True, False])
    changed = redistribute(torch.tensor(ROW, dtype=dtype), sinks, keep=0.4)
    # .12 is free; the rest holds .8, so each grows by .15 of itself.
    expected = torch.tensor([0.46, 0.345, 0.08, 0.115], dtype=dtype)
    assert changed.dtype == dtype
    assert torch.allclose(changed, expected, atol=CLOSE[dtype])


def test_redistribution_to_receivers_alone_by_hand():
    row = torch.tensor(ROW, dtype=torch.float64)
    sinks = torch.tensor([True, False, False, False])
    receivers = torch.tensor([True, False, True, True])  # a sink is no receiver
    changed = redistribute(row, sinks, keep=0.25, receivers=receivers)
    # .3 is free, and goes to .2 and .1 as 2 to 1.
    assert torch.allclose(changed, torch.tensor([0.1, 0.3, 0.4, 0.2], dtype=torch.float64))
    assert torch.equal(redistribute(row, sinks, keep=1.0), row)
    gone = redistribute(row, sinks, keep=0.0)
    assert gone[0] == 0 and torch.isclose(gone.sum(), row.sum())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.4, 0.75, 1.0])
@pytest.mark.parametrize("given", [False, True])
def test_redistribution_is_the_rule_key_by_key(dtype, keep, given):
    pattern = drawn(2, 3, 5, 7).softmax(-1)
    pattern = pattern.masked_fill(masks(2, 3, 5, 7, seed=1), 0)  # not all rows sum to one
    sinks, receivers = masks(2, 3, 5, 7, seed=2), masks(2, 3, 5, 7, seed=3, share=0.5)
    changed = redistribute(pattern.to(dtype), sinks, keep, receivers if given else None)
    for batch, head, query in [(b, h, q) for b in range(2) for h in range(3) for q in range(5)]:
        own = (batch, head, query)
        expected = moved(
            pattern[own].tolist(),
            sinks[own].tolist(),
            keep,
            receivers[own].tolist() if given else None,
        )
        assert torch.allclose(changed[own].double(), pattern.new_tensor(expected), atol=1e-6)
    assert torch.allclose(changed.sum(-1).double(), pattern.sum(-1), atol=1e-6)


@pytest.mark.parametrize("shape", [(7,), (1, 7), (5, 1), (2, 1, 1, 7), (3, 1, 7), (2, 3, 5, 1)])
def test_masks_broadcast_to_the_pattern(shape):
    pattern = drawn(2, 3, 5, 7).softmax(-1)
    sinks = masks(*shape, seed=4, share=0.4)
    changed = redistribute(pattern, sinks, 0.3, masks(2, 1, 1, 7, seed=5, share=0.6))
    wide = redistribute(
        pattern, sinks.expand(2, 3, 5, 7), 0.3, masks(2, 1, 1, 7, seed=5, share=0.6).expand(2, 3, 5, 7)
    )  # fmt: skip
    assert changed.shape == pattern.shape and torch.equal(changed, wide)


def test_a_row_whose_receivers_hold_nothing_stays_to_the_bit():
    pattern = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.5, 0.25, 0.25, 0.0]])
    sinks = torch.tensor([True, True, False, False])
    changed = redistribute(pattern, sinks, keep=0.2)
    assert torch.equal(changed[:2], pattern[:2])  # all in sinks; nothing anywhere
    assert torch.allclose(changed[2], torch.tensor([0.1, 0.05, 0.85, 0.0]))
    assert torch.equal(redistribute(pattern, sinks & False, keep=0.2), pattern)
    nobody = torch.zeros(4, dtype=torch.bool)
    assert torch.equal(redistribute(pattern, sinks, 0.2, nobody), pattern)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("held", [1e-3, 3e-5, 3e-7])
def test_rows_keep_their_sum_where_the_receivers_hold_next_to_nothing(dtype, held):
    """A share of a share: the quotient of the two would leave half precision."""
    row = torch.tensor([1 - held, held / 2, held / 2, 0.0], dtype=dtype)
    changed = redistribute(row, torch.tensor([True, False, False, False]), keep=0.4)
    assert bool(changed.isfinite().all())
    assert abs(float(changed.double().sum() - row.double().sum())) < 2 * CLOSE[dtype]
    assert torch.equal(changed[3], row[3])


@pytest.mark.parametrize("keep", [-0.1, 1.1, math.nan])
def test_a_share_is_from_nothing_to_all(keep):
    with pytest.raises(ValueError, match="from 0 to 1"):
        redistribute(torch.tensor(ROW), torch.tensor([True, False, False, False]), keep)


def test_pressing_by_hand():
    scores = torch.tensor([0.5, 0.3, 0.2]).log()
    changed = press(scores, torch.tensor([False, False, True]), math.log(4))
    assert torch.allclose(changed.softmax(-1), torch.tensor([0.3125, 0.1875, 0.5]))
    assert torch.equal(changed[:2], scores[:2])


@pytest.mark.parametrize("factor", [0.01, 0.5, 1.0, 3.0])
def test_pressing_by_a_logarithm_multiplies_weights_and_norms_again(factor):
    scores, keys = drawn(2, 3, 4, 6), masks(2, 1, 4, 6, seed=1)
    hidden = masks(2, 1, 4, 6, seed=2)
    hidden[..., 0] = False
    scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
    changed = press(scores, keys, math.log(factor)).softmax(-1)
    before = scores.softmax(-1)
    for b, h, q in [(b, h, q) for b in range(2) for h in range(3) for q in range(4)]:
        row = [float(before[b, h, q, k]) * (factor if keys[b, 0, q, k] else 1.0) for k in range(6)]
        expected = [weight / sum(row) for weight in row]
        assert torch.allclose(changed[b, h, q], scores.new_tensor(expected), atol=1e-9)
    assert not changed.masked_select(hidden.expand_as(changed)).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lowest", ["min", "inf"])
@pytest.mark.parametrize("by", [5.0, 1e4, "twice", "growing"])
def test_hidden_keys_stay_hidden_under_any_push(dtype, lowest, by):
    low = torch.finfo(dtype).min if lowest == "min" else -math.inf
    scores = torch.tensor([1.0, low, -2.0, low], dtype=dtype)
    pushes = {"twice": 2 * scores.abs(), "growing": torch.arange(1, 5, dtype=dtype) * 100}
    changed = press(scores, torch.ones(4, dtype=torch.bool), pushes.get(by, by))
    assert torch.equal(changed[[1, 3]], scores[[1, 3]])
    assert bool((changed[[0, 2]] > scores[[0, 2]]).all()) and changed.dtype == dtype
    assert not changed.softmax(-1)[[1, 3]].any()


@pytest.mark.parametrize("dtype", HALVES)
def test_pressing_a_row_without_keys_leaves_it(dtype):
    scores = torch.full((2, 3), torch.finfo(dtype).min, dtype=dtype)
    assert torch.equal(press(scores, torch.tensor(True), 10.0), scores)


def test_pressing_by_a_tensor_that_broadcasts():
    scores, keys = drawn(2, 3, 4, 6), masks(2, 1, 1, 6)
    by = drawn(1, 3, 1, 1, seed=7)
    changed = press(scores, keys, by)
    for b, h, q, k in torch.cartesian_prod(*(torch.arange(n) for n in scores.shape)).tolist():
        push = float(by[0, h, 0, 0]) if keys[b, 0, 0, k] else 0.0
        assert float(changed[b, h, q, k]) == pytest.approx(float(scores[b, h, q, k]) + push)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3,), (2, 1, 3), (2, 4, 3), (1, 4, 1)])
def test_gain_is_one_factor_a_head(dtype, shape):
    z, factor = drawn(2, 4, 3, 5).to(dtype), 1 + drawn(*shape, seed=2).abs()
    changed = gain(z, factor)
    assert changed.dtype == dtype
    wide = factor.expand(2, 4, 3)
    for b, p, h in [(b, p, h) for b in range(2) for p in range(4) for h in range(3)]:
        expected = z[b, p, h] * wide[b, p, h].to(dtype)
        assert torch.equal(changed[b, p, h], expected)
    assert torch.equal(gain(z, torch.ones(3)), z)


@pytest.mark.parametrize("dtype", DTYPES)
def test_injection_by_hand(dtype):
    value, added = torch.tensor([3.0, 4.0], dtype=dtype), torch.tensor([4.0, -3.0], dtype=dtype)
    # (7, 1) is as long as the root of 50; five times it over that.
    expected = torch.tensor([35 / math.sqrt(50), 5 / math.sqrt(50)], dtype=dtype)
    assert torch.allclose(inject(value, added, 1.0), expected, atol=5 * CLOSE[dtype])
    assert inject(value, added, 1.0).dtype == dtype


@pytest.mark.parametrize("strength", [0.0, 0.05, 1.0, 10.0])
def test_injection_keeps_each_vector_s_size(strength):
    value, added = drawn(2, 3, 8), drawn(2, 3, 8, seed=1)
    changed = inject(value, added, strength)
    for b, p in [(b, p) for b in range(2) for p in range(3)]:
        target = [float(value[b, p, d] + strength * added[b, p, d]) for d in range(8)]
        size = math.sqrt(sum(float(x) ** 2 for x in value[b, p]))
        length = math.sqrt(sum(x * x for x in target))
        expected = value.new_tensor([size * x / length for x in target])
        assert torch.allclose(changed[b, p], expected, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_injection_that_takes_all_away_gives_numbers(dtype):
    value = torch.tensor([[30.0, 40.0], [0.0, 0.0]], dtype=dtype)
    assert not inject(value, -value, 1.0).any()  # zeros have no direction to bring back
    assert torch.equal(inject(value * 0, value * 0, 1.0), value * 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_silence_and_replace(dtype):
    value, other = drawn(2, 3, 4).to(dtype), drawn(4, seed=1)
    where = masks(2, 3, 1, seed=2, share=0.5)
    assert not silence(value).any() and silence(value).dtype == dtype
    quiet = silence(value, where)
    put = replace(value, other, where)
    assert put.dtype == dtype
    for b, p in [(b, p) for b in range(2) for p in range(3)]:
        own = bool(where[b, p, 0])
        assert torch.equal(quiet[b, p], value[b, p] * 0 if own else value[b, p])
        assert torch.equal(put[b, p], other.to(dtype) if own else value[b, p])
    assert torch.equal(silence(value, False), value)
    assert torch.equal(replace(value, other), other.to(dtype).expand(2, 3, 4))


def test_nothing_is_changed_in_place():
    pattern = drawn(2, 3).softmax(-1)
    before = pattern.clone()
    mask = torch.tensor([True, False, False])
    for change in (
        lambda: redistribute(pattern, mask, 0.1),
        lambda: press(pattern, mask, 2.0),
        lambda: gain(pattern[..., None], torch.tensor([2.0, 3.0, 4.0])),
        lambda: inject(pattern, pattern.flip(-1), 0.5),
        lambda: silence(pattern, mask),
        lambda: replace(pattern, pattern * 9, mask),
    ):
        assert change() is not pattern
        assert torch.equal(pattern, before)


def test_gradients_flow_through_every_edit():
    pattern = drawn(2, 4).softmax(-1).requires_grad_()
    mask = torch.tensor([True, False, False, False])
    for change in (
        redistribute(pattern, mask, 0.4),
        press(pattern.log(), mask, 1.0),
        press(pattern.masked_fill(mask, torch.finfo(pattern.dtype).min), ~mask, 1.0),
        gain(pattern[..., None], torch.full((4,), 2.0)).squeeze(-1),
        inject(pattern, pattern.flip(-1) ** 2, 0.5),
        silence(pattern, mask),
    ):
        (gradient,) = torch.autograd.grad((change**2)[..., 1:].sum(), pattern)
        assert bool(gradient.isfinite().all()) and bool(gradient.any())
