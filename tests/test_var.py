"""VAR against loops written from its formulas, by hand; and what it refuses."""

import itertools

import pytest
import torch

import interp
from interp.families import FAMILIES
from interp.interventions import VAR
from interp.steering.backbones import BACKBONES, known
from tests.var_by_loops import STRONG, By, behind, expected, opened, sinks_of


@pytest.fixture(scope="module")
def llava():
    return opened(batch=2)


def left_padded(model, prompt, row, width):
    """The prompt with its row `row` moved to the right by `width`, in the place of its first words."""
    ids, mask = prompt.ids.clone(), prompt.mask.long().clone()
    ids[row] = torch.cat([torch.zeros(width, dtype=ids.dtype), ids[row, :-width]])
    mask[row, :width] = 0
    return interp.Prompt.from_inputs(
        model, {**prompt.inputs, "input_ids": ids, "attention_mask": mask}
    )


def random_run(prompt, seed=0, width=64, heads=2):
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
    # The image's others have 0.6 of its weight, and a millionth more for each of its four tokens.
    for rho, chosen in ((0.600002, True), (0.60001, False)):
        run = By(VAR(dims=[3], tau=5, layers=[2], rho=rho), model, prompt)
        run.stream(stream.double())
        assert torch.equal(run.pattern(row.double(), first=5), row.double()) != chosen


def test_a_stream_near_zero_has_no_sinks(llava):
    """rms has a millionth under its root: |x| / rms of one channel among 64 is 8, but not of 1e-5."""
    model, _ = llava
    prompt = interp.Prompt.from_inputs(model, {"input_ids": torch.tensor([[9, 5, 5, 8]])})
    prompt.spans["image"] = torch.tensor([[0, 1, 1, 0]]).bool()
    stream = torch.zeros(1, 4, 64, dtype=torch.double)
    stream[0, [0, 1, 2], 3] = torch.tensor([5.0, 1e-5, 5.0]).double()
    run = By(VAR(dims=[3], tau=5, layers=[2]), model, prompt)
    run.stream(stream)
    assert run.memo["sinks"][2].sinks.tolist() == [[True, False, True, False]]


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
    row = torch.softmax(torch.randn(2, 2, 1, prompt.length + 300, dtype=torch.double), -1)
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
    assert counts["rows"] == 2 * 2 * len(behind(prompt)[0])
    assert counts["rows chosen"] == int((changed != pattern).any(-1).sum())


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
    with pytest.raises(TypeError, match="dims must be whole numbers"):
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
