"""Head importance: ablations are plain hooks, gradients are the graph's, VHD is two runs, notes are so."""

import pytest
import torch

import interp
from analyses import ANALYSES
from analyses.head_importance import head_importance
from interp import Result, Task
from interp.direct import direct_effects
from interp.families import FAMILIES
from interp.importance import (
    VisionDivergence,
    by_mask,
    gate_slopes,
    per_layer,
    token_abs,
    vision_divergence,
    without_image,
)
from interp.metrics import logit, logit_diff
from interp.pairs import answers_metric
from interp.prompt import Prompt
from interp.sites import Hook
from interp.task import Record

ABLATIONS = ("zero", "mean", "resample")


@pytest.fixture(scope="module")
def lm():
    return interp.load("demo-lm")


@pytest.fixture(scope="module")
def vlm():
    return interp.load("demo-vlm")


@pytest.fixture(scope="module")
def ioi():
    """Records of two lengths (two and three of them), and one without a second of its length."""
    lm, task = interp.load("demo-lm"), Task.load("ioi", count=40, split="test")
    by_length = {}
    for record in task:
        by_length.setdefault(lm.encode(record.prompt).length, []).append(record)
    groups = sorted(by_length.values(), key=len, reverse=True)
    return Task("ioi", (*groups[0][:2], groups[2][0], *groups[1][:3]))


@pytest.fixture(scope="module")
def found(lm, ioi):
    return head_importance(lm, ioi)


@pytest.fixture(scope="module")
def seen(vlm):
    return head_importance(vlm, Task.load("existence", count=6, split="test"))


# Gradients


def michel(model, prompt, metric):
    """z and its gradient in every layer, straight from the graph."""
    kept = {}

    def keep(value, at):
        value.retain_grad()
        kept[at.layer] = value

    logits = model.logits(prompt, hooks=Hook("z", keep))
    metric(logits).sum().backward()
    model.hf.zero_grad()
    return torch.stack([(kept[at] * kept[at].grad).sum(-1).detach() for at in sorted(kept)], 1)


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "gemma2", "vit", "t5"])
def test_slopes_are_those_of_the_graph_and_of_a_mask(name):
    family = FAMILIES[name]
    hf = family.model()
    model = interp.wrap(hf)
    prompt = Prompt.from_inputs(model, family.inputs(hf, batch=2))

    def metric(logits):
        last = logits if logits.ndim == 2 else logits[:, -1]
        return last[:, 3] - last[:, 7]

    slopes = gate_slopes(model, prompt, metric)
    assert torch.allclose(slopes, michel(model, prompt, metric), atol=1e-5)
    layer, head = 1, 2
    gate = torch.ones(2, requires_grad=True)  # one for each example, all positions

    def masked(value, at):
        return value * gate[:, None, None, None]

    logits = model.logits(prompt, hooks=Hook("z", masked, layers=[layer], heads=[head]))
    (slope,) = torch.autograd.grad(metric(logits).sum(), [gate])
    assert torch.allclose(slopes.sum(2)[:, layer, head], slope, atol=1e-5)
    assert float(by_mask([slopes])[layer, head]) == pytest.approx(
        float(slope.abs().mean()), abs=1e-5
    )
    assert all(weight.grad is None for weight in model.hf.parameters())


def test_slopes_see_frozen_weights_and_padding(lm):
    texts = ["The capital of France is", "When Mary and John went to the store, John gave a bag to"]
    together = gate_slopes(lm, lm.encode(texts), logit(" Mary"))
    alone = gate_slopes(lm, texts[0], logit(" Mary"))
    assert torch.allclose(together[0].sum(1), alone[0].sum(1), atol=1e-4)
    assert bool((together[0, :, : -alone.shape[2]] == 0).all())  # padding has no part in it
    for weight in lm.hf.parameters():
        weight.requires_grad_(False)
    try:
        assert torch.equal(gate_slopes(lm, texts[0], logit(" Mary")), alone)
    finally:
        for weight in lm.hf.parameters():
            weight.requires_grad_(True)
    with pytest.raises(ValueError, match="a number for each of the 1 rows"):
        gate_slopes(lm, texts[0], lambda logits: logits[:, -1])


def test_where_the_absolute_value_is_taken():
    """Two layers, one head. Tokens of the first example cancel: the formula sees nothing, the code all."""
    one = torch.tensor([[[[1.0], [-1.0]], [[3.0], [0.0]]]])  # example, layer, position, head
    other = torch.tensor([[[[0.0], [0.0], [4.0]], [[0.0], [0.0], [-2.0]]]])
    assert by_mask([one, other]).tolist() == [[2.0], [2.5]]
    # Five tokens in all; the last layer is divided by two examples.
    assert token_abs([one, other])[:, 0].tolist() == pytest.approx([6 / 5, 5 / 2])
    assert token_abs([one, other], tokens=4)[0].tolist() == pytest.approx([6 / 4])
    assert per_layer(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist() == [
        pytest.approx([0.6, 0.8]), [0.0, 0.0],
    ]  # fmt: skip


# Ablations


def hooked(model, task, record, layer, head, put):
    """One record alone, one head replaced by a plain hook: how far the metric falls."""
    prompt = model.encode(task[record].prompt)
    metric = answers_metric(model, prompt, [task[record]])
    hook = Hook("z", put, layers=[layer], heads=[head])
    with torch.no_grad():
        plain, changed = model.logits(prompt), model.logits(prompt, hooks=hook)
    return float(metric(plain, prompt) - metric(changed, prompt))


def z_of(model, record, layer):
    with torch.no_grad():
        return model.trace(record.prompt, "z", layers=[layer])["z", layer]


@pytest.mark.parametrize(("layer", "head"), [(0, 1), (1, 5), (2, 1), (3, 7)])
def test_ablations_are_what_plain_hooks_do(lm, ioi, found, layer, head):
    zero, mean, resample = (found.tensors[name][:, layer, head] for name in ABLATIONS)
    one, other = (z_of(lm, ioi[record], layer)[:, :, head] for record in (0, 1))
    three = torch.cat([z_of(lm, ioi[record], layer)[:, :, head] for record in (3, 4, 5)]).mean(0)
    put = {
        "zero": lambda value, at: value * 0,
        "mean": lambda value, at: ((one + other) / 2)[:, :, None],
        "other": lambda value, at: other[:, :, None],
        "three": lambda value, at: three[None, :, None],
    }
    for record in range(len(ioi)):
        expected = hooked(lm, ioi, record, layer, head, put["zero"])
        assert float(zero[record]) == pytest.approx(expected, abs=2e-5)
    assert float(mean[0]) == pytest.approx(hooked(lm, ioi, 0, layer, head, put["mean"]), abs=2e-5)
    assert float(mean[4]) == pytest.approx(hooked(lm, ioi, 4, layer, head, put["three"]), abs=2e-5)
    # Of two records of a length each has only the other.
    assert float(resample[0]) == pytest.approx(
        hooked(lm, ioi, 0, layer, head, put["other"]), abs=2e-5
    )
    assert bool(mean[2].isnan()) and bool(resample[2].isnan())


def test_one_mean_over_all_positions_and_lengths(lm, ioi):
    own = head_importance(lm, ioi, measures="mean", per_position=False)
    layer, head = 2, 1
    every = torch.cat([z_of(lm, record, layer)[0, :, head] for record in ioi])
    expected = hooked(
        lm, ioi, 2, layer, head, lambda value, at: every.mean(0).expand_as(value).contiguous()
    )
    assert float(own.tensors["mean"][2, layer, head]) == pytest.approx(expected, abs=2e-5)
    assert any("of all lengths and positions" in note for note in own.notes)


def test_a_reference_of_other_records(lm, ioi):
    others = Task("others", tuple(ioi[record] for record in (3, 4, 5)))
    asked = Task("asked", (ioi[3], ioi[0]))
    own = head_importance(lm, asked, measures=["mean", "resample"], reference=others)
    three = torch.cat([z_of(lm, record, 1)[:, :, 5] for record in others]).mean(0)
    expected = hooked(lm, asked, 0, 1, 5, lambda value, at: three[None, :, None])
    assert float(own.tensors["mean"][0, 1, 5]) == pytest.approx(expected, abs=2e-5)
    assert bool(own.tensors["mean"][1].isnan().all())
    assert any(
        "1 records have no other of their length in reference=" in note for note in own.notes
    )
    with pytest.raises(
        ValueError, match=r"the records have \[\d+\] tokens, and those of reference="
    ):
        head_importance(lm, asked[1:], measures="mean", reference=others)


def test_means_and_intervals_are_over_the_records_that_count(found):
    for name in ABLATIONS:
        values = found.tensors[name].double()
        kept = values[~values.flatten(1).isnan().all(1)]
        assert len(kept) == (6 if name == "zero" else 5)
        row = found.table.iloc[17]
        own = kept[:, row["layer"], row["head"]]
        half = 1.96 * float(own.std()) / len(own) ** 0.5
        assert row[name] == pytest.approx(float(own.mean()))
        assert row[f"{name}_low"] == pytest.approx(float(own.mean()) - half)
        assert row[f"{name}_high"] == pytest.approx(float(own.mean()) + half)
        assert row[f"{name}_size"] == pytest.approx(float(own.abs().mean()))


# Direct effects, rank correlations, and what is said


def test_direct_effects_are_there_whole(lm, ioi, found):
    alone = direct_effects(
        lm, ioi[2].prompt, answers_metric(lm, lm.encode(ioi[2].prompt), [ioi[2]])
    )
    assert torch.allclose(found.tensors["direct"][2], alone.heads[0], atol=1e-4)
    parts = found.tables["direct"].groupby("component")["value"].sum()
    assert parts["sum"] == pytest.approx(parts["metric"], abs=1e-4)
    assert parts["metric"] == pytest.approx(found.tables["records"]["metric"].mean(), abs=1e-4)
    assert parts["heads"] == pytest.approx(found.table["direct"].sum(), abs=1e-4)
    assert parts.drop(["sum", "metric"]).sum() == pytest.approx(parts["sum"], abs=1e-4)


def test_gradients_are_over_all_records(lm, ioi, found):
    slopes = [
        gate_slopes(lm, record.prompt, answers_metric(lm, lm.encode(record.prompt), [record]))
        for record in ioi
    ]
    for name, score in (("gradient", token_abs(slopes)), ("mask", by_mask(slopes))):
        column = torch.tensor(found.table[name].to_numpy()).view(4, 8).float()
        assert torch.allclose(column, score, atol=1e-4)
    ranked = head_importance(lm, ioi, measures=["gradient", "mask"], normalise=True).table
    for _, layer in ranked.groupby("layer"):
        assert (layer["mask"] ** 2).sum() == pytest.approx(1) == (layer["gradient"] ** 2).sum()


def test_ranks(found):
    table, ranks = found.table, found.tables["correlation"]
    pairs = ranks.set_index(["measure", "other"])
    assert len(ranks) == 15
    expected = table["zero_size"].rank().corr(table["mask"].rank())
    assert pairs.loc[("zero", "mask"), "sizes"] == pytest.approx(expected)
    expected = table["mean"].rank().corr(table["direct"].rank())
    assert pairs.loc[("mean", "direct"), "means"] == pytest.approx(expected)
    assert pairs["means"].isna().tolist() == [
        "mask" in pair or "gradient" in pair for pair in pairs.index
    ]
    # Exact ablation and its first-order estimate know the same heads.
    assert pairs.loc[("zero", "mask"), "sizes"] > 0.7


def test_notes_tell_what_the_numbers_say(found):
    said = " ".join(found.notes)
    table = found.table
    helps = int((table["mean_low"] > 0).sum())
    assert f"By mean ablation {helps} of 32 heads hold the metric up" in said
    best = table.loc[table["mean_low"] > 0].nlargest(1, "mean").iloc[0]
    assert f"Most: {best['layer']:.0f}.{best['head']:.0f} ({best['mean']:+.2f})" in said
    assert "1 records have no other of their length in the task's own records" in said
    assert "gradient and mask are estimates to first order" in said
    assert "vhd was left out: demo-lm is of kind 'text'" in said
    assert "counts its last layer by example" in said
    ranks = found.tables["correlation"].set_index(["measure", "other"])["sizes"]
    assert f"with Spearman {ranks['zero', 'mean']:.2f}" in said


def test_it_is_saved_and_drawn(found, tmp_path):
    assert found.analysis in ANALYSES
    again = Result.load(found.save(tmp_path / "found"))
    drawn = again.figure()
    assert len(drawn.data) == 7
    titles = [note.text for note in drawn.layout.annotations]
    assert "gradient, by mask<br><sub>estimate</sub>" in titles
    assert "zero ablation<br><sub>fall of logit_diff</sub>" in titles
    zero, table = drawn.data[0], again.table
    cell = table[(table["layer"] == 0) & (table["head"] == 1)].iloc[0]
    assert zero.z[0][1] == pytest.approx(cell["zero"])
    shown = [bool(text) for line in zero.text for text in line]
    sure = (table["zero_low"] > 0) | (table["zero_high"] < 0)
    assert all(certain for text, certain in zip(shown, sure, strict=True) if text) and any(shown)
    assert again.figure(sizes=True).data[0].z[0][1] == pytest.approx(cell["zero_size"])


# Images


def test_vhd_is_two_runs(vlm, seen):
    task = Task.load("existence", count=6, split="test")
    prompt = task[:1].encode(vlm)
    ids = prompt.ids[:, ~prompt.where("image")[0]]
    with torch.no_grad():
        whole = vlm.trace(prompt, "z")["z"][:, 0, -1]
        blind = vlm.trace(ids, "z")["z"][:, 0, -1]
    expected = (whole - blind).norm(dim=-1)
    assert ids.shape[1] == prompt.length - 36 and expected.min() > 0
    assert torch.allclose(seen.tensors["vhd"][0], expected, atol=1e-4)
    largest = float(expected.max(-1).values.sum())  # one of eight heads in each layer
    assert seen.tables["records"]["t_vhd"][0] == pytest.approx(largest, abs=1e-3)
    every = head_importance(vlm, task, measures="vhd", top=8)
    assert every.tables["records"]["t_vhd"][0] == pytest.approx(float(expected.sum()), abs=1e-3)
    assert len(every.figure().data) == 1 and "correlation" not in every.tables
    heads = ANALYSES["heads"](vlm, task, length=10, rows=1, weights=False)
    for name in ("vhd", "vhd_kept"):
        assert heads.table[name].to_numpy() == pytest.approx(seen.table[name].to_numpy(), abs=1e-4)


def test_vhd_of_padded_rows_is_that_of_each_alone(vlm):
    task = Task.load("existence", count=6, split="test")
    together = vision_divergence(vlm, task.encode(vlm))
    for row in range(len(task)):
        alone = vision_divergence(vlm, task[row : row + 1].encode(vlm))
        assert torch.allclose(together.vhd[row], alone.vhd[0], atol=1e-4)


def test_outliers_stand_out_in_both():
    """The last head is far above the mean; in the first row without the image too, so there it is cut."""
    vhd = torch.tensor([[[1.0, 1, 1, 9]], [[1.0, 1, 1, 9]]])
    alone = torch.tensor([[[1.0, 1, 1, 9]], [[9.0, 1, 1, 1]]])
    found = VisionDivergence(vhd, alone)
    assert found.kept.tolist() == [[[1, 1, 1, 0]], [[1, 1, 1, 9]]]
    assert found.per_token(2).tolist() == [10, 10]
    with pytest.raises(ValueError, match="top=5: a layer has 1 to 4"):
        found.per_token(5)


def test_an_image_is_left_out_only_where_there_is_one(lm, vlm):
    with pytest.raises(ValueError, match="demo-lm is of kind 'text'"):
        without_image(lm, lm.encode("The river"))
    with pytest.raises(ValueError, match="holds no image tokens"):
        vision_divergence(vlm, vlm.encode("Is there a cross?"))
    prompt = Task.load("existence", count=1).encode(vlm)
    bare = without_image(vlm, prompt)
    assert "pixel_values" not in bare.inputs and "image" not in bare.names
    assert "".join(bare.tokens[0]) == "".join(prompt.tokens[0]).replace("<image>", "")


def test_vision_towers_and_classifiers(vlm, seen):
    said = " ".join(seen.notes)
    assert "A missing image moves most" in said and "left out" not in said
    tower = head_importance(vlm, Task.load("existence", count=4, split="test"), stack="vision")
    assert set(tower.table["stack"]) == {"vision"} and len(tower.table) == 12
    assert tower.table["zero"].abs().max() > 0 and "direct" not in tower.table
    said = " ".join(tower.notes)
    assert "direct was left out: the metric of row 0 depends on 36 positions" in said
    assert "vhd was left out: an image is left out of a text" in said
    digits = Task.load("digits", count=5, split="test")
    model = interp.load("demo-vit")
    found = head_importance(model, digits)
    assert {*ABLATIONS, "gradient", "mask", "direct"} <= set(
        found.table
    ) and "vhd" not in found.table
    prompt = digits[:1].encode(model)
    metric = answers_metric(model, prompt, digits[:1])
    hook = Hook("z", lambda value, at: value * 0, layers=[1], heads=[0])
    with torch.no_grad():
        fall = metric(model.logits(prompt)) - metric(model.logits(prompt, hooks=hook))
    assert float(found.tensors["zero"][0, 1, 0]) == pytest.approx(float(fall), abs=1e-5)
    parts = found.tables["direct"].groupby("component")["value"].sum()
    assert parts["sum"] == pytest.approx(parts["metric"], abs=1e-4)


# Refusals


def test_what_is_named_and_cannot_be_had_is_refused(lm, ioi):
    with pytest.raises(ValueError, match="demo-lm is of kind 'text'"):
        head_importance(lm, ioi, measures=["zero", "vhd"])
    with pytest.raises(ValueError, match="no two records are of one length"):
        head_importance(lm, ioi[2:3], measures="resample")
    alone = head_importance(lm, ioi[2:3])
    assert "zero" in alone.table and not {"mean", "resample"} & set(alone.table)
    assert any("mean was left out: no two records" in note for note in alone.notes)
    assert any("One record has no interval" in note for note in alone.notes)
    with pytest.raises(ValueError, match="probability is no sum of logits"):
        head_importance(lm, ioi, measures="direct", metric="probability")
    chances = head_importance(lm, ioi[:2], measures=["zero", "mask"], metric="log_probability")
    assert (chances.tables["records"]["metric"] < 0).all()


def test_wrong_calls(lm, ioi):
    with pytest.raises(LookupError, match="no measure 'ablation'"):
        head_importance(lm, ioi, measures=["ablation"])
    with pytest.raises(ValueError, match="name each once"):
        head_importance(lm, ioi, measures=["zero", "zero"])
    with pytest.raises(LookupError, match="no metric 'loss'"):
        head_importance(lm, ioi, metric="loss")
    with pytest.raises(ValueError, match="top=0: give at least 1"):
        head_importance(lm, ioi, top=0)
    with pytest.raises(ValueError, match="this record has none: 'The river'"):
        head_importance(lm, "The river")
    with pytest.raises(ValueError, match="no wrong answers to compare with"):
        head_importance(lm, Task("bare", (Record("The river", (" is",)),)))
    with pytest.raises(TypeError, match="takes a Task"):
        head_importance(lm, 3)
    with pytest.raises(TypeError, match="a Prompt has none: give a Task"):
        head_importance(lm, lm.encode("The river"))
    hf = FAMILIES["bert"].model()
    with pytest.raises(ValueError, match="of kind 'encoder'"):
        head_importance(interp.wrap(hf), ioi)


def test_metrics_read_where_they_should(lm, ioi):
    """The readout of a right answer's logit alone, as the analysis asks it."""
    own = head_importance(lm, ioi[:2], measures=["zero", "direct"], metric="logit")
    prompt = lm.encode(ioi[0].prompt)
    with torch.no_grad():
        logits = lm.logits(prompt)
    expected = logit([list(ioi[0].answers)]).bind(lm, prompt)(logits, prompt)
    assert own.tables["records"]["metric"][0] == pytest.approx(float(expected), abs=1e-4)
    difference = logit_diff([list(ioi[0].answers)], [list(ioi[0].wrong)]).bind(lm, prompt)
    assert float(difference(logits, prompt)) != pytest.approx(float(expected), abs=1e-2)
