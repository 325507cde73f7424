"""CARVE against loops: the contrast, the mask, the cut; its two passes against runs with no cache."""

import math

import numpy
import pytest
import torch
from PIL import Image

import interp
from interp.families import FAMILIES
from interp.interventions import CARVE
from interp.interventions.carve import GENERAL, SUFFIX
from interp.responses import respond
from interp.steering.refining import contrasted, enlarged, on_image, peaks
from interp.steering.rewording import again, images_of
from tests.processors import processor_of

QUICK = {"tokens": 3}


def opened(name="llava", **more):
    hf = FAMILIES[name].model()
    hf.generation_config.eos_token_id = None
    hf.generation_config.suppress_tokens = [hf.config.image_token_id]
    return interp.wrap(hf, processor_of(name, hf.config, **more))


def picture(seed=0, size=(42, 42)):
    made = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (6, 6, 3), generator=made, dtype=torch.uint8).numpy()
    return Image.fromarray(coarse).resize(size, Image.Resampling.NEAREST)


@pytest.fixture(scope="module")
def llava():
    return opened()


@pytest.fixture(scope="module")
def demo():
    return interp.load("demo-vlm")


@pytest.fixture(scope="module")
def scenes():
    return interp.Task.load("colour", count=3, split="validation")


# The contrast: A_question / (A_general + floor), over layers and common steps.


@pytest.mark.parametrize("steps", ["full", "first", "last"])
def test_the_contrast(steps):
    made = torch.Generator().manual_seed(1)
    asked, general = (torch.rand(count, 2, 5, generator=made) for count in (4, 3))
    found = contrasted(asked, general, steps, 0.01)
    for token in range(5):
        each = [
            sum(
                float(asked[t, layer, token]) / (float(general[t, layer, token]) + 0.01)
                for layer in range(2)
            )
            for t in range(3)
        ]
        weight = {"full": [1, 2, 3], "first": [1, 0, 0], "last": [0, 0, 1]}[steps]
        expected = sum(w * one for w, one in zip(weight, each, strict=True))
        assert float(found[token]) == pytest.approx(expected, rel=1e-6)


# The mask, in loops: a percentile, regions that touch by an edge, the largest sums.


def masked(values, keep, regions):
    flat = sorted(one for row in values for one in row)
    place = (len(flat) - 1) * (1 - keep)
    low = math.floor(place)
    high = min(low + 1, len(flat) - 1)
    least = flat[low] + (flat[high] - flat[low]) * (place - low)
    left = {
        (r, c) for r, row in enumerate(values) for c, one in enumerate(row) if one >= least - 1e-12
    }
    found = []
    while left:
        region, edge = set(), [left.pop()]
        while edge:
            r, c = edge.pop()
            region.add((r, c))
            for near in ((r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)):
                if near in left:
                    left.remove(near)
                    edge.append(near)
        found.append(region)
    found.sort(key=lambda region: -sum(values[r][c] for r, c in region))
    most = max(3, math.floor(len(found) * keep)) if regions is None else regions
    return {spot for region in found[:most] for spot in region}


@pytest.mark.parametrize("keep", [0.05, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("regions", [1, 2, 3, None])
def test_the_mask(keep, regions):
    for seed in range(6):
        made = torch.Generator().manual_seed(seed)
        values = torch.rand(9, 13, generator=made, dtype=torch.float64)
        found = {tuple(spot) for spot in peaks(values, keep, regions).nonzero().tolist()}
        assert found == masked(values.tolist(), keep, regions)


def test_a_mask_worked_by_hand():
    """Of twelve the upper half: 9 8 and 7 6 touch by edges, 5 and 4 are alone; sums 17, 13, 5, 4."""
    values = torch.tensor([[9.0, 8.0, 0.0, 5.0], [0.0, 0.0, 1.0, 0.0], [7.0, 6.0, 0.0, 4.0]])
    kept = peaks(values, 0.5, 2).nonzero().tolist()
    assert kept == [[0, 0], [0, 1], [2, 0], [2, 1]]
    assert peaks(values, 0.5, 1).nonzero().tolist() == [[0, 0], [0, 1]]
    assert int(peaks(values, 0.5, None).sum()) == 5


def test_the_cut():
    """Black outside the mask, cut to it, as large as the image at one side."""
    pixels = numpy.arange(6 * 8 * 3, dtype=numpy.uint8).reshape(6, 8, 3) + 50
    image, mask = Image.fromarray(pixels), torch.zeros(6, 8, dtype=torch.bool)
    mask[1, 2] = mask[2, 2:4] = True
    black, box = enlarged(image, mask)
    assert box == (2, 1, 4, 3) and black.size == (8, 8)
    part = numpy.where(mask[..., None], pixels, 0)[1:3, 2:4].astype(numpy.uint8)
    expected = Image.fromarray(part).resize((8, 8), Image.Resampling.LANCZOS)
    assert black.tobytes() == expected.tobytes()
    seen, box = enlarged(image, mask, black=False)
    expected = image.crop(box).resize((8, 8), Image.Resampling.LANCZOS)
    assert seen.tobytes() == expected.tobytes() != black.tobytes()
    mask[:] = False
    mask[2, 1:5] = True  # 4 x 1: eight wide would be two high, six high is twenty-four wide
    assert enlarged(image, mask)[0].size == (24, 6)
    assert enlarged(image, torch.ones_like(mask))[0].tobytes() == image.tobytes()


def test_values_of_tokens_over_the_pixels(demo, scenes):
    """Bilinear between the centres of 6 x 6 cells of 16 pixels."""
    prompt = scenes[:1].encode(demo)
    tokens = torch.rand(36, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = on_image(prompt, tokens, 0, 0)
    assert found.shape == (96, 96)
    cells = tokens.view(6, 6).tolist()
    for y, x in ((0, 0), (7, 40), (50, 95), (33, 34), (95, 8)):
        v, u = (min(max((one + 0.5) / 16 - 0.5, 0), 5) for one in (y, x))
        top, left = min(int(v), 4), min(int(u), 4)
        a, b = v - top, u - left
        expected = (
            cells[top][left] * (1 - a) * (1 - b)
            + cells[top][left + 1] * (1 - a) * b
            + cells[top + 1][left] * a * (1 - b)
            + cells[top + 1][left + 1] * a * b
        )
        assert float(found[y, x]) == pytest.approx(expected, abs=1e-9)


# The two passes.


def slowly(model, text, image, layers, tokens):
    """[step][layer] of attention to the image's tokens, a forward for each step."""
    prompt = model.encode(text, images=image)
    spots = [
        n for n, token in enumerate(prompt.ids[0].tolist()) if token == model.config.image_token_id
    ]
    ends = model.hf.generation_config.eos_token_id
    whole, steps = prompt, []
    while len(steps) < tokens:
        with torch.no_grad():
            trace = model.trace(whole, "pattern", layers=layers)
        steps.append(
            [
                [sum(head[-1][k] for head in maps) / len(maps) for k in spots]
                for maps in (trace["pattern", layer][0].tolist() for layer in layers)
            ]
        )
        scores = trace.logits[0, -1].clone()
        scores[model.config.image_token_id] = -torch.inf
        token = int(scores.argmax())
        if token == ends:
            break
        written = [*([] if whole is prompt else whole.ids[0, prompt.length :].tolist()), token]
        whole = respond(model, prompt, torch.tensor([written]))
    return steps


def test_passes_look_at_what_runs_without_a_cache_look_at(demo, scenes):
    """Rows of unequal length, and answers of unequal length."""
    records = [*scenes, *interp.Task.load("count", count=2, split="validation")]
    prompt = demo.encode([one.prompt for one in records], images=[[one.image] for one in records])
    assert not prompt.mask.all()
    caption = again(
        demo, prompt, images_of(prompt), lambda words: "Describe the image.", alone=True
    )
    lengths = set()
    for asked, texts in (
        (prompt, [one.prompt for one in records]),
        (caption, ["Describe the image."] * 5),
    ):
        method = CARVE(tokens=8)
        seen = method._looked(demo, asked, [1, 3])
        for row, record in enumerate(records):
            expected = torch.tensor(slowly(demo, texts[row], record.image, [1, 3], 8))
            found = seen[row][..., asked.images[row][0].positions]
            assert found.shape == expected.shape
            assert (found - expected).abs().max() < 1e-5
            lengths.add(len(found))
    assert len(lengths) > 1


@pytest.mark.parametrize("steps", ["full", "last"])
def test_the_whole_way(demo, scenes, steps):
    method = CARVE(
        layers=[1, 2], steps=steps, keep=0.3, regions=2, tokens=4, general="Describe the image."
    )
    found = method.refined(demo, scenes.encode(demo))
    assert [one.row for one in found] == [0, 1, 2]
    for one, record in zip(found, scenes, strict=True):
        asked = slowly(demo, record.prompt, record.image, [1, 2], 4)
        general = slowly(demo, "Describe the image.", record.image, [1, 2], 4)
        tokens = [0.0] * 36
        common = min(len(asked), len(general))
        for step in range(common):
            weight = step + 1 if steps == "full" else float(step == common - 1)
            for layer in range(2):
                for k in range(36):
                    ratio = asked[step][layer][k] / (general[step][layer][k] + 1e-8)
                    tokens[k] += weight * ratio
        cells = torch.tensor(tokens, dtype=torch.float64).view(1, 1, 6, 6)
        grid = torch.nn.functional.interpolate(cells, size=(96, 96), mode="bilinear")[0, 0]
        assert (one.map - grid).abs().max() < 1e-3 * grid.max()
        spots = masked(one.map.tolist(), 0.3, 2)
        assert {tuple(spot) for spot in one.mask.nonzero().tolist()} == spots
        rows, columns = [r for r, _ in spots], [c for _, c in spots]
        assert one.box == (min(columns), min(rows), max(columns) + 1, max(rows) + 1)
        assert one.original.tobytes() == record.image.tobytes()
        assert one.image.tobytes() == enlarged(record.image, one.mask)[0].tobytes()


def test_a_row_is_refined_as_it_is_alone(demo, scenes):
    method = CARVE(layers=[1], tokens=4)
    together = method.refined(demo, scenes.encode(demo))
    for one, record in zip(together, scenes, strict=True):
        (alone,) = method.refined(demo, demo.encode(record.prompt, images=record.image))
        assert alone.box == one.box and alone.image.tobytes() == one.image.tobytes()


def test_the_question_is_looked_for(demo):
    """Of clear objects, the one that is asked about lies in the largest region more often than not."""
    task = interp.Task.load("colour", count=40, split="validation", weak=0.0)
    method = CARVE(layers=[1, 2], steps="first", keep=0.2, regions=1, general="Describe the image.")
    met = area = 0.0
    for one, record in zip(method.refined(demo, task.encode(demo)), task, strict=True):
        thing = record.notes["objects"][record.notes["asked"]]
        met += bool(one.mask[min(95, int(thing["y"])), min(95, int(thing["x"]))]) / len(task)
        area += float(one.mask.double().mean()) / len(task)
    assert met > 2.5 * area, (met, area)


# What the plan makes of it.


def asked_for(model, monkeypatch):
    """The texts and numbers of images of every prompt that is encoded."""
    seen, encode = [], model.encode

    def watched(text=None, images=None, **more):
        seen.append((text, [len(own) for own in images]))
        return encode(text, images=images, **more)

    monkeypatch.setattr(model, "encode", watched)
    return seen


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "internvl", "idefics3"])
def test_the_refined_image_takes_the_place_of_the_first(name):
    model = opened(name)
    prompt = model.encode("What is it?", images=picture(size=(56, 56)))
    method = CARVE(keep=0.3, **QUICK)
    (refined,) = method.refined(model, prompt)
    expected = model.encode("What is it?", images=refined.image)
    changed, hooks = method.plan(model, prompt)
    assert list(hooks) == [] and changed.inputs.keys() == expected.inputs.keys()
    for key, value in expected.inputs.items():
        assert torch.equal(changed.inputs[key], value), key
    with torch.no_grad():
        logits = model.logits(expected)
        assert torch.equal(model.logits(prompt, using=method), logits)
        assert torch.equal(model.trace(prompt, "z", using=method).logits, logits)
        with model.using(method):
            assert torch.equal(model.logits(prompt), logits)
    written = model.generate(expected, max_new_tokens=3, do_sample=False)
    assert torch.equal(
        model.generate(prompt, using=method, max_new_tokens=3, do_sample=False), written
    )


def test_the_released_code_shows_both(llava, monkeypatch):
    images = [picture(0), picture(1)]
    prompt = llava.encode(["What is it?", "Where is it?"], images=images)
    seen = asked_for(llava, monkeypatch)
    changed, _ = CARVE(official=True, **QUICK).plan(llava, prompt)
    assert seen == [
        (["What is it?" + SUFFIX, "Where is it?" + SUFFIX], [1, 1]),
        ([GENERAL + SUFFIX] * 2, [1, 1]),
        (["What is it?", "Where is it?"], [2, 2]),
    ]
    for row, image in enumerate(images):
        first, second = images_of(changed)[row]
        assert first.tobytes() == image.tobytes() and max(second.size) >= 42
    assert changed.where("image").sum() == 2 * prompt.where("image").sum()
    # Its number of regions is three and more; a number that is given holds.
    assert CARVE(official=True).regions is None and CARVE(official=True, regions=1).regions == 1
    one, two = (
        CARVE(official=flag, suffix="", **QUICK).refined(llava, prompt) for flag in (True, False)
    )
    assert torch.equal(one[0].map, two[0].map)


def test_the_papers_passes_have_no_suffix(llava, monkeypatch):
    prompt = llava.encode("What is it?", images=picture())
    seen = asked_for(llava, monkeypatch)
    CARVE(**QUICK).plan(llava, prompt)
    assert [text for text, _ in seen] == [[GENERAL], ["What is it?"]]
    seen.clear()
    CARVE(general="Say all.", suffix=" Briefly.", **QUICK).plan(llava, prompt)
    assert [text for text, _ in seen] == [
        ["What is it? Briefly."],
        ["Say all. Briefly."],
        ["What is it?"],
    ]


MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Yes?"},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Look at this:"},
            {"type": "image", "image": picture()},
            {"type": "text", "text": "What is it?"},
        ],
    },
]


def test_messages_are_asked_again_as_messages(llava, monkeypatch):
    prompt = llava.encode(MESSAGES)
    seen = asked_for(llava, monkeypatch)
    CARVE(official=True, **QUICK).plan(llava, prompt)
    (question,), (general,), (final,) = (text for text, _ in seen)
    assert [each[:3] for each in (question, general, final)] == [MESSAGES[:3]] * 3
    image, look = {"type": "image"}, {"type": "text", "text": "Look at this:"}
    assert question[3]["content"] == [look, image, {"type": "text", "text": "What is it?" + SUFFIX}]
    assert general[3]["content"] == [image, {"type": "text", "text": GENERAL + SUFFIX}]
    assert final[3]["content"] == [look, image, image, {"type": "text", "text": "What is it?"}]
    assert (
        MESSAGES[3]["content"][1]["image"].tobytes() == picture().tobytes()
    )  # theirs are as they were


def test_texts_with_a_place_for_the_image(llava, monkeypatch):
    """Around it the words are the user's; with a span, so is what is not the question."""
    text = "USER: <image>\nWhat is it? ASSISTANT:"
    bare = llava.encode(text, images=picture())
    named = llava.encode(text, images=picture(), spans={"question": "What is it?"})
    seen = asked_for(llava, monkeypatch)
    CARVE(**QUICK).plan(llava, bare)
    assert [each for each, _ in seen] == [["USER: <image>\n" + GENERAL], [text]]
    seen.clear()
    changed, _ = CARVE(suffix=" Now.", **QUICK).plan(llava, named)
    assert [each for each, _ in seen] == [
        ["USER: <image>\nWhat is it? Now. ASSISTANT:"],
        [f"USER: <image>\n{GENERAL} Now. ASSISTANT:"],
        [text],
    ]
    assert changed.where("question").any()
    with pytest.raises(ValueError, match="places '<image>' of its own, and 2 images are shown"):
        CARVE(official=True, **QUICK).plan(llava, named)


def test_names_of_spans_stay(demo, scenes):
    prompt = scenes.encode(demo)
    changed, _ = CARVE(**QUICK).plan(demo, prompt)
    assert torch.equal(changed.where("shape"), prompt.where("shape"))
    assert not torch.equal(changed.inputs["pixel_values"], prompt.inputs["pixel_values"])


def test_keeping_all_is_keeping_the_prompt(llava, monkeypatch):
    prompt = llava.encode("What is it?", images=picture())
    seen = asked_for(llava, monkeypatch)
    same, hooks = CARVE(keep=1.0).plan(llava, prompt)
    assert same is prompt and list(hooks) == [] and not seen


def test_several_images_are_each_refined(llava):
    prompt = llava.encode("Which?", images=[[picture(0), picture(1)]])
    found = CARVE(**QUICK).refined(llava, prompt)
    assert [one.original.tobytes() for one in found] == [picture(n).tobytes() for n in (0, 1)]
    changed, _ = CARVE(**QUICK).plan(llava, prompt)
    assert changed.length == prompt.length


def test_passes_are_plain_whatever_is_live(llava):
    prompt = llava.encode("What is it?", images=picture())
    (expected,) = CARVE(**QUICK).refined(llava, prompt)
    with llava.using(interp.Hook("z", lambda z, at: z * 0)):
        (found,) = CARVE(**QUICK).refined(llava, prompt)
    assert torch.equal(found.map, expected.map)


# Wrong use.


WRONG = [
    ({"keep": 0}, ValueError, "leave nothing"),
    ({"keep": 1.2}, ValueError, "keep is a number from 0 to 1"),
    ({"keep": float("nan")}, ValueError, "keep"),
    ({"regions": 0}, ValueError, "regions is a whole number from 1"),
    ({"regions": 2.5}, ValueError, "regions"),
    ({"tokens": None}, ValueError, "tokens"),
    ({"steps": "all"}, LookupError, "full"),
    ({"floor": 0}, ValueError, "floor"),
    ({"general": 3}, TypeError, "general is a text"),
    ({"suffix": True}, TypeError, "suffix is a text"),
    ({"official": 1}, TypeError, "official is True or False"),
    ({"black": None}, TypeError, "black is True or False"),
]


@pytest.mark.parametrize(("given", "kind", "why"), WRONG)
def test_wrong_settings_are_refused(given, kind, why):
    with pytest.raises(kind, match=why):
        CARVE(**given)


def test_wrong_use_is_refused(llava):
    prompt = llava.encode("What is it?", images=picture())
    ready = interp.Prompt.from_inputs(llava, prompt.inputs)
    written = respond(llava, prompt, torch.tensor([[20, 21]]))
    for one in (ready, written):
        with pytest.raises(ValueError, match=r"model.encode\(text, images=...\)"):
            llava.logits(one, using=CARVE())
    with pytest.raises(ValueError, match="needs an image"):
        llava.logits(llava.encode("What is it?"), using=CARVE())
    with pytest.raises(IndexError, match="out of range"):
        llava.logits(prompt, using=CARVE(layers=[9]))
    with pytest.raises(ValueError, match="reads text only"):
        text = interp.load("demo-lm")
        text.logits("Mary and John", using=CARVE())
