"""Peaks, couplings with a known answer, receiver heads, credit weights: all by hand."""

import math

import numpy as np
import pytest
import torch

from interp.coupling import (
    co_occurrence,
    couplings,
    entropy_coupling,
    largest,
    peaks,
    portion,
    preplanned,
    upto,
)
from interp.coupling.heads import (
    Groups,
    chunk_starts,
    head_groups,
    kurtosis,
    receiver_heads,
    receiver_scores,
    unscored,
    vertical_scores,
)
from interp.credit import VERSIONS, Credit, changes, credit_layers, shaped, too_short
from interp.metrics import METRICS
from interp.metrics.fai import PUBLISHED

WAAD = [1.0, 6.0, 2.0, 1.5, 5.0, 1.0, 0.8, 4.5, 1.2, 1.0]
FAI = [0.10, 0.02, 0.30, 0.05, 0.01, 0.28, 0.04, 0.20, 0.03, 0.02]


def uniform(length):
    causal = torch.ones(length, length, dtype=torch.float64).tril()
    return (causal / causal.sum(-1, keepdim=True))[None, None]


# The metrics on uniform causal attention


def test_metrics_of_uniform_attention():
    pattern = uniform(8)
    assert METRICS["span"]()(pattern).item() == pytest.approx(1.75, abs=1e-6)
    waad = METRICS["waad"](window=3)(pattern)[0, 0]
    assert waad.tolist() == pytest.approx([0, 0.5, 1, 1.5, 1.8, 2, 2.142857, 2.25], abs=1e-6)
    fai = METRICS["fai"](2, 4)(pattern)[0, 0]
    expected = [0.2611, 0.2056, 0.1698, 0.1448, 0.1339, 0.125]
    assert fai[:6].tolist() == pytest.approx(expected, abs=5e-5)
    assert fai[6:].isnan().all() and not fai[:6].isnan().any()
    alpha = METRICS["sink"]()(pattern)[0, 0]
    expected = [0.3397, 0.2454, 0.2030, 0.1769, 0.1586, 0.1448, 0.1339, 0.125]
    assert alpha.tolist() == pytest.approx(expected, abs=5e-5)
    entropy = METRICS["entropy"]()(pattern)[0, 0]
    normalised = [0.0] + [entropy[row].item() / math.log(row + 1) for row in range(1, 8)]
    assert np.mean(normalised) == pytest.approx(0.875, abs=1e-6)
    first = METRICS["sink"]()(uniform(64))[0, 0, 0]
    assert first.item() == pytest.approx(0.0741233, abs=5e-8)


# Peaks


def test_peaks_are_strict_and_never_at_an_end():
    assert peaks([3, 1, 2, 1, 5]).tolist() == [False, False, True, False, False]
    assert not peaks([1, 2, 2, 1]).any() and not peaks([]).any() and not peaks([1]).any()
    found = peaks([1, 3, float("nan"), 4, 1, 2, 1])
    assert found.tolist() == [False] * 5 + [True, False]
    assert torch.is_tensor(curve := torch.tensor([0.0, 1, 0])) and peaks(curve)[1]
    noise = np.random.default_rng(0).normal(size=30_000)
    assert peaks(noise).mean() == pytest.approx(1 / 3, abs=0.01)


def test_the_top_share():
    values = [1, 5, float("nan"), 5, 2, 0, 5]
    assert peaks(values, "top", 0.2).nonzero()[0].tolist() == [1, 3]  # 2 of 6 that are defined
    assert portion(10, 0.4) == 4 and portion(10, 0.7) == 7 and portion(9, 0.4) == 4
    assert largest([2, 2, 2], 2).tolist() == [True, True, False]
    assert not largest([float("nan")] * 3, 2).any()
    with pytest.raises(ValueError, match="Did you mean 'maxima'"):
        peaks([1, 2], "maximum")
    with pytest.raises(ValueError, match="above 0 and not above 1"):
        peaks([1, 2], "top", 0)
    with pytest.raises(ValueError, match="one series"):
        peaks([[1, 2]])


# Couplings


def flags(text):
    return np.array([letter == "x" for letter in text])


def test_what_is_observed_and_what_by_chance():
    one, two = flags(".x...x...."), flags("..x.")
    found = entropy_coupling([one, two], [np.arange(10.0), [5, 5, 8, float("nan")]])
    assert (found.count, found.tokens) == (3, 13)
    assert found.observed == pytest.approx((1 + 5 + 8) / 3)
    assert found.random == pytest.approx((45 + 18) / 13)
    assert found.lift == pytest.approx(found.observed / found.random - 1)
    assert found.density == pytest.approx(3 / 13)
    again = co_occurrence([flags("xx..x")], [flags("x...x")])
    assert (again.observed, again.random) == pytest.approx((2 / 3, 2 / 5))
    some = co_occurrence([flags("xx..x")], [flags("x...x")], [flags("xxx..")])
    assert (some.observed, some.random, some.tokens) == pytest.approx((1 / 2, 1 / 3, 3))


def test_anchors_that_follow_are_found_and_shuffles_know_their_chance():
    preplans = flags("x.........x........." * 4)
    assert upto(preplans[:12], 1).tolist() == flags("xx........xx").tolist()
    found = preplanned([flags(".x........x........." * 4)], [preplans])
    assert found.observed == 1 and found.random == pytest.approx(16 / 80, abs=0.01)
    assert found.high < 1 and found.lift == pytest.approx(4, abs=0.3) and not found.note("anchor")
    assert preplanned([flags("..x......." * 8)], [preplans], lag=2).observed == 1
    none = preplanned([flags("..x.................")], [preplans[:20]])
    assert none.observed == 0 and none.lift == -1
    assert "inside what shuffles give" in none.note("anchor")[0]
    again = [
        preplanned([flags("...x.x....")], [flags("x..x......")], seed=each) for each in (0, 0, 1)
    ]
    assert again[0] == again[1] != again[2]


def test_shuffles_are_hypergeometric():
    """17 of 40 tokens are near; 9 peaks: the mean and the spread that are known for that."""
    chance = np.random.default_rng(3)
    near, own = (np.isin(np.arange(40), chance.permutation(40)[:count]) for count in (17, 9))
    found = preplanned([own], [near], lag=0, shuffles=4000)
    assert found.random == pytest.approx(17 / 40, abs=0.01)
    spread = math.sqrt(17 / 40 * 23 / 40 * 31 / 39 / 9)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * spread, rel=0.2)


def test_series_without_coupling_show_none_and_coupled_ones_do():
    chance = np.random.default_rng(0)
    free = [
        {name: chance.normal(size=300) for name in ("waad", "fai", "receiver_fai", "entropy")}
        for _ in range(5)
    ]
    free = [one | {"entropy": one["entropy"] + 5} for one in free]
    for name, one in couplings(free).items():
        assert abs(one.lift) < 0.15 and one.note(name), name
    bound = []
    for one in free:
        later = np.roll(one["waad"], 1)
        bound.append(one | {"fai": later, "receiver_fai": later, "entropy": one["waad"] + 3})
    found = couplings(bound)
    assert found["receiver"].observed == 1
    assert found["anchor"].observed > 0.98 and found["anchor"].lift > 0.4
    assert found["preplan"].observed > 3.7 and found["preplan"].random == pytest.approx(3, abs=0.1)
    assert not any(one.note(name) for name, one in found.items())
    turned = couplings([one | {"entropy": -one["entropy"]} for one in bound])["preplan"]
    assert "not more as in the paper" in turned.note("preplan")[0]


def test_no_peaks_have_no_answer():
    found = preplanned([flags("....")], [flags(".x..")])
    assert math.isnan(found.observed) and found.count == 0
    assert found.note("anchor") == [
        "anchor: no peaks in 4 tokens; longer responses would have some."
    ]
    with pytest.raises(ValueError, match="at least 1"):
        preplanned([flags(".x.")], [flags(".x.")], shuffles=0)
    with pytest.raises(ValueError, match="lag=-1"):
        upto(flags("x"), -1)


# Heads


def test_vertical_scores_and_kurtosis():
    matrix = uniform(8)[0, 0].numpy()
    scores = vertical_scores(matrix)
    assert scores[:4].tolist() == pytest.approx([0.1586, 0.1448, 0.1339, 0.125], abs=5e-5)
    assert np.isnan(scores[4:]).all()
    assert kurtosis(np.eye(20)[0]) == pytest.approx(15.0526, abs=5e-5)
    assert kurtosis([*np.eye(20)[0], np.nan]) == pytest.approx(15.0526, abs=5e-5)
    assert math.isnan(kurtosis([0.1] * 6))
    expected = kurtosis(scores[:4])
    assert receiver_scores(matrix[None])[0] == pytest.approx(float(expected))
    assert np.isnan(receiver_scores(matrix[None, :7, :7])).all()  # 3 scores: -1.5 whatever they are


def test_depth_control_takes_ranks():
    matrix = np.tril(np.random.default_rng(0).random((7, 7)))
    scores = vertical_scores(matrix, 4, depth_control=True)
    ranks = [[1], [1, 2], [1, 2, 3]]  # rows 4, 5, 6 see 1, 2 and 3 chunks far enough
    for row, own in enumerate(ranks):
        seen = matrix[4 + row, : row + 1]
        ranks[row] = [
            (np.argsort(np.argsort(seen))[place] + 1) / len(own) for place in range(len(own))
        ]
    assert scores[0] == pytest.approx(np.mean([row[0] for row in ranks]))
    assert scores[1] == pytest.approx(np.mean([row[1] for row in ranks[1:]]))
    assert scores[2] == pytest.approx(ranks[2][2])
    with pytest.raises(ValueError, match=r"not \(3, 4\)"):
        vertical_scores(np.zeros((3, 4)))


def test_receivers_are_a_quarter_and_never_of_layer_0():
    scores, layers = np.arange(16.0)[::-1], np.repeat(range(4), 4)
    assert receiver_heads(scores, layers).tolist() == [4, 5, 6]
    assert receiver_heads(scores, layers, 5).tolist() == [4, 5, 6, 7, 8]
    assert len(receiver_heads(np.arange(400.0), np.repeat(range(10), 40))) == 20
    with pytest.raises(ValueError, match="Give 1 to 12"):
        receiver_heads(scores, layers, 13)
    with pytest.raises(ValueError, match="no head outside layer 0"):
        receiver_heads(scores, np.zeros(16), 2)


def test_head_groups_are_the_ends():
    near, far = head_groups([5, 1, 9, 3, 7, 2, 8, 0, 6, 4])
    assert near.tolist() == [1, 5, 7] and far.tolist() == [2, 4, 6]
    assert [len(one) for one in head_groups([1, 2])] == [1, 1]
    with pytest.raises(ValueError, match=r"share=0\.6"):
        head_groups([1, 2, 3], 0.6)
    with pytest.raises(ValueError, match="at least 2 heads"):
        head_groups([1])


def test_groups_among_some_layers_count_all_heads():
    spans = np.arange(8.0)
    values = {"span": spans, "span_without_first": -spans, "receiver_score": spans**2}
    layers = np.repeat(range(4), 2)
    every = Groups.of([values, values], layers)
    assert (every.near.tolist(), every.far.tolist()) == ([0, 1], [6, 7])
    assert every.receivers.tolist() == [7] and every.shared == 1
    own = Groups.of([values], layers, receivers=5, among=[1, 2])
    assert (own.near.tolist(), own.far.tolist()) == ([2], [5])
    assert own.receivers.tolist() == [5, 4, 3, 2]
    first = Groups.of([values], layers, receivers=5, among=[0])
    assert first.receivers.tolist() == [] and math.isnan(first.shared)
    assert any("2 of the 2 global heads" in note for note in every.notes(0.3))
    assert any("1 of the 1 receiver heads" in note for note in every.notes(0.3))


def test_chunks_end_with_sentences_or_runs():
    tokens = ["A", " b", ".", " C", "?", " d", "\n", "e", "."]
    assert chunk_starts(tokens) == [0, 3, 5, 7]
    assert chunk_starts(tokens, 4) == [0, 4, 8]
    assert "a score takes 8 chunks" in unscored([3, 5])
    assert "need a tokenizer" in unscored([0])


# Credit


def test_credit_weights_by_hand():
    credit = Credit()
    assert changes(WAAD).tolist() == pytest.approx([5, 4, 0.5, 3.5, 4, 0.2, 3.7, 3.3, 0.2, 0])
    assert credit.local(WAAD).tolist() == [1.5, 1.5, 1, 1, 1.5, 1, 1.5, 1, 1, 1]
    assert credit.anchors(FAI).tolist() == [1.5, 1, 1.5, 1, 1, 1.5, 1, 1.5, 1, 1]
    expected = [1.5, 1, 1.5, 1, 1.25, 1.25, 1, 1.5, 1, 1]
    assert credit.coupled(WAAD, FAI).tolist() == expected
    dominated, introducing = credit.dominated(WAAD, FAI)
    assert dominated.nonzero()[0].tolist() == [5] and introducing.nonzero()[0].tolist() == [4]
    assert credit.coupled(torch.tensor(WAAD), torch.tensor(FAI)).tolist() == expected
    columns = credit.columns(WAAD, {"v2": FAI})
    assert list(columns) == ["gamma_local", "gamma_global_v2", "gamma_coupled_v2"]


def test_bonuses_add_up():
    """A token that introduces an anchor and is one itself has both."""
    waad, fai = [1.0, 5, 9, 1, 1], [0, 0, 0.5, 0.4, 0.0]
    gamma = Credit().coupled(waad, fai)
    assert gamma.tolist() == [1, 1, 1.5 + 0.25, 1.25, 1]


def test_settings_of_credit_do_what_they_say():
    assert Credit(alpha=0).coupled(WAAD, FAI)[[4, 5]].tolist() == [1, 1.5]
    assert Credit(waad_limit=0.5).dominated(WAAD, FAI)[0].sum() == 0
    assert Credit(change_limit=9).dominated(WAAD, FAI)[0].sum() == 0
    assert Credit(back=1).dominated(WAAD, FAI)[1].nonzero()[0].tolist() == [4]
    waad, fai = [1.0, 9, 1, 7, 1, 1], [0, 0, 0, 0, 1, 0]
    first, last = (Credit(change_limit=5, introduction=rule) for rule in ("largest", "latest"))
    assert first.dominated(waad, fai)[1].nonzero()[0].tolist() == [1]
    assert last.dominated(waad, fai)[1].nonzero()[0].tolist() == [3]
    assert Credit(share=0.1, amplify=3).local(WAAD).tolist() == [3] + [1] * 9
    assert Credit.of({"alpha": 0.2}) == Credit(alpha=0.2) and Credit.of(None) == Credit()
    for settings, said in [
        ({"alpha": 2}, "from 0 to 1"),
        ({"back": 0}, "back=0"),
        ({"share": 0}, "above 0"),
        ({"introduction": "last"}, "Did you mean 'latest'"),
        ({"amplfy": 2}, "Did you mean 'amplify'"),
    ]:
        with pytest.raises(ValueError, match=said):
            Credit.of(settings)


def test_undefined_fai_is_never_chosen():
    fai = [0.1, 0.2] + [float("nan")] * 8
    assert Credit().anchors(fai).tolist() == [1.5, 1.5] + [1] * 8
    assert Credit().coupled(WAAD, [float("nan")] * 10).tolist() == [1] * 10
    with pytest.raises(ValueError, match="1 NaN"):
        Credit().local([1, float("nan")])
    with pytest.raises(ValueError, match="not one response"):
        Credit().coupled(WAAD, FAI[:5])
    assert "v1 is left out of 1 of 2" in too_short([10, 60])[0] and not too_short([11])


def test_versions_shape_advantages():
    assert {name: one.horizon for name, one in VERSIONS.items()} == PUBLISHED
    gamma = torch.tensor([[1.5, 1.0], [1.25, 1.5]], requires_grad=True)
    advantages = torch.tensor([[2.0], [-2.0]], requires_grad=True)
    newer, older = shaped(advantages, gamma), shaped(advantages, gamma, "v1")
    assert newer.tolist() == [[3, 2], [-2.5, -3]] and older.tolist() == [[3, 2], [-2, -2]]
    newer.sum().backward()
    assert gamma.grad is None and advantages.grad.tolist() == [[2.5], [2.75]]
    assert shaped(-1, np.array([1.5, 1.0])).tolist() == [-1.5, -1]
    with pytest.raises(ValueError, match="do not go with weights"):
        shaped(torch.ones(2), gamma)
    with pytest.raises(ValueError, match="Versions|version 'v3'"):
        shaped(1.0, gamma, "v3")


def test_credit_is_read_in_five_layers_of_the_middle():
    assert credit_layers(range(36), 36) == [12, 15, 18, 21, 24]
    assert credit_layers(range(12), 12) == [4, 5, 6, 7, 8]
    assert credit_layers(range(4), 4) == [1, 2] and credit_layers(range(1), 1) == [0]
    assert credit_layers(range(3, 48, 4), 48) == [19, 23, 27, 31]  # every fourth has attention
    with pytest.raises(ValueError, match="no layer from 8 to 16"):
        credit_layers([0, 20], 24)
