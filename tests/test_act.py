"""ACT against loops written from its formulas, by hand, and on models."""

import itertools

import pytest
import torch

import interp
from interp.families import FAMILIES
from interp.interventions import ACT
from interp.live import Run
from interp.responses import respond
from interp.sites import At
from interp.steering.found import Found

GREEDY = {"max_new_tokens": 6, "do_sample": False}
STRONG = {"beta": 0.0, "alpha": 0.0, "least_rows": 1}


def opened(name="llama", batch=1, length=12):
    family = FAMILIES[name]
    hf = family.model()
    hf.generation_config.eos_token_id = None
    model = interp.wrap(hf)
    return model, interp.Prompt.from_inputs(model, family.inputs(hf, batch=batch, length=length))


def padded(model, prompt, row=1, width=3):
    ids, mask = prompt.ids.clone(), torch.ones_like(prompt.ids)
    ids[row, :width], mask[row, :width] = 0, 0
    return interp.Prompt.from_inputs(model, {"input_ids": ids, "attention_mask": mask})


@pytest.fixture(scope="module")
def llama():
    return opened(batch=2)


# The formulas, in loops over numbers; a map [query][key] of the tokens of one text alone.


def sinks_of(weights, threshold, alpha, least_rows, official):
    count = len(weights)
    limit = alpha / count if threshold is None else threshold
    found = []
    for k in range(count):
        column = [float(weights[q][k]) for q in range(k, count)]
        if sum(column) / (count - k) > limit and count - k >= least_rows:
            found.append(k)
    return found[1:] if official else [k for k in found if k != 0]


def calibrated(row, sinks, beta, first_receives):
    """One row, whose keys from the last of the prompt on are tokens that are written."""
    row = [float(weight) for weight in row]
    receivers = [k for k in range(len(row)) if k not in sinks and (first_receives or k != 0)]
    held = sum(row[k] for k in receivers)
    if held == 0:
        return row
    freed = (1 - beta) * sum(row[k] for k in sinks)
    changed = list(row)
    for k in sinks:
        changed[k] = beta * row[k]
    for k in receivers:
        changed[k] = row[k] + freed * row[k] / held
    return changed


def expected(pattern, prompt, settings, official=False):
    """A whole pattern [batch, head, query, key], of the prompt and perhaps of what is written."""
    full = {"beta": 0.4, "alpha": 5.0, "threshold": None, "first_receives": True, "decode": False}
    full |= {"least_rows": 4} | ({"least_rows": 1, "threshold": 0.1} if official else {}) | settings
    after = pattern.clone()
    for b, head in itertools.product(range(pattern.shape[0]), range(pattern.shape[1])):
        real = prompt.mask[b].nonzero().flatten().tolist()
        here = [[pattern[b, head, q, k] for k in real] for q in real]
        found = sinks_of(here, full["threshold"], full["alpha"], full["least_rows"], official)
        keys = [*real, *range(prompt.length, pattern.shape[-1])]
        later = range(prompt.length, pattern.shape[2]) if full["decode"] else []
        for q in [*real, *later]:
            row = [pattern[b, head, q, k] for k in keys]
            changed = calibrated(row, found, full["beta"], full["first_receives"])
            after[b, head, q, keys] = torch.tensor(changed, dtype=pattern.dtype)
    return after


def random_pattern(prompt, seed=0, heads=3, more=0, loud=2.0):
    """Causal, sharp, some columns seen by many; float64. `more` rows are written after the prompt."""
    generator = torch.Generator().manual_seed(seed)
    length = prompt.length + more
    scores = torch.randn(len(prompt), heads, length, length, generator=generator).double()
    scores += loud * torch.randn(len(prompt), heads, 1, length, generator=generator)
    mask = torch.cat([prompt.mask, torch.ones(len(prompt), more).bool()], 1)
    seen = torch.ones(length, length).tril().bool() & mask[:, None, None]
    return torch.softmax(scores.masked_fill(~seen, -1e9), -1) * mask[:, None, :, None]


class By:
    """The hook of one plan, called by hand: a run of one layer."""

    def __init__(self, method, model, prompt):
        (self.hook,) = method.plan(model, prompt)[1]
        self.memo, self.run = {}, Run()

    def pattern(self, value, first=0):
        """As a hook sees it that is shown rows up to `within`."""
        stop = self.hook.within[1]
        part = value if stop is None else value[:, :, : stop - first]
        at = At("pattern", "text", 2, first, 0, True, self.memo, self.run)
        changed = self.hook.fn(part, at)
        return changed if stop is None else torch.cat([changed, value[:, :, stop - first :]], 2)


def lone(model, length):
    return interp.Prompt.from_inputs(model, {"input_ids": torch.arange(11, 11 + length)[None]})


def test_a_map_by_hand(llama):
    model, _ = llama
    rows = [[1, 0, 0, 0], [0.4, 0.6, 0, 0], [0.3, 0.5, 0.2, 0], [0.4, 0.3, 0.2, 0.1]]
    pattern = torch.tensor(rows).view(1, 1, 4, 4)
    # Means of the columns: .525, .4667, .2, .1; above .45 is the second, beside the first token.
    run = By(ACT(threshold=0.45, least_rows=3, layers=[2]), model, lone(model, 4))
    changed = run.pattern(pattern)[0, 0]
    by_hand = [
        [1, 0, 0, 0],
        [0.76, 0.24, 0, 0],
        [0.48, 0.2, 0.32, 0],
        [0.4 + 0.18 * 4 / 7, 0.12, 0.2 + 0.18 * 2 / 7, 0.1 + 0.18 / 7],
    ]
    assert torch.allclose(changed, torch.tensor(by_hand), atol=1e-6)
    assert torch.allclose(changed.sum(-1), torch.ones(4), atol=1e-6)


def test_most_of_what_is_freed_goes_to_a_first_token_that_dominates(llama):
    model, _ = llama
    pattern = torch.zeros(1, 1, 8, 8)
    pattern[..., 0], pattern[..., 1] = 0.908, 0.032
    for q in range(8):
        rest = pattern[0, 0, q, 2 : q + 1]
        rest += 0.06 / max(1, len(rest))
        pattern[0, 0, q] /= pattern[0, 0, q].where(torch.arange(8) <= q, torch.tensor(0.0)).sum()
    pattern = pattern.tril()
    row = By(ACT(threshold=0.03, layers=[2]), model, lone(model, 8)).pattern(pattern)[0, 0, 7]
    assert abs(pattern[0, 0, 7, 0] - 0.908) < 1e-6 and abs(row[0] - 0.926) < 1e-4
    assert abs(row.sum() - 1) < 1e-6
    other = ACT(threshold=0.03, layers=[2], first_receives=False)
    row = By(other, model, lone(model, 8)).pattern(pattern)[0, 0, 7]
    assert row[0] == pattern[0, 0, 7, 0] and abs(row.sum() - 1) < 1e-6


GRID = [
    {"beta": beta, "first_receives": receives, "decode": decode, **limit, **least}
    for beta, receives, decode, limit, least in itertools.product(
        [0.0, 0.4, 0.9],
        [True, False],
        [True, False],
        [{}, {"alpha": 2.0}, {"threshold": 0.1}, {"threshold": 0.0}, {"threshold": 1.0}],
        [{}, {"least_rows": 1}],
    )
]


@pytest.mark.parametrize("how", ["whole", "padded"])
def test_every_setting_is_as_the_formulas_say(llama, how):
    model, prompt = llama
    prompt = padded(model, prompt) if how == "padded" else prompt
    pattern, moved = random_pattern(prompt, more=3), 0
    for settings, official in itertools.product(GRID, [False, True]):
        method = ACT(**settings, official=official, layers=[2])
        changed = By(method, model, prompt).pattern(pattern)
        reference = expected(pattern, prompt, settings, official)
        assert (changed - reference).abs().max() < 1e-9, (settings, official)
        assert (changed.sum(-1) - pattern.sum(-1)).abs().max() < 1e-9
        assert bool((changed[pattern == 0] == 0).all())
        moved += int((changed != pattern).any())
    assert moved > len(GRID)


def test_the_code_drops_a_sink_that_is_not_the_first_token(llama):
    """Without the first token among them the first found is no sink to the code, but it is one here."""
    model, _ = llama
    pattern = torch.full((1, 1, 10, 10), 0.01).tril()
    pattern[..., 4:, 3] = 0.5
    pattern[0, 0, range(10), range(10)] += 1 - pattern.sum(-1)[0, 0]
    pattern[..., 0, 0] = 1
    settings = {"threshold": 0.3, "layers": [2], "least_rows": 4}
    changed = By(ACT(**settings), model, lone(model, 10)).pattern(pattern)
    dropped = By(ACT(**settings, official=True), model, lone(model, 10)).pattern(pattern)
    assert changed[0, 0, 9, 3] == pytest.approx(0.2) and torch.equal(dropped, pattern)


def test_steps_take_the_sinks_of_the_prompt(llama):
    model, prompt = llama
    prompt = padded(model, prompt)
    whole = random_pattern(prompt, more=4)
    once = By(ACT(decode=True, layers=[2]), model, prompt).pattern(whole)
    run = By(ACT(decode=True, layers=[2]), model, prompt)
    length = prompt.length
    pieces = [run.pattern(whole[:, :, :length, :length])]
    for q in range(length, length + 4):
        pieces.append(run.pattern(whole[:, :, q : q + 1, : q + 1], first=q))
    assert torch.allclose(once[:, :, :length, :length], pieces[0], atol=1e-12)
    for q, piece in zip(range(length, length + 4), pieces[1:], strict=True):
        assert torch.allclose(once[:, :, q : q + 1, : q + 1], piece, atol=1e-12)
    far = torch.softmax(torch.randn(2, 3, 1, length + 400).double(), -1)
    assert torch.allclose(
        run.pattern(far, first=length + 399).sum(-1), torch.ones(2, 3, 1).double()
    )


def test_half_precision_keeps_the_sum_of_a_row(llama):
    model, prompt = llama
    pattern = random_pattern(prompt, loud=4.0)
    for dtype in (torch.float16, torch.bfloat16):
        half = pattern.to(dtype)
        changed = By(ACT(layers=[2], alpha=2.0), model, prompt).pattern(half)
        assert changed.dtype == dtype and not torch.equal(changed, half)
        assert (changed.float().sum(-1) - half.float().sum(-1)).abs().max() < 8e-3


# In models.


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_oss", "gemma3", "llava"])
@pytest.mark.parametrize("settings", [{"alpha": 1.5}, {"threshold": 0.2, "first_receives": False}])
def test_one_layer_of_a_model_is_calibrated_so(name, settings):
    model, prompt = opened(name, batch=2)
    within = 1e-6
    if name != "gpt_oss":  # its experts know no float64
        within = 1e-9
        model.hf.double()
        for key, value in prompt.inputs.items():
            prompt.inputs[key] = value.double() if value.is_floating_point() else value
    with torch.no_grad():
        plain = model.trace(prompt, "pattern", layers=[2], stack="text")["pattern", 2]
        using = ACT(**settings, layers=[2])
        edited = model.trace(prompt, "pattern", layers=[2], stack="text", using=using)["pattern", 2]
    reference = expected(plain, prompt, settings)
    assert (edited - reference).abs().max() < within
    assert (reference - plain).abs().max() > 1e-3


def test_only_the_heads_that_are_named(llama):
    model, prompt = llama
    given = [(1, 3), (2, 0), (2, 3)]
    findings = Found.on(model, "heads", given)
    for heads in (given, ["1.3", "2.0", "2.3"], {1: [3], 2: [0, 3]}, findings):
        using = ACT(**STRONG, heads=heads)
        trace = model.trace(prompt, "scores", "pattern", using=using)
        for layer, head in itertools.product(range(4), range(4)):
            before = torch.softmax(trace["scores", layer][:, head], -1)
            changed = (trace["pattern", layer][:, head] - before).abs().max() > 1e-3
            assert changed == ((layer, head) in given), (heads, layer, head)
    with pytest.raises(ValueError, match="found on"):
        other = interp.wrap(FAMILIES["llama"].model(seed=1))
        ACT(heads=findings).plan(other, prompt)


def test_the_default_layers(llama):
    model, prompt = llama
    assert list(ACT().plan(model, prompt)[1][0].layers) == [2]
    with pytest.raises(ValueError, match="give one of both"):
        ACT(heads=[(1, 1)], layers=[1]).plan(model, prompt)


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("name", ["llama", "gemma2", "llava"])
def test_cached_uncached_and_one_shot_agree(name, decode):
    model, prompt = opened(name, batch=2)
    if name == "llava":
        model.hf.generation_config.suppress_tokens = [model.config.image_token_id]
    using = ACT(beta=0.2, alpha=1.2, least_rows=2, layers=[1, 2], decode=decode)
    ids = model.generate(prompt, using=using, **GREEDY)
    assert torch.equal(model.generate(prompt, using=using, use_cache=False, **GREEDY), ids)
    assert torch.equal(
        model.generate(prompt, using=using, cache_implementation="static", **GREEDY), ids
    )
    kept = {"output_logits": True, "return_dict_in_generate": True}
    steps = torch.stack(model.generate(prompt, using=using, **GREEDY, **kept).logits, 1)
    whole = respond(model, prompt, ids[:, prompt.length :])
    shot = model.logits(whole, using=using)[:, prompt.length - 1 : -1]
    assert (shot - steps).abs().max() < 1e-4
    plain = model.logits(whole)[:, prompt.length - 1 : -1]
    assert (shot - plain).abs().max() > 1e-3
    assert model.generate(prompt, using=using, num_beams=3, **GREEDY).shape == ids.shape


def test_a_padded_row_is_calibrated_as_it_is_alone(llama):
    model, prompt = llama
    gap = 3
    both = padded(model, prompt, 1, gap)
    alone = interp.Prompt.from_inputs(model, {"input_ids": prompt.ids[1:, gap:]})
    for settings in ({"alpha": 1.5}, {"official": True}, {"first_receives": False, "alpha": 1.0}):
        using = ACT(**settings, layers=[1, 2, 3])
        apart = model.logits(alone, using=using)[0]
        together = model.logits(both, using=using)[1, gap:]
        assert (apart - together).abs().max() < 1e-4
        assert (apart - model.logits(alone)[0]).abs().max() > 1e-3


def test_inert_settings_plan_nothing(llama):
    model, prompt = llama
    assert ACT.inert().plan(model, prompt) == (prompt, [])
    assert ACT(heads=[(1, 2)]).inert.plan(model, prompt) == (prompt, [])
    moved = model.logits(prompt, using=ACT.strong) - model.logits(prompt)
    assert moved.abs().max() > 1e-3


# Wrong use.


@pytest.mark.parametrize(
    "settings", [{"beta": 1.2}, {"beta": "a"}, {"alpha": -1}, {"alpha": True}, {"threshold": 2},
                 {"least_rows": 0}, {"least_rows": 1.5}, {"decode": 1}, {"first_receives": "no"},
                 {"threshold": 0.1, "alpha": 3.0}, {"official": None}]
)  # fmt: skip
def test_settings_are_checked(settings):
    with pytest.raises((ValueError, TypeError), match=next(iter(settings))):
        ACT(**settings)


def test_what_it_cannot_act_on_is_refused(llama):
    model, prompt = llama
    with pytest.raises(ValueError, match="no prefill_chunk_size"):
        model.generate(prompt, using=ACT(), prefill_chunk_size=5, **GREEDY)
    with pytest.raises(ValueError, match=r"a head is \(layer, head\)"):
        ACT(heads=["2-1"]).plan(model, prompt)
    with pytest.raises(IndexError, match="head 7 is out of range"):
        ACT(heads=[(2, 7)]).plan(model, prompt)
    encoder = interp.wrap(FAMILIES["bert"].model())
    with pytest.raises(ValueError, match="decoder-only or vision-language"):
        ACT().plan(encoder, encoder.encode([[1, 2, 3]]))
    shallow = interp.wrap(FAMILIES["llama"].model())
    del shallow.stacks["text"].layers[3], shallow.stacks["text"].layers[2]
    with pytest.raises(ValueError, match=r"this stack has 2: name the layers, ACT\(layers=\[1\]\)"):
        ACT().plan(shallow, prompt)


def test_a_cache_from_before_is_refused(llama):
    model, prompt = llama
    with torch.no_grad():
        cache = model.hf(prompt.ids, use_cache=True).past_key_values
    later = {"input_ids": prompt.ids[:, :4], "past_key_values": cache}
    with model.using(ACT()), pytest.raises(ValueError, match="no cache of an earlier turn"):
        model.hf(**later)
