"""Causal tracing: against forwards with hooks, on circuits set by hand, in other families, refusals."""

from dataclasses import replace

import pytest
import torch
from known_models import LOOKUP, MOVER, lookup_model

import interp
from analyses import ANALYSES
from interp import Hook, Result, Task
from interp.families import FAMILIES
from interp.tracing.noise import adding, draw, spread
from interp.tracing.roles import roles
from interp.tracing.severed import severed_sweep

causal_tracing = ANALYSES["causal_tracing"]
NOISE, SAMPLES, SEED = 3.0, 3, 5
TEXT = [name for name, family in FAMILIES.items() if family.kind == "text"]


@pytest.fixture(scope="module")
def demo():
    return interp.load("demo-lm")


@pytest.fixture(scope="module")
def facts():
    return Task.load("facts", count=2, split="test", asides=0)


@pytest.fixture(scope="module")
def lookup():
    return lookup_model()


@pytest.fixture(scope="module")
def traced(demo, facts):
    return causal_tracing(demo, facts, samples=SAMPLES, window=2, severed=["mlp_out", "attn_out"], seed=SEED,
                          direction="both")  # fmt: skip


class ByHand:
    """One record's runs, written out with plain hooks."""

    def __init__(self, model, task, number):
        record = task[number]
        self.model, self.prompt = model, model.encode([record.prompt] * SAMPLES)
        table = model.hf.get_input_embeddings().weight.detach()
        subjects = [model.encode(one.text("subject")).ids[0, 1:] for one in task]
        every = table[torch.cat(subjects)]
        where = self.prompt.locate([record.text("subject")] * SAMPLES)[0].nonzero().flatten()
        self.places = where.tolist()
        drawn = torch.randn(
            SAMPLES, len(where), table.shape[1], generator=torch.Generator().manual_seed(SEED)
        )
        self.noise = NOISE * float(every.std()) * drawn
        self.answer = model.tokenizer(record.answers[0].strip(), add_special_tokens=False)[
            "input_ids"
        ][0]
        with torch.no_grad():
            self.clean = model.trace(self.prompt, "resid_post", "mlp_out", "attn_out")
            self.corrupted = model.trace(
                self.prompt, "resid_post", "mlp_out", "attn_out", hooks=self.corrupt
            )

    @property
    def corrupt(self):
        def add(value, at):
            value = value.clone()
            value[:, self.places] += self.noise
            return value

        return [Hook("resid_pre", add, layers=[0])]

    def chance(self, hooks):
        with torch.no_grad():
            logits = self.model.logits(self.prompt, hooks=hooks)
        return float(logits[:, -1].softmax(-1)[:, self.answer].mean())

    def put(self, trace, site, layers, place):
        def put(value, at):
            value = value.clone()
            value[:, place] = trace[site, at.layer][:, place]
            return value

        return Hook(site, put, layers=list(layers))

    def effect(self, direction, kind, severed, layers, place):
        denoise = direction == "denoise"
        start = self.corrupt if denoise else []
        take, own = (self.clean, self.corrupted) if denoise else (self.corrupted, self.clean)
        hooks = [*start, self.put(take, kind, layers, place)]
        if severed and layers[-1] < 3:
            hooks.append(self.put(own, severed, range(layers[-1] + 1, 4), place))
        return (self.chance(hooks) - self.chance(start)) * (1 if denoise else -1)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize(
    "kind, severed, layer, layers",
    [
        ("resid_post", "", 1, [1]),
        ("resid_post", "", 3, [3]),
        ("mlp_out", "", 2, [1, 2]),
        ("attn_out", "", 0, [0]),
        ("attn_out", "", 3, [2, 3]),
        ("resid_post", "mlp_out", 0, [0]),
        ("resid_post", "mlp_out", 3, [3]),
        ("resid_post", "attn_out", 1, [1]),
    ],
)
def test_equals_forwards_with_hooks(demo, facts, traced, direction, kind, severed, layer, layers):
    number = 1
    hand = ByHand(demo, facts, number)
    table = traced.tables["positions"]
    own = table[(table["record"] == number) & (table["direction"] == direction) & (table["kind"] == kind)
                & (table["severed"] == severed) & (table["layer"] == layer)]  # fmt: skip
    for place in (*hand.places[1:], hand.prompt.length - 1):
        found = float(own.loc[own["position"] == place, "effect"].iloc[0])
        assert found == pytest.approx(
            hand.effect(direction, kind, severed, layers, place), abs=1e-5
        )
    assert own["effect"].abs().max() > 1e-3 or layer == 3


def test_the_totals_are_those_of_the_runs(demo, facts, traced):
    hand = ByHand(demo, facts, 0)
    row = traced.tables["records"].iloc[0]
    assert row["clean"] == pytest.approx(hand.chance([]), abs=1e-5)
    assert row["corrupted"] == pytest.approx(hand.chance(hand.corrupt), abs=1e-5)
    assert row["total"] == pytest.approx(row["clean"] - row["corrupted"])
    said = hand.corrupted.logits[:, -1].argmax(-1) == hand.answer
    assert row["still"] == pytest.approx(float(said.float().mean()))


def test_roles_are_means_of_positions(traced):
    table, positions = traced.table, traced.tables["positions"]
    for role in ("middle subject tokens", "further tokens"):
        keys = {"direction": "denoise", "kind": "mlp_out", "severed": "", "layer": 0, "role": role}
        own, each = table, positions
        for name, value in keys.items():
            own, each = own[own[name] == value], each[each[name] == value]
        means = each.groupby("record")["effect"].mean()
        assert own["effect"].item() == pytest.approx(means.mean(), abs=1e-6)
        assert own["records"].item() == len(means)
        totals = traced.tables["records"].set_index("record")["total"]
        assert own["share"].item() == pytest.approx(
            means.mean() / totals[means.index].mean(), abs=1e-5
        )


def test_tokens_before_the_subject_do_nothing_and_the_end_everything(traced):
    table = traced.table
    before = table.loc[table["role"] == "before the subject", "effect"]
    assert len(before) and (before == 0).all()
    end = table[
        (table["role"] == "last token") & (table["layer"] == 3) & (table["kind"] == "resid_post")
    ]
    assert len(end) == 6 and end["share"].tolist() == pytest.approx([1] * 6, abs=1e-5)


@pytest.mark.parametrize("corruption", ["noise", "tokens"])
def test_finds_the_lookup_set_by_hand(lookup, corruption):
    settings = {"direction": "both"} if corruption == "tokens" else {}
    result = causal_tracing(
        lookup.model,
        lookup.task,
        corruption=corruption,
        severed="mlp_out",
        window=1,
        batch=8,
        **settings,
    )
    table = result.table
    for direction in dict.fromkeys(table["direction"]):
        own = table[(table["direction"] == direction) & (table["share"].abs() > 0.02)]
        found = {tuple(row) for row in own[["kind", "severed", "layer", "role"]].to_numpy()}
        last, end = "last subject token", "last token"
        stream = {("resid_post", "", layer, last) for layer in range(MOVER[0])}
        stream |= {
            ("resid_post", part, layer, end)
            for layer in range(MOVER[0], 4)
            for part in ("", "mlp_out")
        }
        stream |= {("resid_post", "mlp_out", LOOKUP, last)}  # before it, what looks up is severed
        assert found == stream | {("mlp_out", "", LOOKUP, last), ("attn_out", "", MOVER[0], end)}
        assert own["share"].tolist() == pytest.approx([1] * len(own), abs=0.02)


def test_demo_lm_looks_facts_up_at_the_last_subject_token(demo):
    task = Task.load("facts", count=6, split="test", asides=0)
    table = causal_tracing(demo, task, samples=4, kinds=("resid_post", "mlp_out")).table
    last = table[table["role"] == "last subject token"].set_index(["kind", "layer"])["share"]
    assert (last["resid_post"][:3] > 0.9).all() and abs(last["resid_post"][3]) < 0.01
    assert last["mlp_out"][0] > 0.4 and last["mlp_out"][2] > 0.3 > abs(last["mlp_out"][1])


def test_how_many_run_together_changes_nothing(demo, facts):
    one, other = (
        causal_tracing(demo, facts, samples=2, kinds="mlp_out", batch=batch).table["effect"]
        for batch in (1, 2)
    )
    assert (one - other).abs().max() < 1e-5


def test_without_noise_nothing_is_lost_and_nothing_divided(demo, facts):
    result = causal_tracing(demo, facts[:1], noise=0, samples=2)
    assert result.table["effect"].abs().max() < 1e-6 and result.table["share"].isna().all()
    assert any("nothing was lost" in note for note in result.notes)


def test_only_known_records_are_traced_unless_asked(demo, facts):
    wrong = replace(facts[0], answers=facts[0].wrong, wrong=facts[0].answers)
    mixed = Task("mixed", (wrong, facts[1]))
    result = causal_tracing(demo, mixed, samples=2, kinds="resid_post")
    assert result.tables["records"]["record"].tolist() == [1]
    assert "1 of 2 records were dropped" in result.notes[0]
    every = causal_tracing(demo, mixed, samples=2, kinds="resid_post", known=False)
    assert every.tables["records"]["record"].tolist() == [0, 1]
    with pytest.raises(ValueError, match="answers none of the 1 records right"):
        causal_tracing(demo, mixed[:1])


def test_the_window_is_romes_share_of_the_layers(demo, facts, lookup):
    result = causal_tracing(demo, facts[:1], samples=1)
    assert set(result.table["window"]) == {1} and any("w = 1" in note for note in result.notes)
    wide = causal_tracing(demo, facts[:1], samples=1, window=3, kinds="mlp_out")
    assert set(wide.table["window"]) == {3} and any("w = 3" in note for note in wide.notes)


@pytest.mark.parametrize("name", TEXT)
def test_noise_where_the_first_layer_receives_is_noise_on_embeddings(name):
    family = FAMILIES[name]
    hf = family.model()
    model = interp.wrap(hf)
    prompt = interp.Prompt.from_inputs(model, family.inputs(hf))
    mask = torch.zeros_like(prompt.mask)
    mask[:, 3:5] = True
    found = spread(model, [(prompt, mask)])
    table = hf.get_input_embeddings()
    scaled = float(hf.config.embedding_multiplier) if name == "granite" else 1.0
    assert found.arriving == pytest.approx(found.std * scaled, rel=1e-4)
    assert found.std == pytest.approx(float(table(prompt.ids[mask]).detach().std()), rel=1e-4)
    noise = draw(mask, 1, found.width, NOISE * found.arriving, SEED)
    with torch.no_grad():
        plain = model.logits(prompt)
        hooked = model.logits(prompt, hooks=adding(noise, "text"))
        put = table.register_forward_hook(lambda module, given, value: value + noise / found.factor)
        embedded = model.logits(prompt)
        put.remove()
    assert (hooked - embedded).abs().max() < 1e-5 < (hooked - plain).abs().max()


def test_embeddings_that_are_projected_are_measured_behind_it():
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=32,
                       word_embed_proj_dim=16, max_position_embeddings=32)  # fmt: skip
    model = interp.wrap(OPTForCausalLM(config).eval())
    prompt = model.encode(torch.arange(3, 11)[None])
    mask = prompt.ids == 5
    found = spread(model, [(prompt, mask)])
    received = model.trace(prompt, "resid_pre", layers=[0])["resid_pre", 0][mask]
    assert found.factor is None and found.width == 32
    assert found.arriving == pytest.approx(float(received.detach().std()), rel=1e-4)


def test_roles():
    def named(*places, length=6):
        mask = torch.zeros(length, dtype=torch.bool)
        mask[list(places)] = True
        return [name.split()[0] for name in roles(mask)]

    assert named(1, 2, 3) == ["before", "first", "middle", "last", "first", "last"]
    assert named(1) == ["before", "last", "first", "further", "further", "last"]
    assert named(4, 5) == ["before"] * 4 + ["first", "last"]
    assert named(0, 2) == ["first", "further", "last", "first", "further", "last"]
    with pytest.raises(ValueError, match="no subject"):
        named()


def test_severing_goes_layer_by_layer(demo, facts):
    """Nothing is held after the last layer, and nothing happens without a state that differs."""
    prompt = facts[:1].encode(demo)
    trace = demo.trace(prompt, "resid_post")
    metric = interp.metrics.logit(5).bind(demo, prompt)
    assert not severed_sweep(demo, prompt, trace, "mlp_out", metric).any()


def test_refusals(demo, facts):
    for settings, error, match in (
        ({"kinds": "z"}, LookupError, "kinds= takes: resid_pre"),
        ({"kinds": []}, ValueError, "name one at least"),
        (
            {"subject": "person"},
            LookupError,
            "record 0 has no span 'person'.*Its spans: subject, relation",
        ),
        ({"severed": "mlp_out", "kinds": "attn_out"}, ValueError, "goes with single states"),
        ({"severed": "z"}, LookupError, "part to sever"),
        ({"window": 0}, ValueError, "window=0"),
        ({"window": 2, "kinds": "resid_post"}, ValueError, "window=2 is of"),
        ({"samples": 0}, ValueError, "samples=0"),
        ({"noise": -1.0}, ValueError, "noise=-1.0"),
        ({"corruption": "words"}, LookupError, "no corruption 'words'"),
        ({"corruption": "tokens", "samples": 4}, ValueError, "of corruption='noise'"),
        ({"direction": "back"}, LookupError, "no direction 'back'"),
        ({"metric": "kl"}, LookupError, "no metric 'kl'"),
    ):
        with pytest.raises(error, match=match):
            causal_tracing(demo, facts, **settings)
    longer = replace(facts[0], counterfactual=facts[0].counterfactual + " the")
    with pytest.raises(ValueError, match="prompts of equal length"):
        causal_tracing(demo, Task("longer", (longer,)), corruption="tokens")
    with pytest.raises(TypeError, match="give a Task"):
        causal_tracing(demo, facts.encode(demo))
    with pytest.raises(ValueError, match="no answers"):
        causal_tracing(demo, Task("mute", (replace(facts[0], answers=()),)))
    with pytest.raises(ValueError, match="has no answer to trace"):
        causal_tracing(interp.load("demo-vit"), facts)


def test_killed_runs_go_on(demo, facts, tmp_path):
    settings = {
        "samples": 2,
        "kinds": ("resid_post",),
        "severed": "mlp_out",
        "save": str(tmp_path / "s"),
    }
    first = causal_tracing(demo, facts[:1], **settings)
    chunks = sorted((tmp_path / "s").rglob("*.npy"))
    assert len({chunk.parent for chunk in chunks}) == 2
    again = causal_tracing(demo, facts[:1], **settings)
    assert again.table.equals(first.table)


def test_saved_results_load_and_draw(traced, tmp_path):
    result = Result.load(traced.save(tmp_path / "traced"))
    assert result.table.equals(traced.table)
    figure = result.figure(record=1, direction="noise")
    means, single = figure.data[0], figure.data[5]
    assert len(figure.data) == 10 and len(means.x) == 4
    assert (
        sum("*" in name for name in (row[0] for row in single.customdata)) == 3
    )  # the subject's tokens
    positions = result.tables["positions"]
    own = positions[(positions["record"] == 1) & (positions["direction"] == "noise")]
    own = own[(own["kind"] == "resid_post") & (own["severed"] == "") & (own["layer"] == 2)]
    assert [row[2] for row in single.z] == pytest.approx(own["effect"].tolist())
    with pytest.raises(LookupError, match="no record 9"):
        result.figure(record=9)
