"""Everything that looks for circuits is tried on models whose circuit was put there by hand."""

import pytest
import torch
from known_models import (
    FIRST,
    INDUCTION,
    LOOKUP,
    MOVER,
    SATURATING,
    SECOND,
    induction_model,
    lookup_model,
    redundant_model,
)

from interp import Hook
from interp.circuits import (
    Circuit,
    EdgeRuns,
    Graph,
    NodeRuns,
    completeness,
    faithfulness,
    minimality,
)
from interp.circuits.search import node_effects, searched
from interp.pairs import pairs
from interp.sites import SITES

KNOWN = {"induction": induction_model, "lookup": lookup_model, "redundant": redundant_model}


@pytest.fixture(scope="module", params=KNOWN)
def known(request):
    return KNOWN[request.param]()


def planted(known):
    graph = Graph.of(known.model)
    return Circuit.of(graph, [*known.heads, *(f"mlp {layer}" for layer in known.mlps)])


def only_pair(known):
    (pair,) = pairs(known.model, known.task, "test")
    return pair, pair.metric(known.model)


def test_the_model_solves_its_task(known):
    pair, metric = only_pair(known)
    with torch.no_grad():
        clean = metric(known.model.logits(pair.clean))
        other = metric(known.model.logits(pair.corrupted))
    assert float(clean.min()) > 19.9
    assert float(other.max()) < 0.1
    # What the rest writes is there, and of the size of what the circuit writes.
    with torch.no_grad():
        trace = known.model.trace(pair.clean, "attn_out", "mlp_out")
    idle = [layer for layer in range(4) if layer not in known.mlps]
    assert all(float(trace["mlp_out", layer].std()) > 0.05 for layer in idle)
    assert all(float(trace["attn_out", layer].std()) > 0.05 for layer in range(4))


def test_patching_one_node_at_a_time_finds_the_circuit(known):
    """Recall and precision are 1: noising where nothing backs up, denoising where something does."""
    direction = "denoising" if known.task.name == "redundant" else "noising"
    found = searched(known.model, known.task, least=0.1, direction=direction)
    assert found.parts == planted(known).parts
    effects = node_effects(known.model, known.task, direction).share
    for one, share in effects.items():
        expected = 1.0 if one in planted(known) else 0.0
        assert share == pytest.approx(expected, abs=1e-4), one


def test_a_chain_shows_in_both_directions():
    for make in (induction_model, lookup_model):
        known = make()
        for direction in ("noising", "denoising"):
            assert (
                searched(known.model, known.task, direction=direction).parts == planted(known).parts
            )


def test_noising_hides_what_denoising_shows():
    known = redundant_model()
    noising = node_effects(known.model, known.task, "noising").share
    denoising = node_effects(known.model, known.task, "denoising").share
    for head in (FIRST, SECOND):
        (one,) = [node for node in noising if (node.kind, node.layer, node.head) == ("head", *head)]
        assert noising[one] == pytest.approx(0, abs=1e-4)
        assert denoising[one] == pytest.approx(1, abs=1e-4)
    assert (
        searched(known.model, known.task).nodes
        == Circuit.of(Graph.of(known.model), [f"mlp {SATURATING}"]).nodes
    )
    # Both at once are needed.
    runs = NodeRuns(known.model, known.task)
    assert runs.mean(runs.parts) == pytest.approx(20, abs=0.01)
    assert runs.mean(runs.parts - planted(known).parts) == pytest.approx(0, abs=0.01)


def test_zero_ablation_by_a_sweep_finds_the_heads(known):
    pair, metric = only_pair(known)
    grid = known.model.sweep(pair.clean, "z", take="zero", over=("layer", "head"), metric=metric)
    fall = (grid.plain[:, None, None] - grid).mean(0)
    found = {tuple(cell) for cell in (fall.abs() > 2).nonzero().tolist()}
    assert found == (set() if known.task.name == "redundant" else set(known.heads))
    mlps = known.model.sweep(pair.clean, "mlp_out", take="zero", over=("layer",), metric=metric)
    lost = {layer for layer in range(4) if float((mlps.plain[:, None] - mlps)[:, layer].mean()) > 2}
    assert lost == set(known.mlps)


def test_a_sweep_over_positions_shows_where_the_answer_is():
    """The stream of the lookup model: at the subject until the head has moved it, then at the end."""
    known = lookup_model()
    pair, metric = only_pair(known)
    clean = known.model.trace(pair.clean, "resid_pre")
    grid = known.model.sweep(pair.corrupted, "resid_pre", take=clean, metric=metric)
    share = ((grid - grid.plain[:, None, None]).mean(0) / 40).round(decimals=3)
    subject, end = 2, pair.clean.length - 1
    expected = torch.zeros_like(share)
    expected[: MOVER[0] + 1, subject] = 1
    expected[MOVER[0] + 1 :, end] = 1
    assert torch.allclose(share, expected, atol=1e-3)


@pytest.fixture(scope="module")
def noised():
    """The lookup model under noise at its subject: the pair, the metric, the noise, the clean run."""
    known = lookup_model()
    pair, metric = only_pair(known)
    model = known.model
    with torch.no_grad():
        clean = model.trace(pair.clean, "resid_pre", "mlp_out", "attn_out")
    subject = pair.clean.where("subject")
    words = model.hf.transformer.wte.weight.detach()[pair.clean.ids[subject]]
    size = 3 * float(words.std())
    noise = size * torch.randn(
        clean["resid_pre", 0].shape, generator=torch.Generator().manual_seed(1)
    )

    def corrupt(value, at):
        return value + noise * subject[..., None]

    return model, pair.clean, metric, Hook("resid_pre", corrupt, layers=[0]), clean


def traced(noised, site, over=("layer", "position"), **settings):
    """How much of what the noise took each cell brings back: means over rows."""
    model, prompt, metric, noise, clean = noised
    grid = model.sweep(
        prompt, site, take=clean, over=over, metric=metric, hooks=[noise], **settings
    )
    with torch.no_grad():
        whole = metric(model.logits(prompt), prompt).mean()
    base = grid.plain.mean()
    assert float(whole - base) > 5  # the noise hides the subject
    return (grid.mean(0) - base) / (whole - base)


@pytest.mark.parametrize("site", ["resid_pre", "mlp_out", "attn_out"])
def test_causal_tracing_with_noised_embeddings_finds_the_lookup(noised, site):
    assert site in SITES
    share = traced(noised, site)
    subject, end = 2, share.shape[1] - 1
    expected = torch.zeros_like(share)
    if site == "resid_pre":
        expected[: MOVER[0] + 1, subject] = 1
        expected[MOVER[0] + 1 :, end] = 1
    elif site == "mlp_out":
        expected[LOOKUP, subject] = 1
    else:
        expected[MOVER[0], end] = 1
    # The noise itself reaches the end too, beside what is restored at the subject.
    assert torch.allclose(share, expected, atol=0.15)
    assert bool(((share > 0.5) == (expected > 0.5)).all())


def test_causal_tracing_in_windows_shows_the_lookup_in_every_window_that_holds_it(noised):
    share = traced(noised, "mlp_out", window=3)[:, 2]
    assert [bool(value > 0.5) for value in share] == [True, True, True, False]


def test_without_noise_nothing_is_restored(noised):
    model, prompt, metric, _, clean = noised
    silent = Hook("resid_pre", lambda value, at: value + 0, layers=[0])
    grid = model.sweep(prompt, "mlp_out", take=clean, metric=metric, hooks=[silent])
    assert torch.allclose(
        grid.to(torch.float), grid.plain[:, None, None].expand_as(grid), atol=1e-5
    )


def test_the_planted_circuit_is_faithful_complete_and_minimal(known):
    runs, circuit = NodeRuns(known.model, known.task, mlps="parts"), planted(known)
    found = faithfulness(runs, circuit)
    assert found.share == pytest.approx(1, abs=1e-4)
    assert found.gap == pytest.approx(0, abs=1e-3)
    table = completeness(runs, circuit, {"heads": known.heads}, draws=4, greedy_steps=3)
    assert float(table["gap"].max()) < 1e-3
    needed = minimality(runs, circuit, search=1)
    assert (needed["share"] > 0.9).all()
    if known.task.name == "redundant":
        plain = minimality(runs, circuit).set_index("part")["share"]
        assert plain[f"{FIRST[0]}.{FIRST[1]}"] == pytest.approx(0, abs=1e-4)
        # The search takes away the other head, and then this one is needed.
        assert needed.set_index("part")["without"][f"{FIRST[0]}.{FIRST[1]}"] == "2.4"


def test_half_a_circuit_of_two_that_back_up_is_faithful_and_not_complete():
    known = redundant_model()
    runs = NodeRuns(known.model, known.task, mlps="parts")
    half = planted(known).minus([SECOND])
    assert faithfulness(runs, half).share == pytest.approx(1, abs=1e-4)
    table = completeness(runs, half, {"movers": [FIRST]}, draws=0)
    gap = table.set_index("name")["gap"]
    assert gap["nothing"] == pytest.approx(0, abs=1e-3)
    assert gap["movers"] == pytest.approx(20, abs=0.01)  # the whole model goes on with the other


def test_the_edges_of_the_induction_circuit_are_enough():
    known = induction_model()
    runs = EdgeRuns(known.model, known.task)
    key = f"{INDUCTION[0]}.{INDUCTION[1]}"
    circuit = Circuit.of(runs.graph, ["embed->0.2.v", f"0.2->{key}.k", f"{key}->logits"])
    assert faithfulness(runs, circuit).share == pytest.approx(1, abs=1e-4)
    for one in circuit:  # and every one of them is needed
        assert faithfulness(runs, circuit.minus([one])).share == pytest.approx(0, abs=1e-4)
    others = runs.parts - circuit.parts
    assert runs.mean(others) == pytest.approx(runs.mean(()), abs=1e-2)
