"""Estimates of patching: what is refused, what is asked of demo models, and how near it comes."""

import pandas
import pytest
import torch

import interp
from analyses import ANALYSES
from interp import Hook, Record, Task
from interp.attribution import NoEdges, along, atp, atp_star, eap, eap_ig_inputs
from interp.families import FAMILIES
from interp.pairs import pairs
from interp.readouts import logit_diff
from interp.result import Result
from tests.known_models import induction_model

attribution = ANALYSES["attribution"]
METRIC = logit_diff(20, 21)


@pytest.fixture(scope="module")
def llama():
    return interp.wrap(FAMILIES["llama"].model())


def prompts(model, length=7, batch=2):
    clean = torch.randint(10, 60, (batch, length), generator=torch.Generator().manual_seed(1))
    corrupted = clean.clone()
    corrupted[:, 2] += 1
    return model.encode(clean), model.encode(corrupted)


@pytest.fixture(scope="module")
def demo():
    return interp.load("demo-lm")


@pytest.fixture(scope="module")
def ioi(demo):
    return attribution(demo, Task.load("ioi", count=12, split="test"))


# Of nodes and edges by themselves


def test_they_are_of_the_sign_and_size_of_exact_effects(demo):
    task = Task.load("ioi", count=4, split="test")
    pair = next(pairs(demo, task, "a test"))
    metric = pair.metric(demo)
    with torch.no_grad():
        trace = demo.trace(pair.corrupted, "z")
        hook = Hook("z", lambda z, at: trace["z", 2][:, :, [1]], layers=[2], heads=[1])
        exact = metric(demo.logits(pair.clean, hooks=hook)) - metric(demo.logits(pair.clean))
    nodes = along(
        demo, pair.clean, pair.corrupted, metric, way="activations", steps=12, rule="midpoint"
    )
    assert exact.abs().max() > 1
    assert (nodes.whole["z"][:, 2, 1] - exact).abs().max() < 0.3 * exact.abs().max()
    table = nodes.table()
    assert table["estimate"].all() and len(table) == 4 * 8 + 4
    row = table[(table["site"] == "z") & (table["layer"] == 2) & (table["head"] == 1)].iloc[0]
    assert row["effect"] == pytest.approx(float(nodes.whole["z"][:, 2, 1].mean()))
    assert table[table["site"] == "mlp_out"]["head"].isna().all()


def test_padding_changes_nothing(llama):
    """Rows of two lengths together, and each by itself."""
    clean, corrupted = prompts(llama)
    short = [one.ids[:1, 2:] for one in (clean, corrupted)]
    short[1] = short[1].clone()
    short[1][0, 1] = 77
    together = [
        llama.encode([ids.tolist()[0], other.ids.tolist()[1]])
        for ids, other in zip(short, (clean, corrupted), strict=True)
    ]
    assert not together[0].mask.all()
    for ways in ({"sites": ("z", "q", "k", "mlp_out")}, {"sites": ("z",), "grad_drop": False}):
        both = atp_star(llama, *together, METRIC, **ways)
        alone = atp_star(llama, llama.encode(short[0]), llama.encode(short[1]), METRIC, **ways)
        for site, value in alone.whole.items():
            assert value.abs().max() > 1e-4
            assert torch.allclose(both.whole[site][0], value[0], atol=1e-5)
            sizes = both.whole_magnitudes[site][0]
            assert torch.allclose(sizes, alone.whole_magnitudes[site][0], atol=1e-5)
    scores = eap(llama, *together, METRIC).scores[0]
    assert torch.allclose(
        scores, eap(llama, *map(llama.encode, short), METRIC).scores[0], atol=1e-5
    )


def test_frozen_weights_and_no_grad_do_no_harm_and_nothing_stays():
    model = interp.wrap(FAMILIES["gpt2"].model())
    clean, corrupted = prompts(model)
    ways = (atp, atp_star, eap, eap_ig_inputs)
    before = [way(model, clean, corrupted, METRIC) for way in ways]
    weights = list(model.hf.parameters())
    assert all(weight.grad is None for weight in weights)
    model.hf.requires_grad_(False)
    with torch.no_grad():
        after = [way(model, clean, corrupted, METRIC) for way in ways]
    for one, other in zip(before[:2], after[:2], strict=True):
        assert torch.equal(one.whole["z"], other.whole["z"])
    for one, other in zip(before[2:], after[2:], strict=True):
        assert torch.equal(one.scores, other.scores)
    assert not any("forward" in module.__dict__ for module in model.hf.modules())


def test_a_readout_is_read_as_the_same_function_of_all_logits(llama):
    clean, corrupted = prompts(llama)

    def whole(logits):
        assert logits.shape[1] == clean.length
        return logits[:, -1, 20] - logits[:, -1, 21]

    one, other = (eap(llama, clean, corrupted, metric) for metric in (METRIC, whole))
    assert torch.allclose(one.scores, other.scores, atol=1e-6)
    early = logit_diff(20, 21, at="first")
    assert not atp(llama, clean, corrupted, early).whole["z"].any()  # the change comes later


def test_what_others_hook_is_part_of_it(llama):
    clean, corrupted = prompts(llama)
    with llama.using(Hook("z", lambda z, at: z * 0, layers=[1], heads=[2])):
        nodes, edges = (way(llama, clean, corrupted, METRIC) for way in (atp, eap))
    assert not nodes.whole["z"][:, 1, 2].any() and nodes.whole["z"][:, 1, 1].all()
    names = [node.name for node in edges.sources]
    assert not edges.scores[:, names.index("1.2")].any()


def test_wrong_calls_are_refused_with_a_reason(llama):
    clean, corrupted = prompts(llama)
    longer, _ = prompts(llama, length=9)
    with pytest.raises(ValueError, match=r"\[7, 7\] tokens and the corrupted ones \[9, 9\]"):
        atp(llama, clean, longer, METRIC)
    with pytest.raises(ValueError, match="2 clean prompts and 1 corrupted"):
        eap(llama, clean, llama.encode(corrupted.ids[:1]), METRIC)
    with pytest.raises(ValueError, match="the metric is nan in row 0"):
        atp(llama, clean, corrupted, lambda logits: logits[:, -1, 0] * float("nan"))
    with pytest.raises(ValueError, match=r"the metric gave \(2, 128\)|the metric gave \(2, \d+\)"):
        eap(llama, clean, corrupted, lambda logits: logits[:, -1])
    with pytest.raises(RuntimeError, match="no gradient reaches the metric"):
        atp(llama, clean, corrupted, lambda logits: logits[:, -1, 0].detach())
    with pytest.raises(TypeError, match="is no readout"):
        atp(llama, clean, corrupted, "logit_diff")
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference mode"):
        eap(llama, clean, corrupted, METRIC)
    for wrong, problem in ((["pattern"], "no node site 'pattern'"), ([], "names none")):
        with pytest.raises((LookupError, ValueError), match=problem):
            atp(llama, clean, corrupted, METRIC, sites=wrong)
    with pytest.raises(ValueError, match="activations walk at z and mlp_out"):
        along(llama, clean, corrupted, METRIC, way="activations", sites=["q"])
    with pytest.raises(LookupError, match="no way 'input'"):
        along(llama, clean, corrupted, METRIC, way="input")
    llama.hf.train()
    try:
        with pytest.raises(ValueError, match="training mode"):
            eap(llama, clean, corrupted, METRIC)
    finally:
        llama.hf.eval()


def test_a_stack_that_the_metric_does_not_see_is_refused():
    """Captions of another picture are read from the text tower alone."""
    family = FAMILIES["llava"]
    hf = family.model()
    model = interp.wrap(hf)
    clean = interp.Prompt.from_inputs(model, family.inputs(hf, batch=1))
    found = atp(model, clean, clean, METRIC, stack="vision", sites=("z",))
    assert found.whole["z"].shape[1:] == (len(model.stacks["vision"].layers), 4)

    def blind(logits):
        return model.hf.get_output_embeddings().weight.sum() + 0 * logits[:, -1, 0].detach()

    model.hf.requires_grad_(True)
    with pytest.raises(ValueError, match="the metric depends on no z of the vision stack"):
        atp(model, clean, clean, blind, stack="vision", sites=("z",))


# The analysis


def test_the_tables_say_what_they_are(ioi):
    table = ioi.table
    assert list(table) == ["component", "layer", "head", "method", "effect", "magnitude", "estimate",
                           "exact", "exact_size"]  # fmt: skip
    assert table["estimate"].all()
    assert set(table["method"]) == {"atp", "atp_star", "eap_ig_inputs"}  # eap's nodes are atp's
    counts = table[table["method"] == "atp"]["component"].value_counts().to_dict()
    assert counts == {"head": 32, "query": 32, "key": 16, "mlp": 4}
    assert ioi.tables["edges"]["estimate"].all() and len(ioi.tables["edges"]) == 400
    sizes = ioi.tables["edges"].groupby("method")["score"].apply(lambda one: one.abs().tolist())
    assert all(each == sorted(each, reverse=True) for each in sizes)
    assert len(ioi.tables["records"]) == 12
    assert ioi.tables["records"]["clean"].mean() > ioi.tables["records"]["corrupted"].mean() + 3


def test_exact_effects_are_those_of_a_forward_with_a_hook(ioi, demo):
    task, total = Task.load("ioi", count=12, split="test"), 0.0
    for pair in pairs(demo, task, "a test"):
        metric = pair.metric(demo)
        with torch.no_grad():
            trace = demo.trace(pair.corrupted, "mlp_out")
            hook = Hook("mlp_out", lambda value, at, trace=trace: trace["mlp_out", 3], layers=[3])
            moved = metric(demo.logits(pair.clean, hooks=hook))
            total += float((moved - metric(demo.logits(pair.clean))).sum())
    rows = ioi.table[(ioi.table["component"] == "mlp") & (ioi.table["layer"] == 3)]
    assert rows["exact"].tolist() == pytest.approx([total / 12] * 3, abs=1e-4)


def test_estimates_stand_where_the_ladder_puts_them(ioi):
    found = ioi.tables["agreement"].set_index(["method", "component"])
    assert (found["spearman_size"].unstack()["head"] > 0.9).all()
    for component in ("query", "key"):  # saturated softmaxes
        assert (
            found.loc["atp_star", component]["error"] < found.loc["atp", component]["error"] / 1.5
        )
    assert found.loc["atp_star", "query"]["spearman"] > 0.9
    for component in ("head", "mlp"):
        assert found.loc["eap_ig_inputs", component]["error"] < found.loc["atp", component]["error"]
    sums = ioi.tables["sums"].set_index("method")
    change = sums.loc["eap", "change"]
    assert change > 3 and sums.loc["eap_ig_inputs", "out_of_input"] == pytest.approx(
        change, rel=0.2
    )


def test_the_notes_are_of_these_numbers(ioi):
    notes = " ".join(ioi.notes)
    table = ioi.tables["agreement"]
    best = table[table["component"] == "query"].sort_values("relative").iloc[0]
    assert (
        f"query: nearest to exact patching is {best['method']}, off by {best['relative']:.0%}"
        in notes
    )
    clean = ioi.tables["records"]["clean"].mean()
    assert f"12 records: logit_diff is {clean:.2f} on clean prompts" in notes
    assert "4 KV heads serve 8 query heads" in notes
    largest = ioi.tables["edges"].iloc[0]
    assert f"{largest['source']} -> {largest['destination']} ({largest['score']:.3f})" in notes


def test_it_finds_the_heads_of_a_circuit_set_by_hand():
    """Induction: both heads, and the key input through which the one reads the other."""
    known = induction_model()
    found = attribution(known.model, known.task, methods=("eap", "eap_ig_inputs"), steps=8,
                        rule="midpoint", top_edges=None)  # fmt: skip
    heads = found.table[
        (found.table["component"] == "head") & (found.table["method"] == "eap_ig_inputs")
    ]
    first = heads.nlargest(2, "magnitude")
    assert set(zip(first["layer"], first["head"], strict=True)) == set(known.heads)
    edges = found.tables["edges"]
    own = edges[(edges["method"] == "eap_ig_inputs") & (edges["source"] == "0.2")]
    assert own.iloc[0]["destination"] == "2.1.k"
    out = edges[(edges["method"] == "eap_ig_inputs") & (edges["destination"] == "logits")]
    assert out.iloc[0]["source"] == "2.1" and out.iloc[0]["score"] > 0


def test_without_a_sweep_it_says_that_nothing_was_checked(demo, tmp_path):
    task = Task.load("ioi", count=2, split="test")
    found = attribution(demo, task, methods="eap", sites=("z",), exact=False, top_edges=5)
    assert set(found.table["method"]) == {"eap"} and "exact" not in found.table
    assert "agreement" not in found.tables and len(found.tables["edges"]) == 5
    assert any("how far these estimates are off is not known" in note for note in found.notes)
    drawn = found.figure()
    assert drawn.layout.xaxis.title.text.startswith("estimated effect")
    again = Result.load(found.save(tmp_path / "found"))
    pandas.testing.assert_frame_equal(again.tables["edges"], found.tables["edges"])
    pandas.testing.assert_frame_equal(again.table, found.table)


def test_a_model_without_edges_is_estimated_all_the_same(monkeypatch):
    import analyses.attribution.asked as asked

    def refused(*given, **named):
        raise NoEdges("in layer 0 there are none")

    monkeypatch.setattr(asked, "eap", refused)
    known = induction_model()
    found = attribution(known.model, known.task, methods=("atp", "eap"), exact=False)
    assert "edges" not in found.tables and "No edges: in layer 0 there are none" in found.notes
    assert len(found.table)
    assert len(found.figure().data) == len(set(found.table["component"]))


def test_the_figure_holds_every_estimate_against_the_exact_effect(ioi):
    drawn = ioi.figure()
    dots = [trace for trace in drawn.data if trace.type == "scatter" and trace.mode == "markers"]
    assert sum(len(trace.x) for trace in dots) == len(ioi.table)
    lines = [trace for trace in drawn.data if trace.type == "scatter" and trace.mode == "lines"]
    assert len(lines) == 4 and all(list(trace.x) == list(trace.y) for trace in lines)
    assert drawn.layout.yaxis.title.text == "estimated effect"
    assert "estimates" in drawn.layout.title.text
    assert drawn.layout.xaxis.title.text == "exact effect (patched)"
    bars = [trace for trace in drawn.data if trace.type == "bar"]
    assert [len(trace.x) for trace in bars] == [10, 10]


def test_a_vision_tower_is_estimated_too():
    vit = interp.load("demo-vit")
    found = attribution(vit, Task.load("digits", count=4, split="test"), sites=("z", "mlp_out"))
    agreed = found.tables["agreement"].set_index(["method", "component"])["spearman_size"]
    assert agreed["eap_ig_inputs", "head"] > 0.5
    edges = found.tables["edges"]
    assert {"embed", "logits"} <= set(edges["source"]) | set(edges["destination"])
    assert len(found.figure().data) > 4


def test_wrong_settings_are_refused(demo):
    task = Task.load("ioi", count=2, split="test")
    for settings, problem in (
        ({"methods": "ap"}, "no method 'ap'"),
        ({"methods": ()}, "one at least"),
        ({"rule": "trapezoid"}, "no rule 'trapezoid'"),
        ({"steps": 0}, "at least 1"),
        ({"sites": "scores"}, "no node site 'scores'"),
        ({"metric": "loss"}, "no metric 'loss'"),
        ({"batch": 0}, "batch=0"),
        ({"top_edges": 0}, "top_edges=0"),
    ):
        with pytest.raises((LookupError, ValueError), match=problem):
            attribution(demo, task, **settings)
    unequal = Task("unequal", (Record("Mary went", (" home",), (" away",), counterfactual="Mary"),))
    with pytest.raises(ValueError, match="equal length"):
        attribution(demo, unequal)
