"""PAI, VAF, AdaptVis, PAINT: scores of the image, against loops over the papers' formulas."""

import math

import pytest
import torch

import interp
from interp.interventions import INTERVENTIONS, PAI, PAINT, VAF, AdaptVis
from interp.interventions.adaptvis import confidence
from interp.interventions.paint import View, chosen
from interp.responses import respond
from tests.pressed import agree, called, marked, padded, tiny

SEEING = ["llava", "qwen2_vl", "gemma3", "paligemma", "internvl", "idefics3"]


def maps(model, prompt, site, layer, **more):
    with torch.no_grad():
        return model.trace(prompt, site, layers=[layer], **more)[site, layer]


def softmax(scores):
    weights = [math.exp(s - max(scores)) for s in scores]
    return [w / sum(weights) for w in weights]


def check(model, prompt, layer, using, rule, layers_kept=()):
    """The layer's pattern is the softmax of rule(row, query, key, score); rule gives None for rows left."""
    scores, plain = maps(model, prompt, "scores", layer), maps(model, prompt, "pattern", layer)
    found = maps(model, prompt, "pattern", layer, using=using)
    lowest, changed = torch.finfo(scores.dtype).min / 2, 0
    for row in range(len(prompt)):
        for query in prompt.mask[row].nonzero().flatten().tolist():
            for head in range(scores.shape[1]):
                own = scores[row, head, query].tolist()
                seen = [k for k, s in enumerate(own) if s > lowest]
                new = [rule(row, query, k, own[k]) for k in seen]
                if None in new:
                    assert torch.equal(found[row, head, query], plain[row, head, query])
                    continue
                wanted = torch.zeros_like(found[row, head, query])
                wanted[seen] = torch.tensor(softmax(new), dtype=wanted.dtype)
                torch.testing.assert_close(found[row, head, query], wanted, atol=1e-9, rtol=0)
                changed += new != [own[k] for k in seen]
    assert changed
    for other in layers_kept:
        assert torch.equal(
            maps(model, prompt, "pattern", other, using=using),
            maps(model, prompt, "pattern", other),
        )


def of_image(prompt):
    image = prompt.where("image")
    return [set(row.nonzero().flatten().tolist()) for row in image]


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
@pytest.mark.parametrize("family", ["llava", "paligemma"])
def test_pai_row_by_row(family, alpha):
    model, prompt = tiny(family, batch=2, length=8, double=True)
    image, last = of_image(prompt), prompt.length - 1

    def rule(row, query, key, score):
        if query != last:
            return None
        return score + alpha * abs(score) if key in image[row] else score

    check(model, prompt, 3, PAI(alpha=alpha, layers=[3]), rule)
    check(model, prompt, 2, PAI(alpha=alpha), rule, layers_kept=[0, 1])


@pytest.mark.parametrize(("boost", "damp"), [(1.15, 0.95), (3.0, 0.2), (0.0, 1.0)])
@pytest.mark.parametrize("family", ["llava", "paligemma"])
def test_vaf_row_by_row(family, boost, damp):
    model, prompt = tiny(family, batch=2, length=8, double=True)
    image = of_image(prompt)

    def rule(row, query, key, score):
        if query <= max(image[row]):
            return None
        return score * (boost if key in image[row] else damp if key < min(image[row]) else 1)

    check(model, prompt, 2, VAF(boost=boost, damp=damp, layers=[2]), rule)
    check(model, prompt, 1, VAF(boost=boost, damp=damp), rule, layers_kept=[0])


def test_vaf_of_one_row_each_and_chosen_heads():
    model, prompt = tiny("llava", batch=2, length=9, double=True)
    wide = padded(model, prompt.inputs, 2)
    late = wide.where("image").clone()
    late[1] = False
    late[1, 9:13] = True  # another place in the second row
    wide.spans["image"] = late
    image = of_image(wide)

    def rule(row, query, key, score):
        if query <= max(image[row]):
            return None
        return score * (2.0 if key in image[row] else 0.5 if key < min(image[row]) else 1)

    check(model, wide, 1, VAF(boost=2.0, damp=0.5, layers=[1]), rule)
    _, (hook,) = VAF(heads=["1.0", "1.3"]).plan(model, prompt)
    assert (hook.layers, hook.heads) == ([1], (0, 3))
    assert VAF().plan(model, prompt)[1][0].layers == [1]  # 9 to 14 of 32, in four layers


@pytest.mark.parametrize("weight", [0.5, 0.8, 1.5, 2.0])
def test_scalingvis_row_by_row(weight):
    model, prompt = tiny("llava", batch=2, length=8, double=True)
    image, last = of_image(prompt), prompt.length - 1

    def rule(row, query, key, score):
        if query != last:
            return None
        return score * weight if key in image[row] else score

    for layer in (0, 3):
        check(model, prompt, layer, AdaptVis(weight=weight, layers=[layer]), rule)


def test_adaptvis_weighs_each_row_by_its_own_confidence():
    model, prompt = tiny("llava", batch=4, length=8, double=True)
    with torch.no_grad():
        sure = [max(softmax(row.tolist())) for row in model.logits(prompt)[:, -1]]
    torch.testing.assert_close(confidence(model, prompt), torch.tensor(sure), atol=1e-6, rtol=0)
    threshold = sorted(sure)[2] - 1e-6  # two rows are below it
    using = AdaptVis(low=0.3, high=2.5, threshold=threshold, layers=[0])
    image, last = of_image(prompt), prompt.length - 1
    weights = [0.3 if one < threshold else 2.5 for one in sure]
    assert sorted(weights) == [0.3, 0.3, 2.5, 2.5]

    def rule(row, query, key, score):
        if query != last:
            return None
        return score * weights[row] if key in image[row] else score

    check(model, prompt, 0, using, rule)
    wide = padded(model, prompt.inputs, 3)
    found, wanted = model.logits(wide, using=using)[:, 3:], model.logits(prompt, using=using)
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)


def test_adaptvis_changes_the_prompts_last_row_and_no_later_one():
    model, prompt = tiny("llava", batch=2)
    using = AdaptVis(weight=3.0)
    asked = {"do_sample": False, "max_new_tokens": 4, "min_new_tokens": 4}
    cached = model.generate(prompt, using=using, **asked)
    assert torch.equal(cached, model.generate(prompt, using=using, use_cache=False, **asked))
    whole = respond(model, prompt, cached[:, prompt.length :])
    _, (hook,) = using.plan(model, whole)
    assert hook.within == (prompt.length - 1, prompt.length)
    at_once = model.logits(whole, using=using)[:, prompt.length - 1 : -1].argmax(-1)
    assert torch.equal(at_once, cached[:, prompt.length :])


def quartile(values, share):
    """Linear between the two nearest, as numpy has it."""
    ordered, place = sorted(values), share * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def painted(early, late, received, share, spatial):
    """Local and summary patches of one image, by loops."""
    low, high = quartile(late, 0.25), quartile(late, 0.75)
    summary = {k for k, value in enumerate(late) if value > high + 1.5 * (high - low)}
    order = sorted(range(len(early)), key=lambda k: -early[k])
    local = set(order[: math.floor(share * len(early))])
    order = sorted(range(len(early)), key=lambda k: -received[k])
    local |= set(order[: math.floor(spatial * len(early))])
    return local - summary, summary


@pytest.mark.parametrize(("share", "spatial"), [(0.25, 0.0), (0.5, 0.3), (0.0, 0.1), (1.0, 0.0)])
def test_paints_patches(share, spatial):
    torch.manual_seed(1)
    values = [torch.rand(3, 30, dtype=torch.float64) ** 6 for _ in range(3)]
    local, summary = chosen(View(*values), share, spatial)
    assert summary.any()
    for image in range(3):
        wanted = painted(*(one[image].tolist() for one in values), share, spatial)
        found = tuple(set(one[image].nonzero().flatten().tolist()) for one in (local, summary))
        assert found == wanted


def test_paints_patches_by_hand():
    early = torch.tensor([[0.1, 0.4, 0.3, 0.0, 0.2, 0.0, 0.0, 0.0]])
    late = torch.tensor([[0.1, 0.9, 0.1, 0.2, 0.1, 0.2, 0.1, 0.1]])  # Q1 .1, Q3 .2: above .35
    local, summary = chosen(View(early, late, early), share=0.4)
    assert summary[0].nonzero().flatten().tolist() == [1]
    assert local[0].nonzero().flatten().tolist() == [2, 4]  # 1 is a summary, though seen most


@pytest.mark.parametrize("family", ["llava", "vipllava"])
@pytest.mark.parametrize("official", [False, True])
def test_paint_row_by_row(family, official):
    model, prompt = tiny(family, batch=2, length=8, double=True)
    using = PAINT(share=0.5, spatial=0.0 if official else 0.2, layers=[2, 3], official=official)
    with torch.no_grad():
        tower = model.trace(prompt, "pattern", stack="vision", layers=[0, 1])  # of three: -2 is 1
    first, late = tower["pattern", 0], tower["pattern", 1]
    alpha, beta, last, by = 0.7, 0.3 if official else 0.4, prompt.length - 1, []
    for row, image in enumerate(of_image(prompt)):
        seen = [[float(sum(m[row, :, 0, 1 + k])) for k in range(9)] for m in (first, late)]
        received = [float(first[row, :, :, 1 + k].sum()) for k in range(9)]
        local, summary = painted(*seen, received, using.share, using.spatial)
        patches = dict(zip(sorted(image), range(9), strict=True))
        by.append({p: alpha * (k in local) + beta * (k in summary) for p, k in patches.items()})

    def rule(row, query, key, score):
        if query != last:
            return None
        return score + by[row].get(key, 0.0) * abs(score)

    check(model, prompt, 2, using, rule, layers_kept=[0, 1])


def test_paint_stops_the_extra_run_where_the_text_begins():
    model, prompt = tiny("llava")
    passed = []
    layer = model.stacks["text"].layers[1].module
    handle = layer.register_forward_hook(lambda *given: passed.append(1))
    try:
        with torch.no_grad():
            PAINT().plan(model, prompt)
        assert not passed
        with model.using(PAINT(alpha=2.0)):
            inside = model.hf(**prompt.inputs).logits
        assert len(passed) == 1
        torch.testing.assert_close(inside, model.logits(prompt, using=PAINT(alpha=2.0)))
        assert torch.equal(model.logits(prompt), model.hf(**prompt.inputs).logits)
    finally:
        handle.remove()


def test_paint_refuses_towers_without_a_class_token_or_a_token_a_patch():
    for family in ("gemma3", "qwen2_vl"):
        model, prompt = tiny(family)
        with pytest.raises(ValueError, match="class token.*PAI acts"):
            PAINT.inert().plan(model, prompt)
    for family in ("internvl", "llava_next"):
        model, prompt = tiny(family)
        with pytest.raises(ValueError, match="a token in the prompt for each patch.*PAI acts"):
            PAINT().plan(model, prompt)
    with pytest.raises(ValueError, match="tells no patches apart"):
        PAINT(official=True, spatial=0.05)


@pytest.mark.parametrize("family", SEEING)
@pytest.mark.parametrize(
    "using", [PAI(alpha=2.0), VAF(boost=4.0, damp=0.5), PAINT(alpha=3.0, beta=3.0)]
)
def test_cached_uncached_and_at_once_agree(family, using):
    model, prompt = tiny(family, batch=2)
    if not isinstance(using, PAINT) or family == "llava":
        # PaliGemma lets the whole of one forward see itself both ways, the answer too.
        agree(model, prompt, using, at_once=family != "paligemma")


@pytest.mark.parametrize("kind", [PAI, VAF, AdaptVis, PAINT])
def test_a_row_in_a_padded_batch_is_the_row_alone(kind):
    model, prompt = tiny("llava")
    wide = padded(model, prompt.inputs, 4)
    found = model.logits(wide, using=kind.strong)[:, 4:]
    torch.testing.assert_close(found, model.logits(prompt, using=kind.strong), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", [PAI, VAF, AdaptVis, PAINT])
def test_hidden_keys_stay_hidden_in_half_precision(kind, dtype):
    model, prompt = tiny("llava", batch=2)
    wide = padded(model, prompt.inputs, 3)
    model.hf.to(dtype)
    wide.inputs["pixel_values"] = wide.inputs["pixel_values"].to(dtype)
    rows = maps(model, wide, "pattern", 2, using=kind.strong)
    assert rows.isfinite().all()
    assert rows[:, :, 3:, :3].abs().max() == 0
    assert rows[:, :, 3:].triu(4).abs().max() == 0


@pytest.mark.parametrize("kind", [PAI, VAF, AdaptVis, PAINT])
def test_what_cannot_be_is_refused(kind):
    model, prompt = tiny("llama")
    with pytest.raises(ValueError, match="reads text only"):
        kind().plan(model, prompt)
    model, prompt = tiny("llava")
    bare = interp.Prompt.from_inputs(model, {"input_ids": prompt.ids[:, :4]})
    with pytest.raises(ValueError, match="needs an image"):
        kind().plan(model, bare)
    with pytest.raises(IndexError, match="out of range"):
        kind(layers=[9]).plan(model, prompt)
    assert kind.inert().plan(model, prompt) == (prompt, [])
    assert INTERVENTIONS[kind.__name__] is kind
    for name in {"alpha", "beta", "boost", "damp", "low", "high", "weight", "share"} & set(
        kind.__dataclass_fields__
    ):
        for wrong in (-0.1, float("nan"), "1", True):
            with pytest.raises(ValueError, match=f"{name} is a number"):
                kind(**{name: wrong})


def test_a_row_without_an_image_is_left_alone():
    model, prompt = tiny("llava", batch=2)
    prompt.spans["image"] = marked(prompt, *range(4, 13), row=0)
    plain = model.logits(prompt)
    for using in (PAI(alpha=3.0), VAF(boost=4.0, damp=0.1)):
        found = model.logits(prompt, using=using)
        torch.testing.assert_close(found[1], plain[1], atol=1e-5, rtol=0)
        assert (found[0] - plain[0]).abs().max() > 0.01


def test_rows_of_new_tokens_need_no_mask():
    """Rows that begin at different places are masked in the prompt; behind it all are changed."""
    model, prompt = tiny("llava", batch=2, length=9)
    prompt.spans["image"] = marked(prompt, *range(3, 12), row=0) | marked(prompt, 4, 5, row=1)
    _, (hook,) = VAF(boost=2.0, damp=0.5).plan(model, prompt)
    keys = prompt.length + 1
    after = called(hook, torch.ones(2, 1, 1, keys))
    assert after[0, 0, 0].tolist() == [0.5] * 3 + [2.0] * 9 + [1.0] * (keys - 12)
    assert after[1, 0, 0].tolist() == [0.5] * 4 + [2.0] * 2 + [1.0] * (keys - 6)
    early = called(hook, torch.ones(2, 1, 1, keys), first=8, prefill=True)
    assert early[0].eq(1).all()  # its image has not ended there
    assert early[1, 0, 0, 4] == 2
