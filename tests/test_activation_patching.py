"""Activation patching: against forwards with hooks, on circuits set by hand, what is averaged, refusals."""

from dataclasses import replace

import pytest
import torch
from known_models import (
    FIRST,
    INDUCTION,
    LOOKUP,
    MOVER,
    PREVIOUS,
    SECOND,
    induction_model,
    lookup_model,
    redundant_model,
)

import interp
from analyses import ANALYSES
from interp import Hook, Result, Task
from interp.pairs import pairs
from interp.tracing.averages import averaged, mean_with_interval

activation_patching = ANALYSES["activation_patching"]
SITES = ("resid_pre", "attn_out", "mlp_out", "z", "v", "pattern")


@pytest.fixture(scope="module")
def demo():
    return interp.load("demo-lm")


@pytest.fixture(scope="module")
def ioi():
    """Records of two lengths."""
    task = Task.load("ioi", count=30, split="test")
    short = [record for record in task if len(record.prompt.split()) == 14]
    other = [record for record in task if len(record.prompt.split()) == 15]
    return Task("ioi", (*short[:2], *other[:1]))


@pytest.fixture(scope="module")
def by_span(demo, ioi):
    return activation_patching(demo, ioi, sites=SITES, batch=2)


@pytest.fixture(scope="module")
def aligned():
    """Records of one length and one layout."""
    task = Task.load("ioi", count=60, split="test", template=1)
    return Task("aligned", tuple(one for one in task if one.notes["order"] == "ABBA")[:3])


@pytest.fixture(scope="module")
def by_position(demo, aligned):
    return activation_patching(demo, aligned, sites=("resid_post", "z"), window=2)


def by_hand(model, task, direction, site, layers, head, places):
    """What one patch does to the logit difference of each record, with a plain hook."""
    found = []
    for record in task:
        clean, corrupted = (model.encode(text) for text in (record.prompt, record.counterfactual))
        base, other = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
        with torch.no_grad():
            values = model.trace(other, site)
        where = places(model.encode(record.prompt), record)

        def put(value, at, values=values, where=where):
            value = value.clone()
            new = values[site, at.layer]
            if site == "pattern":
                value[:, slice(None) if head is None else head, where] = new[:, head, where]
            elif head is None:
                value[:, where] = new[:, where]
            else:
                value[:, where, head] = new[:, where, head]
            return value

        hook = Hook(site, put, layers=layers)
        right, wrong = (
            model.tokenizer(words[0].strip(), add_special_tokens=False)["input_ids"][0]
            for words in (record.answers, record.wrong)
        )
        with torch.no_grad():
            last = [model.logits(base, hooks=hooks)[0, -1] for hooks in ((), [hook])]
        plain, patched = (float(one[right] - one[wrong]) for one in last)
        found.append(patched - plain)
    return found


def where_is(place):
    """The positions of a place, by the characters of the record's spans."""

    def places(prompt, record):
        spans = {name: _tokens(prompt, *span) for name, span in record.spans.items()}
        spans |= {"last": [prompt.length - 1], "all": list(range(prompt.length))}
        taken = {at for name, own in spans.items() if name != "all" for at in own}
        return spans[place] if place != "rest" else [at for at in spans["all"] if at not in taken]

    return places


def _tokens(prompt, start, end):
    return [
        at for at, (first, last) in enumerate(prompt.offsets[0]) if first < end and last > start
    ]


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize(
    "site, layer, head, place",
    [
        ("resid_pre", 2, None, "S2"),
        ("resid_pre", 2, None, "rest"),
        ("attn_out", 2, None, "last"),
        ("mlp_out", 3, None, "last"),
        ("z", 2, 1, "all"),
        ("z", 0, 1, "S2"),
        ("v", 0, 0, "all"),
        ("pattern", 2, 1, "last"),
    ],
)
def test_equals_forwards_with_hooks(demo, ioi, by_span, direction, site, layer, head, place):
    expected = by_hand(demo, ioi, direction, site, [layer], head, where_is(place))
    name = f"{direction} {site}{' places' if head is not None and place != 'all' else ''}"
    places = by_span.tables["places"]["place"].tolist()
    values = by_span.tensors[name][:, layer]
    values = values if head is None else values[:, head]
    values = values if place == "all" else values[:, places.index(place)]
    assert values.tolist() == pytest.approx(expected, abs=1e-4)
    assert values.abs().max() > 1e-3
    own = by_span.table
    own = own[(own["direction"] == direction) & (own["site"] == site) & (own["layer"] == layer)]
    own = own[
        (own["place"] == place) & (own["head"].isna() if head is None else own["head"] == head)
    ]
    assert own["effect"].item() == pytest.approx(sum(expected) / 3, abs=1e-4)
    records = by_span.tables["records"]
    way = (records["clean"] - records["corrupted"]).mean() * (1 if direction == "denoise" else -1)
    assert own["share"].item() == pytest.approx(sum(expected) / 3 / way, abs=1e-4)


def test_positions_and_windows(demo, aligned, by_position):
    places = by_position.tables["places"]["place"].tolist()
    assert places == [str(at) for at in range(15)]
    for place, head in ((10, None), (14, 1)):
        site = "resid_post" if head is None else "z"
        expected = by_hand(demo, aligned, "denoise", site, [1, 2], head, lambda *_, at=place: [at])
        values = by_position.tensors[f"denoise {site}{'' if head is None else ' places'}"][:, 2]
        values = (values if head is None else values[:, head])[:, place]
        assert values.tolist() == pytest.approx(expected, abs=1e-4)
    assert any("window of 2" in note for note in by_position.notes)


def test_everything_patched_is_the_other_run(by_position):
    """The stream at the last position of the last layer is all there is."""
    table = by_position.table
    own = table[(table["site"] == "resid_post") & (table["layer"] == 3) & (table["place"] == "14")]
    assert own["share"].tolist() == pytest.approx([1, 1], abs=1e-5)
    assert own["mean_of_ratios"].tolist() == pytest.approx([1, 1], abs=1e-5)
    first = table[(table["site"] == "resid_post") & (table["place"] == "0")]
    assert (first["effect"] == 0).all()  # what comes before any difference is the same


def strong(result, site, direction="denoise", place=None, more=0.02):
    """Layers, or layers and heads, whose share is not next to nothing."""
    own = result.table
    own = own[(own["site"] == site) & (own["direction"] == direction) & (own["share"].abs() > more)]
    own = own if place is None else own[own["place"] == place]
    keys = ["layer", "place"] if own["head"].isna().all() else ["layer", "head"]
    return {tuple(row) for row in own[keys].to_numpy()}


def test_finds_the_circuits_set_by_hand():
    lookup = lookup_model()
    result = activation_patching(lookup.model, lookup.task, spans=["subject", "end"])
    for direction in ("denoise", "noise"):
        assert strong(result, "z", direction, "all") == {MOVER}
        assert strong(result, "z", direction, "end") == {MOVER}
        assert strong(result, "z", direction, "subject") == set()
        assert strong(result, "mlp_out", direction) == {(LOOKUP, "subject")}
    induction = induction_model()
    result = activation_patching(induction.model, induction.task, sites="z")
    assert strong(result, "z", "denoise", "all") == strong(result, "z", "noise", "all")
    assert strong(result, "z", "denoise", "all") == {PREVIOUS, INDUCTION}
    assert any(f"{INDUCTION[0]}.{INDUCTION[1]} (+1.00)" in note for note in result.notes)


def test_stand_ins_show_when_denoising_alone():
    known = redundant_model()
    result = activation_patching(known.model, known.task, sites="z", head_places=False)
    assert strong(result, "z", "denoise") == {FIRST, SECOND}
    assert strong(result, "z", "noise") == set()
    assert any("others stand in for them" in note for note in result.notes)
    assert "denoise z places" not in result.tensors


def test_places_follow_what_records_share(demo, ioi, aligned, by_span, by_position):
    assert by_span.tables["places"]["place"].tolist()[-2:] == ["last", "rest"]
    assert any("records have 16 to 17 tokens" in note for note in by_span.notes)
    assert by_position.tables["places"]["example"][14].strip() == "to"
    mixed = Task("mixed", (aligned[0], replace(aligned[1], spans={"S2": aligned[1].spans["S2"]})))
    result = activation_patching(demo, mixed, sites="resid_pre", direction="noise")
    own = result.table.groupby("place")["records"].first()
    assert own["S2"] == 2 and own["IO"] == 1
    lacking = len(aligned[0].spans) - 1  # spans of the first record that the second has not
    assert result.tensors["noise resid_pre"].isnan().any(1).sum() == lacking
    named = activation_patching(demo, aligned, sites="resid_pre", spans=["S2", "rest"])
    assert named.tables["places"]["place"].tolist() == ["S2", "rest"]


def test_spans_of_the_whole_prompt_restore_everything(demo, aligned):
    result = activation_patching(demo, aligned, sites="resid_pre", spans=["prompt"], layers=[0, 2])
    assert result.table["share"].tolist() == pytest.approx([1] * 4, abs=1e-5)
    assert result.table["layer"].tolist() == [0, 2, 0, 2]


def test_averages_by_hand():
    effect = torch.tensor([[1.0, 3.0], [3.0, torch.nan], [5.0, 1.0]])
    found = averaged(effect, torch.tensor([2.0, 4.0, 8.0]))
    assert found["effect"].tolist() == [3, 2] and found["records"].tolist() == [3, 2]
    assert found["share"].tolist() == pytest.approx([9 / 14, 4 / 10])
    assert found["mean_of_ratios"].tolist() == pytest.approx(
        [(0.5 + 0.75 + 0.625) / 3, (1.5 + 0.125) / 2]
    )
    mean, low, high = mean_with_interval([1.0, 3.0, 5.0])
    assert (float(found["effect_low"][0]), float(found["effect_high"][0])) == pytest.approx(
        (low, high)
    )
    assert mean == 3 and high - mean == pytest.approx(1.96 * 2 / 3**0.5)
    off = torch.tensor([1.0, 3.0, 5.0]) - 9 / 14 * torch.tensor([2.0, 4.0, 8.0])
    width = 1.96 * float((off.square().sum() / 2 / 3).sqrt()) / (14 / 3)
    assert float(found["share_high"][0] - found["share"][0]) == pytest.approx(width)
    # A share of a way is sure where every record goes the same share, however long its way.
    same = averaged(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2.0, 4.0, 8.0]))
    assert float(same["share_low"]) == pytest.approx(float(same["share_high"])) == 0.5
    none = averaged(torch.tensor([1.0, 1.0]), torch.tensor([2.0, -2.0]))
    assert bool(none["share"].isnan())


def test_batches_change_nothing(demo, ioi, by_span):
    again = activation_patching(demo, ioi, sites=("mlp_out", "z"), head_places=False, batch=1)
    keys = ["direction", "site", "layer", "head", "place"]
    both = again.table.merge(by_span.table, on=keys, suffixes=("", "_before"))
    assert len(both) == len(again.table)
    for name in ("effect", "share", "share_low", "mean_of_ratios"):
        assert (both[name] - both[f"{name}_before"]).abs().max() < 1e-4
    assert again.tables["records"]["record"].tolist() == [0, 1, 2]


def test_images_and_classifiers():
    vlm = interp.load("demo-vlm")
    task = Task.load("colour", count=2, split="test")
    result = activation_patching(vlm, task, sites=("resid_pre",), over="span", direction="denoise")
    own = result.table[(result.table["layer"] == 0)].set_index("place")["share"]
    assert own["image"] == pytest.approx(1, abs=1e-4) and own["shape"] == 0
    vit = interp.load("demo-vit")
    result = activation_patching(
        vit, Task.load("digits", count=2, split="test"), sites="resid_post"
    )
    assert result.table["place"].nunique() > 10 and result.table["share"].abs().max() > 0.1


def test_refusals(demo, ioi, aligned):
    for settings, error, match in (
        ({"sites": "scores"}, LookupError, "no site to patch 'scores'"),
        ({"sites": ()}, ValueError, "name each once"),
        ({"direction": "up"}, LookupError, "no direction 'up'"),
        ({"metric": "kl"}, LookupError, "no metric 'kl'"),
        ({"over": "token"}, LookupError, "no way to go over places 'token'"),
        ({"over": "position"}, ValueError, "records have 16 to 17 tokens.*over='span'"),
        ({"positions": [3]}, ValueError, "positions= goes with over='position', and records have"),
        ({"spans": []}, ValueError, "name each once"),
        ({"spans": ["subject"]}, LookupError, "no span 'subject'"),
        ({"batch": 0}, ValueError, "batch=0"),
        ({"window": 0}, ValueError, "window=0"),
    ):
        with pytest.raises(error, match=match):
            activation_patching(demo, ioi, **settings)
    with pytest.raises(ValueError, match="spans= goes with over='span'"):
        activation_patching(demo, aligned, over="position", spans=["S2"])
    same = Task("same", tuple(replace(one, counterfactual=one.prompt) for one in aligned))
    with pytest.raises(ValueError, match="do not change the metric's mean"):
        activation_patching(demo, same, sites="resid_pre")
    longer = replace(aligned[0], counterfactual=aligned[0].counterfactual + " the")
    with pytest.raises(ValueError, match="15 tokens and its counterfactual 16"):
        activation_patching(demo, Task("longer", (longer,)))
    with pytest.raises(TypeError, match="give a Task"):
        activation_patching(demo, aligned.encode(demo))


def test_every_pair_is_given_once(demo, ioi):
    found = [pair.numbers for pair in pairs(demo, ioi, "test", 2)]
    assert sorted(number for numbers in found for number in numbers) == [0, 1, 2]


def test_saved_results_load_and_draw(by_span, by_position, tmp_path):
    result = Result.load(by_span.save(tmp_path / "patched"))
    assert result.table.equals(by_span.table)
    figure = result.figure()
    assert len(figure.data) == 2 * len(SITES)
    table = result.table
    own = table[
        (table["direction"] == "denoise") & (table["site"] == "z") & (table["place"] == "all")
    ]
    assert [value for row in figure.data[3].z for value in row] == pytest.approx(
        own["share"].tolist()
    )
    at = result.figure(place="S2", direction="noise")
    assert len(at.data) == len(SITES) and "S2" in at.layout.title.text
    with pytest.raises(LookupError, match="no place 'S9'"):
        result.figure(place="S9")
    assert "10 " in by_position.figure().layout.xaxis.ticktext[10]
