"""FCCT: groups and patches by hand, rates against forwards with hooks, the noise, refusals."""

from dataclasses import replace

import pytest
import torch

import interp
from analyses import ANALYSES
from interp import Hook, Result, Task
from interp.families import FAMILIES
from interp.images import Picture, Region
from interp.prompt import Prompt
from interp.tracing.groups import GROUPS, boxes, check_among_text, groups, patches_over
from interp.tracing.pixels import noised

fcct = ANALYSES["fcct"]
COMPONENTS = ("attn_out", "mlp_out", "resid_post")


@pytest.fixture(scope="module")
def demo():
    return interp.load("demo-vlm")


@pytest.fixture(scope="module")
def colour():
    return Task.load("colour", count=5, split="test")


@pytest.fixture(scope="module")
def traced(demo, colour):
    return fcct(demo, colour, sigma=2.0, batch=3)


def chance(model, record, prompt, hooks=()):
    answer = model.tokenizer(record.answers[0], add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        return float(model.logits(prompt, hooks=hooks)[0, -1].softmax(-1)[answer])


def runs(model, record, number, sigma=2.0, seed=0):
    """The clean prompt, and the same one under the record's own noise."""
    clean = model.encode(record.prompt, images=[record.image])
    generator = torch.Generator().manual_seed(seed * 100_003 + number)
    pixels = clean.inputs["pixel_values"]
    noise = sigma * torch.randn(pixels.shape[1:], generator=generator)[None]
    inputs = {**clean.inputs, "pixel_values": pixels + noise}
    return clean, Prompt.from_inputs(model, inputs)


def places_by_hand(record, prompt):
    """Groups of demo-vlm: <bos> USER : and 36 patches of 16 pixels, then the question."""
    asked = record.notes["objects"][record.notes["asked"]]
    left, top, right, bottom = (edge / 16 for edge in asked["box"])
    seen = [3 + 6 * row + column for row in range(6) for column in range(6)
            if row + 1 > top and row < bottom and column + 1 > left and column < right]  # fmt: skip
    word = prompt.tokens[0].index(" " + record.text("shape"))
    image = [at for at in range(3, 39) if at not in seen]
    text = [at for at in range(39, prompt.length - 1) if at != word]
    return {
        "early visual": [at for at in image if at < seen[0]],
        "object visual": seen,
        "late visual": [at for at in image if at > seen[0]],
        "early textual": [at for at in text if at < word],
        "textual object": [word],
        "late textual": [at for at in text if at > word],
        "last token": [prompt.length - 1],
    }


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("group", GROUPS)
def test_equals_forwards_with_hooks(demo, colour, traced, component, group):
    number, layer = 3, 1
    record = colour[number]
    clean, corrupted = runs(demo, record, number)
    where = places_by_hand(record, clean)[group]
    with torch.no_grad():
        values = demo.trace(clean, component)

    def put(value, at):
        value = value.clone()
        value[:, where] = values[component, at.layer][:, where]
        return value

    before, after = chance(demo, record, clean), chance(demo, record, corrupted)
    patched = chance(demo, record, corrupted, [Hook(component, put, layers=[layer])])
    found = traced.tensors[component][number, GROUPS.index(group), layer]
    assert float(found) == pytest.approx((patched - after) / (before - after), abs=5e-5)
    row = traced.tables["records"].iloc[number]
    assert (row["clean"], row["corrupted"]) == pytest.approx((before, after), abs=1e-5)


def test_groups_share_out_image_and_question(demo, colour):
    prompt = colour.encode(demo)
    for row, record in enumerate(colour):
        seen = patches_over(prompt, row, boxes(record))
        found = groups(prompt, row, seen, prompt.where("shape")[row])
        expected = places_by_hand(record, demo.encode(record.prompt, images=[record.image]))
        left = prompt.length - int(prompt.mask[row].sum())  # padding
        for name, mask in found.items():
            assert mask.nonzero().flatten().tolist() == [at + left for at in expected[name]], name
        in_groups = torch.stack(list(found.values())).sum(0)[left:].tolist()
        assert in_groups == [0] * 3 + [1] * (len(in_groups) - 3)  # <bos> USER : are in none


def test_patches_by_hand():
    grid = torch.arange(4).reshape(2, 2)
    tiles = (Region((2, 2), grid + 1), Region((2, 2), grid + 5, (0.0, -0.5, 1.0, 1.5)))
    picture = Picture((100, 200), torch.arange(1, 9), tiles)  # height, width
    prompt = Prompt({}, torch.ones(1, 10, dtype=torch.bool), images=[[picture]])

    def over(*found):
        return patches_over(prompt, 0, found).nonzero().flatten().tolist()

    assert over((10, 10, 20, 20)) == [1, 5]
    assert over((90, 40, 110, 60)) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert over((100, 0, 150, 50)) == [2, 6]  # what only touches an edge is not over it
    assert over((100, 50, 150, 60)) == [4, 8]
    assert over((0, 0, 10, 10), (190, 90, 200, 100)) == [1, 4, 5, 8]
    assert over() == []


def test_boxes_come_from_notes(colour):
    own = colour[0].notes["objects"][colour[0].notes["asked"]]["box"]
    assert boxes(colour[0]) == [tuple(own)]
    assert boxes(replace(colour[0], notes={"box": [1, 2, 3, 4]})) == [(1, 2, 3, 4)]
    two = replace(colour[0], notes={"boxes": [[1, 2, 3, 4], [5, 6, 7, 8]]})
    assert boxes(two) == [(1, 2, 3, 4), (5, 6, 7, 8)]
    assert boxes(replace(colour[0], notes={})) == []
    several = Task.load("existence", count=30, split="test")
    asked = [one for one in several if one.notes["asked"] is not None]
    alike = [one for one in asked if len(boxes(one)) > 1]
    for one in alike:  # "is there a cross" is about every cross
        shapes = [thing for thing in one.notes["objects"] if thing["shape"] == one.text("shape")]
        assert "colour" in one.spans or len(shapes) == len(boxes(one))
    assert alike and all(boxes(one) == [] for one in several if one.notes["asked"] is None)


def test_restoring_the_whole_end_restores_everything(traced):
    table = traced.table
    end = table[(table["component"] == "resid_post") & (table["layer"] == 3)].set_index("group")
    assert end.loc["last token", ["rate", "low", "high", "pooled"]].tolist() == pytest.approx(
        [1] * 4, abs=1e-4
    )
    assert end.drop("last token")["rate"].abs().max() < 1e-4


def test_the_image_goes_from_its_patches_to_the_last_token(traced):
    rate = traced.table.set_index(["component", "group", "layer"])["rate"]
    stream = rate["resid_post"]
    assert stream["object visual"][0] > 0.7 > 0.1 > stream["object visual"][2]
    assert stream["last token"][0] < 0.1 < 0.7 < stream["last token"][2]


def test_rates_of_the_last_token_by_layer_for_later_use(traced):
    for component in ("attn_out", "mlp_out"):
        table = traced.table
        own = table[(table["group"] == "last token") & (table["component"] == component)]
        assert own["layer"].tolist() == [0, 1, 2, 3] and own["rate"].notna().all()
        tensor = traced.tensors[component][:, GROUPS.index("last token")]
        assert own["rate"].tolist() == pytest.approx(tensor.nanmean(0).tolist(), abs=1e-5)


def test_what_is_guarded_is_left_out_and_counted(demo, colour):
    falls = fcct(demo, colour, sigma=2.0, components="attn_out").tables["records"]
    falls = (falls["clean"] - falls["corrupted"]).sort_values()
    guard = float((falls.iloc[1] + falls.iloc[2]) / 2)
    result = fcct(demo, colour, sigma=2.0, components="attn_out", guard=guard)
    records = result.tables["records"]
    assert sorted(records.index[~records["kept"]]) == sorted(falls.index[:2])
    assert any(
        "3 of 5 records are traced; left out: 2 with a fall" in note for note in result.notes
    )
    assert result.table["records"].max() == 3
    assert result.tensors["attn_out"][falls.index[:2].tolist()].isnan().all()
    with pytest.raises(ValueError, match="nowhere by guard=0.1: there is nothing to recover"):
        fcct(demo, colour, sigma=0.0)


def test_absent_objects_are_left_out(demo):
    task = Task.load("existence", count=8, split="test")
    absent = [one.notes["asked"] is None for one in task]
    result = fcct(demo, task, sigma=2.0, guard=0.01, components="mlp_out")
    why = result.tables["records"]["why"].str.startswith("without a box")
    assert why.tolist() == absent and any(absent)
    gone = Task("absent", tuple(one for one, no in zip(task, absent, strict=True) if no))
    with pytest.raises(
        ValueError, match=f"none of the {len(gone)} records can be traced: .* without a box"
    ):
        fcct(demo, gone)


def test_the_size_of_the_noise_is_found(demo, colour):
    result = fcct(demo, colour, sigma=None, components="attn_out")
    sigmas = result.tables["sigmas"]
    half = sigmas["clean"].iloc[0] / 2
    assert (sigmas["corrupted"].iloc[:-1] >= half).all() and sigmas["corrupted"].iloc[-1] < half
    assert f"noise of sigma {sigmas['sigma'].iloc[-1]:g}" in result.notes[0]
    assert result.tables["records"]["corrupted"].mean() == pytest.approx(
        sigmas["corrupted"].iloc[-1], abs=1e-5
    )


def test_another_image_corrupts_too(demo, colour):
    result = fcct(demo, colour, corruption="image", components="resid_post")
    record = colour[0]
    other = demo.encode(record.prompt, images=[record.counterfactual_image])
    expected = chance(demo, record, other)
    assert result.tables["records"]["corrupted"][0] == pytest.approx(expected, abs=1e-5)
    own = result.table.set_index(["group", "layer"])["rate"]
    assert own["object visual"][0] > 0.9 and abs(own["early visual"][0]) < 0.1
    assert "another image" in result.notes[0]


def test_records_draw_their_noise_alone(demo, colour, traced):
    again = fcct(demo, colour, sigma=2.0, batch=1)
    assert (again.table["rate"] - traced.table["rate"]).abs().max() < 1e-4
    other = fcct(demo, colour, sigma=2.0, seed=1, components="attn_out")
    assert (
        other.tables["records"]["corrupted"] - traced.tables["records"]["corrupted"]
    ).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_vl", "idefics3", "paligemma"])
def test_noise_reaches_the_pixels_of_other_families(name):
    family = FAMILIES[name]
    hf = family.model()
    model = interp.wrap(hf)
    prompt = Prompt.from_inputs(model, family.inputs(hf))
    noisy, again, more = (noised(prompt, size, 0, range(len(prompt))) for size in (1.0, 1.0, 2.0))
    off = noisy.inputs["pixel_values"] - prompt.inputs["pixel_values"]
    assert float(off.std()) == pytest.approx(1, abs=0.1)
    assert torch.equal(noisy.inputs["pixel_values"], again.inputs["pixel_values"])
    assert torch.allclose(
        more.inputs["pixel_values"] - prompt.inputs["pixel_values"], 2 * off, atol=1e-5
    )
    for beside in prompt.inputs.keys() - {"pixel_values"}:
        assert noisy.inputs[beside] is prompt.inputs[beside]
    with torch.no_grad():
        assert (model.logits(noisy) - model.logits(prompt)).abs().max() > 1e-4


def test_images_beside_the_text_have_no_visual_tokens():
    aside = Picture((10, 10), torch.arange(0), (Region((1, 2), torch.arange(2)[None]),))
    prompt = Prompt({}, torch.ones(1, 4, dtype=torch.bool), images=[[aside]])
    with pytest.raises(ValueError, match="by cross attention"):
        check_among_text(prompt, 0)


def test_refusals(demo, colour):
    with pytest.raises(ValueError, match="sees no image beside its text"):
        fcct(interp.load("demo-lm"), Task.load("facts", count=2, split="test"))
    for settings, error, match in (
        ({"components": "z"}, LookupError, "no component 'z'"),
        ({"components": ()}, ValueError, "name each once"),
        ({"corruption": "blur"}, LookupError, "no corruption 'blur'"),
        ({"corruption": "image", "sigma": 3.0}, ValueError, "another image has no noise"),
        ({"sigma": -1.0}, ValueError, "sigma=-1.0"),
        ({"guard": 0}, ValueError, "guard=0"),
        ({"batch": 0}, ValueError, "batch=0"),
        ({"word": "thing"}, ValueError, "5 without a span 'thing'"),
    ):
        with pytest.raises(error, match=match):
            fcct(demo, colour, **settings)
    with pytest.raises(ValueError, match="record 0 has no image"):
        fcct(demo, Task("blind", (replace(colour[0], image=None),)))
    with pytest.raises(ValueError, match="record 0 has no answers"):
        fcct(demo, Task("mute", (replace(colour[0], answers=()),)))
    with pytest.raises(TypeError, match="give a Task"):
        fcct(demo, colour.encode(demo))
    with pytest.raises(ValueError, match="no pixels among the prompt's inputs"):
        noised(demo.encode("What colour is it?"), 1.0, 0, [0])
    longer = replace(colour[0], counterfactual=colour[0].prompt + " Is it red?")
    with pytest.raises(ValueError, match="other numbers of tokens"):
        fcct(demo, Task("longer", (longer,)), corruption="image")


def test_saved_results_load_and_draw(traced, tmp_path):
    result = Result.load(traced.save(tmp_path / "fcct"))
    assert result.table.equals(traced.table)
    figure = result.figure()
    assert len(figure.data) == 3 and figure.data[0].y[-1] == "last token (1)"
    table = result.table
    own = table[(table["component"] == "mlp_out") & (table["group"] == "object visual")]
    assert list(figure.data[1].z[1]) == pytest.approx(own["rate"].tolist())
