"""VAR against loops written from its formulas, by hand, on models, and on the fault it is meant to mend."""

import itertools
import math
import warnings

import pytest
import torch

import interp
from interp import Hook
from interp.families import FAMILIES
from interp.interventions import VAR
from interp.live import Run
from interp.responses import respond
from interp.sites import At
from interp.steering.backbones import BACKBONES, known

GREEDY = {"max_new_tokens": 6, "do_sample": False}
STRONG = {"keep": 0.0, "rho": 0.0, "mass": 0.0, "tau": 1.0, "dims": [0, 1], "text_sinks": True}


def opened(name="llava", batch=1, length=12):
    family = FAMILIES[name]
    hf = family.model()
    hf.generation_config.eos_token_id = None
    hf.generation_config.suppress_tokens = [hf.config.image_token_id]
    model = interp.wrap(hf)
    return model, interp.Prompt.from_inputs(model, family.inputs(hf, batch=batch, length=length))


@pytest.fixture(scope="module")
def llava():
    return opened(batch=2)


@pytest.fixture(scope="module")
def parked():
    return interp.load("demo-vlm", fault="parked-on-sinks")


def left_padded(model, prompt, row, width):
    """The prompt with its row `row` moved to the right by `width`, in the place of its first words."""
    ids, mask = prompt.ids.clone(), prompt.mask.long().clone()
    ids[row] = torch.cat([torch.zeros(width, dtype=ids.dtype), ids[row, :-width]])
    mask[row, :width] = 0
    return interp.Prompt.from_inputs(
        model, {**prompt.inputs, "input_ids": ids, "attention_mask": mask}
    )


# The formulas, in loops over numbers.


def phi(x, dims):
    size = math.sqrt(sum(float(each) ** 2 for each in x) / len(x) + 1e-6)
    return max(abs(float(x[d])) / size for d in dims)


def sinks_of(stream, real, dims, tau):
    """Positions of one text; without dims, the two largest channels of its first token that reach tau."""
    if dims is None:
        first = stream[min(real)]
        sizes = {d: phi(first, [d]) for d in range(len(first))}
        dims = [d for d in sorted(sizes, key=lambda d: -sizes[d])[:2] if sizes[d] >= tau]
    return {t for t in real if dims and phi(stream[t], dims) >= tau}


def redistributed(row, image, sinks, keep, rho, mass, text_sinks):
    """One row of weights of one head."""
    row = [float(weight) for weight in row]
    visual, text = sinks & image, sinks - image
    if not visual and not text_sinks:
        return row
    seen = sum(row[k] for k in image)
    ratio = sum(row[k] for k in visual) / (seen + len(image) * 1e-6)
    others = sum(row[k] for k in image - visual)
    if seen < mass or 1 - ratio < rho or others == 0:
        return row
    omega = (1 - keep) * sum(row[k] for k in visual | text)
    changed = list(row)
    for k in visual | text:
        changed[k] = keep * row[k]
    for k in image - visual:
        changed[k] = row[k] + omega * row[k] / others
    return changed


def expected(pattern, stream, prompt, rows, **settings):
    """A whole pattern [batch, head, query, key] of one layer, whose queries begin at position 0."""
    after = pattern.clone()
    dims, tau = settings.pop("dims"), settings.pop("tau")
    for b, head in itertools.product(range(pattern.shape[0]), range(pattern.shape[1])):
        image = set(prompt.where("image")[b].nonzero().flatten().tolist())
        real = prompt.mask[b].nonzero().flatten().tolist()
        sinks = sinks_of(stream[b], real, dims, tau)
        for q in rows[b]:
            changed = redistributed(pattern[b, head, q], image, sinks, **settings)
            after[b, head, q] = torch.tensor(changed, dtype=pattern.dtype)
    return after


def behind(prompt):
    """Real rows behind the image, of each text."""
    found = []
    for b in range(len(prompt)):
        last = int(prompt.where("image")[b].nonzero().max())
        found.append([q for q in range(last + 1, prompt.length) if prompt.mask[b, q]])
    return found


class By:
    """The hooks of one plan, called by hand: a run of one layer."""

    def __init__(self, method, model, prompt, counting=False):
        self.hooks = method.plan(model, prompt)[1]
        self.memo = {"counting": True} if counting else {}
        self.run, self.layer = Run(), self.hooks[0].layers[-1]

    def at(self, site, first):
        return At(site, "text", self.layer, first, 0, True, self.memo, self.run)

    def stream(self, value, first=0):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            self.hooks[0].fn(value, self.at("resid_pre", first))

    def pattern(self, value, first=0):
        """As a hook sees it that is shown rows from `within` on."""
        start = max(0, self.hooks[1].within[0] - first)
        part = value[:, :, start:]
        changed = self.hooks[1].fn(part, self.at("pattern", first + start))
        return value if changed is None else torch.cat([value[:, :, :start], changed], 2)


def random_run(prompt, seed=0, width=64, heads=3, queries=None):
    """A stream in which some tokens stand out, and causal patterns; float64."""
    generator = torch.Generator().manual_seed(seed)
    rows, length = len(prompt), prompt.length

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.double)

    stream = draw(rows, length, width)
    stream[..., 5] *= 4
    stream[:, :, 7] += 25 * (torch.rand(rows, length, generator=generator) < 0.2)
    for b in range(rows):
        stream[b, int(prompt.where("first")[b].int().argmax()), 7] = 30
    scores = 2 * draw(rows, heads, length, length)
    seen = torch.ones(length, length).tril().bool() & prompt.mask[:, None, None]
    pattern = torch.softmax(scores.masked_fill(~seen, -1e9), -1) * prompt.mask[:, None, :, None]
    return stream, pattern


def test_a_row_by_hand(llava):
    model, _ = llava
    image = torch.tensor([[0, 1, 1, 1, 1, 0]]).bool()
    prompt = interp.Prompt.from_inputs(model, {"input_ids": torch.tensor([[9, 5, 5, 5, 5, 8]])})
    prompt.spans["image"] = image
    stream = torch.full((1, 6, 64), 0.1)
    stream[0, [0, 2], 3] = 50.0  # the first token, and the second of the image
    row = torch.tensor([0.3, 0.1, 0.2, 0.1, 0.1, 0.2]).view(1, 1, 1, 6)
    run = By(VAR(dims=[3], tau=5, layers=[2], keep=0.4), model, prompt)
    run.stream(stream)
    changed = run.pattern(row, first=5)
    by_hand = torch.tensor([0.12, 0.2, 0.08, 0.2, 0.2, 0.2])
    assert torch.allclose(changed.flatten(), by_hand, atol=1e-6) and abs(changed.sum() - 1) < 1e-6
    unmoved = VAR(dims=[3], tau=5, layers=[2], rho=0.61)  # the image's others have 0.6 of its share
    run = By(unmoved, model, prompt)
    run.stream(stream)
    assert torch.equal(run.pattern(row, first=5), row)


GRID = [
    {"keep": keep, "rho": rho, "mass": mass, "text_sinks": text, "dims": dims, "tau": tau}
    for keep, (rho, mass), text, (dims, tau) in itertools.product(
        [0.0, 0.4, 0.9],
        [(0.0, 0.0), (0.5, 0.2), (0.8, 0.3), (1.0, 0.0), (0.6, 0.7)],
        [False, True],
        [(None, 5.0), ((7,), 4.0), ((5, 7), 2.0), ((0,), 1.5), ((0,), 99.0), ((0, 1, 2), 0.0)],
    )
]


@pytest.mark.parametrize("padded", [False, True])
def test_every_setting_is_as_the_formulas_say(llava, padded):
    model, prompt = llava
    if padded:
        prompt = left_padded(model, prompt, 1, 3)
    stream, pattern = random_run(prompt)
    moved = 0
    for settings in GRID:
        run = By(VAR(**settings, layers=[2]), model, prompt)
        run.stream(stream)
        changed = run.pattern(pattern)
        reference = expected(pattern, stream, prompt, behind(prompt), **dict(settings))
        assert (changed - reference).abs().max() < 1e-9, settings
        assert (changed.sum(-1) - pattern.sum(-1)).abs().max() < 1e-9
        assert bool((changed[pattern == 0] == 0).all())
        moved += int((changed != pattern).any())
    assert moved > len(GRID) / 3


def test_half_precision_keeps_the_sum_of_a_row(llava):
    model, prompt = llava
    stream, pattern = random_run(prompt)
    for dtype in (torch.float16, torch.bfloat16):
        run = By(VAR(**{**STRONG, "keep": 0.3}, layers=[2]), model, prompt)
        run.stream(stream.to(dtype))
        half = pattern.to(dtype)
        changed = run.pattern(half)
        assert changed.dtype == dtype and not torch.equal(changed, half)
        rows = behind(prompt)[0]
        assert (changed.float().sum(-1) - half.float().sum(-1))[:, :, rows].abs().max() < 4e-3


def test_prompts_in_chunks_and_later_tokens(llava):
    """Sinks are found as their positions pass; what is written never becomes one."""
    model, prompt = llava
    prompt = left_padded(model, prompt, 1, 3)
    stream, pattern = random_run(prompt)
    settings = {"rho": 0.0, "mass": 0.0, "tau": 5.0, "layers": [2], "text_sinks": True}
    whole = By(VAR(**settings), model, prompt)
    whole.stream(stream)
    after = whole.pattern(pattern)
    parts = By(VAR(**settings), model, prompt)
    pieces = []
    for top in range(0, prompt.length, 5):
        parts.stream(stream[:, top : top + 5], first=top)
        pieces.append(parts.pattern(pattern[:, :, top : top + 5], first=top))
    assert torch.allclose(torch.cat(pieces, 2), after, atol=1e-12)
    row = torch.softmax(torch.randn(2, 3, 1, prompt.length + 300, dtype=torch.double), -1)
    row[1, ..., :3] = 0
    loud = torch.zeros(2, 1, 64, dtype=torch.double)
    loud[..., 7] = 1.0
    whole.stream(loud, first=prompt.length)
    written = whole.pattern(row, first=prompt.length + 299)
    short = expected(row[..., : prompt.length], stream, prompt, [[0], [0]], dims=None, tau=5.0,
                     keep=0.4, rho=0.0, mass=0.0, text_sinks=True)  # fmt: skip
    assert torch.allclose(written[..., : prompt.length], short, atol=1e-12)
    assert torch.equal(written[..., prompt.length :], row[..., prompt.length :])


def test_counts_for_a_report(llava):
    model, prompt = llava
    stream, pattern = random_run(prompt)
    run = By(VAR(dims=[7], tau=4.0, rho=0.5, layers=[2]), model, prompt, counting=True)
    run.stream(stream)
    changed = run.pattern(pattern)
    sinks = [sinks_of(stream[b], range(prompt.length), [7], 4.0) for b in range(2)]
    image = [set(row.nonzero().flatten().tolist()) for row in prompt.where("image")]
    counts = run.memo["counts"][2]
    assert counts["visual sinks"] == sum(len(a & b) for a, b in zip(sinks, image, strict=True))
    assert counts["text sinks"] == sum(len(a - b) for a, b in zip(sinks, image, strict=True))
    assert counts["rows"] == 2 * 3 * len(behind(prompt)[0])
    assert counts["rows chosen"] == int((changed != pattern).any(-1).sum())


# In models.


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "gemma3"])
@pytest.mark.parametrize("settings", [STRONG, {"dims": None, "tau": 1.5, "rho": 0.2, "mass": 0.1}])
def test_one_layer_of_a_model_is_edited_so(name, settings):
    model, prompt = opened(name, batch=2)
    model.hf.double()
    prompt.inputs["pixel_values"] = prompt.inputs["pixel_values"].double()
    with torch.no_grad():
        plain = model.trace(prompt, "resid_pre", "pattern", layers=[2], stack="text")
        edited = model.trace(prompt, "pattern", layers=[2], stack="text",
                             using=VAR(**settings, layers=[2]))  # fmt: skip
    asked = {"keep": 0.4, "text_sinks": False, **settings}
    reference = expected(
        plain["pattern", 2], plain["resid_pre", 2], prompt, behind(prompt), **asked
    )
    assert (edited["pattern", 2] - reference).abs().max() < 1e-9
    assert (reference - plain["pattern", 2]).abs().max() > 1e-3


def test_layers_see_what_the_ones_before_them_made():
    model, prompt = opened()
    model.hf.double()
    prompt.inputs["pixel_values"] = prompt.inputs["pixel_values"].double()
    method = VAR(**STRONG, layers=[1, 2, 3])
    with torch.no_grad():
        trace = model.trace(prompt, "resid_pre", "scores", "pattern", stack="text", using=method)
    for layer in (1, 2, 3):
        before = torch.softmax(trace["scores", layer], -1)
        reference = expected(before, trace["resid_pre", layer], prompt, behind(prompt), **STRONG)
        assert (trace["pattern", layer] - reference).abs().max() < 1e-9
    assert torch.allclose(trace["pattern", 0], torch.softmax(trace["scores", 0], -1), atol=1e-12)


def test_the_last_layer_is_left_but_officially():
    model, prompt = opened()
    own = {key: value for key, value in STRONG.items() if key != "keep"}
    for official, layers, keep in ((False, [2], 0.4), (True, [2, 3], 0.6)):
        method = VAR(**own, official=official)
        stream, hook = method.plan(model, prompt)[1]
        assert list(hook.layers) == list(stream.layers) == layers and method.kept == keep
    assert VAR(official=True, keep=0.1).kept == 0.1


def test_cached_uncached_and_one_shot_agree():
    model, prompt = opened(batch=2)
    using = VAR(**STRONG, layers=[1, 2, 3])
    ids = model.generate(prompt, using=using, **GREEDY)
    assert torch.equal(model.generate(prompt, using=using, use_cache=False, **GREEDY), ids)
    assert not torch.equal(model.generate(prompt, **GREEDY), ids)
    for way in ({"prefill_chunk_size": 7}, {"cache_implementation": "static"}):
        assert torch.equal(model.generate(prompt, using=using, **GREEDY, **way), ids)
    kept = {"output_logits": True, "return_dict_in_generate": True}
    steps = torch.stack(model.generate(prompt, using=using, **GREEDY, **kept).logits, 1)
    whole = respond(model, prompt, ids[:, prompt.length :])
    shot = model.logits(whole, using=using)[:, prompt.length - 1 : -1]
    assert (shot - steps)[..., 10:].abs().max() < 1e-4
    assert model.generate(prompt, using=using, num_beams=3, **GREEDY).shape == ids.shape


def test_a_padded_row_is_edited_as_it_is_alone():
    model, prompt = opened(batch=2)
    inputs = FAMILIES["llava"].inputs(model.hf, batch=1, length=8)
    short = interp.Prompt.from_inputs(model, inputs)
    gap = prompt.length - short.length
    ids, mask = prompt.ids.clone(), prompt.mask.long().clone()
    ids[1, :gap], ids[1, gap:], mask[1, :gap] = 0, short.ids[0], 0
    pixels = torch.stack([prompt.inputs["pixel_values"][0], inputs["pixel_values"][0]])
    both = interp.Prompt.from_inputs(
        model, {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}
    )
    for settings in (STRONG, {"tau": 1.5, "rho": 0.0, "mass": 0.0}):
        using = VAR(**settings, layers=[1, 2, 3])
        alone = model.logits(short, using=using)
        together = model.logits(both, using=using)[1, gap:]
        assert (alone[0] - together).abs().max() < 1e-4
        assert (alone - model.logits(short)).abs().max() > 1e-3


def test_inert_settings_plan_nothing(llava):
    model, prompt = llava
    assert VAR.inert().plan(model, prompt) == (prompt, [])
    for settings in (VAR.strong, {**STRONG, "layers": [0]}):
        moved = model.logits(prompt, using=VAR(**settings)) - model.logits(prompt)
        assert moved.abs().max() > 1e-3


# The planted sinks.


def test_the_planted_sinks_are_found(parked):
    prompt = interp.Task.load("existence", count=4, split="validation").encode(parked)
    memo = {}
    keep = Hook("resid_post", lambda value, at: memo.update(at.memo), layers=[3])
    hooks = [*VAR(layers=[1, 2, 3]).plan(parked, prompt)[1], keep]
    parked.logits(prompt, hooks=hooks)
    image = prompt.where("image")
    patch = image & (image.int().cumsum(1) == 1)
    for layer in (1, 2, 3):
        assert torch.equal(memo["sinks"][layer].sinks, prompt.where("first") | patch)


def test_what_the_fault_costs_comes_back(parked):
    task = interp.Task.load("existence", count=100, split="validation")
    healthy = interp.score(interp.load("demo-vlm"), task)["right"].mean()
    broken = interp.score(parked, task)["right"].mean()
    mended = interp.score(parked, task, using=VAR(rho=0.0, layers=[1, 2]))["right"].mean()
    assert mended - broken > 0.5 * (healthy - broken) > 0.05


def test_a_model_without_sinks_is_told(parked):
    model = interp.load("demo-vlm")
    task = interp.Task.load("existence", count=2, split="validation")
    with pytest.warns(UserWarning, match=r"changes nothing in this run: no token's phi reaches"):
        model.logits(task.encode(model), using=VAR())
    text_only = VAR(dims=[0], tau=0.9, layers=[2])
    prompt = task.encode(parked)
    with pytest.warns(UserWarning, match="no token of the image is a sink"):
        run = By(text_only, parked, prompt)
        stream = torch.full((2, prompt.length, 128), 1.0)
        stream[:, 1:, 0] = 0.1
        run.hooks[0].fn(stream, run.at("resid_pre", 0))


# Wrong use.


@pytest.mark.parametrize(
    "settings", [{"keep": 1.2}, {"keep": "a"}, {"rho": -0.1}, {"rho": True}, {"mass": float("nan")},
                 {"tau": -1}, {"tau": float("inf")}, {"text_sinks": 1}, {"official": "yes"}]
)  # fmt: skip
def test_settings_are_checked(settings):
    with pytest.raises((ValueError, TypeError), match=next(iter(settings))):
        VAR(**settings)


def test_what_it_cannot_act_on_is_refused(llava):
    model, prompt = llava
    text = interp.wrap(FAMILIES["llama"].model())
    with pytest.raises(ValueError, match="reads text only"):
        VAR().plan(text, text.encode([[1, 2, 3]]))
    with pytest.raises(ValueError, match="needs an image"):
        VAR().plan(model, model.encode([[11, 12, 13]]))
    with pytest.raises(ValueError, match="channels of the stream, 0 to 63"):
        VAR(dims=[64]).plan(model, prompt)
    with pytest.raises(TypeError, match="dims= must be whole numbers"):
        VAR(dims=[1.5]).plan(model, prompt)
    with pytest.raises(IndexError, match="layer 9 is out of range"):
        VAR(layers=[9]).plan(model, prompt)
    shallow = interp.wrap(FAMILIES["llava"].model())
    del shallow.stacks["text"].layers[3], shallow.stacks["text"].layers[2]
    with pytest.raises(ValueError, match=r"this stack has 2: name the layers, VAR\(layers=\[1\]\)"):
        VAR().plan(shallow, prompt)


def test_a_cache_from_before_is_refused(llava):
    model, prompt = llava
    run = By(VAR(**STRONG), model, prompt)
    run.run.start = 4
    with pytest.raises(ValueError, match="4 positions before this one"):
        run.hooks[0].fn(torch.zeros(2, prompt.length, 64), run.at("resid_pre", 4))


def test_known_backbones(llava):
    assert known(llava[0]) is None
    hf = FAMILIES["llava"].model()
    text = hf.config.text_config
    text.hidden_size, text.num_hidden_layers = 4096, 32
    text.intermediate_size, text.vocab_size = 11008, 32064
    found = known(interp.wrap(hf))
    assert found is not None and found.dims == (1415, 2533)
    text.vocab_size = 64000  # another model of that shape
    assert known(interp.wrap(hf)) is None
    assert all(0 <= channel < each.width for each in BACKBONES for channel in each.dims)
