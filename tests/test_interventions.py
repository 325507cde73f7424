"""What every intervention keeps to, on every family that it is for; and that a wrong one is found out."""

import functools
import threading
from dataclasses import dataclass, fields
from typing import ClassVar

import pytest
import torch
from PIL import Image

import interp
from interp import Hook
from interp.families import FAMILIES
from interp.forward import single_pass
from interp.interventions import INTERVENTIONS, Report
from interp.live import LIVE, RUN
from interp.responses import respond
from interp.shadow import _SHADOWS
from interp.sites import LogitsHook
from interp.steering.intervention import Intervention, Settings
from interp.steering.spans import over_keys
from tests.processors import processor_of
from tests.test_padding import pad

TEXT = [name for name in FAMILIES if FAMILIES[name].kind == "text"]
IMAGE = [
    "llava",
    "llava_next",
    "llava_onevision",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "internvl",
    "idefics3",
    "paligemma",
    "gemma3",
]
# Checks that take long, or of what no family makes different, run on these alone.
FEW = ["llama", "gemma2", "llava", "qwen2_vl", "paligemma"]
NEW = 3
LENGTHS = (12, 7, 9)
# Methods that show the model other pictures want real ones, and a processor; the rest take ready inputs.
PICTURES = ("CARVE",)
FASTER = {"CARVE": {"tokens": 2}}  # of 32 that it writes twice
TEXTS = ["What colour is the square in the image?", "Where is the circle?", "Is the square red?"]

# (method, family) -> what the method says when it cannot serve the family.
NO_CLASS_TOKEN = "reads what the class token of a vision tower sees, .* has none"
REFUSED: dict[tuple[str, str], str] = {
    **{("PAINT", name): NO_CLASS_TOKEN for name in IMAGE if name != "llava"},
    # Several patches make one token there, and tiles are cut.
    **{
        ("PAINT", name): "a token in the prompt for each patch"
        for name in ("llava_next", "internvl")
    },
}


def wrapped(name, processor=False):
    hf = FAMILIES[name].model()
    hf.generation_config.eos_token_id = None  # every answer runs to its full length
    image = getattr(hf.config, "image_token_id", None)
    if image is not None:  # a placeholder among new tokens would ask for another image
        hf.generation_config.suppress_tokens = [image]
    return interp.wrap(hf, processor_of(name, hf.config) if processor else None)


@functools.cache
def opened(name, pictures=False):
    """A model, a batch of unequal prompts padded on the left, and each of them alone."""
    model = wrapped(name, pictures)
    if pictures:
        singles = [
            model.encode(text, images=image) for text, image in zip(TEXTS, images(), strict=True)
        ]
        return model, model.encode(TEXTS, images=images()), singles
    family = FAMILIES[name]
    rows = [family.inputs(model.hf, length=length, seed=length) for length in LENGTHS]
    token = getattr(model.config.get_text_config(), "pad_token_id", None) or 0
    batch = interp.Prompt.from_inputs(model, pad(rows, token))
    return model, batch, [interp.Prompt.from_inputs(model, row) for row in rows]


def images():
    """Three that differ everywhere."""
    made = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (3, 6, 6, 3), generator=made, dtype=torch.uint8).numpy()
    return [Image.fromarray(one).resize((64, 64), Image.Resampling.NEAREST) for one in coarse]


@functools.cache
def plain(name, pictures=False):
    """Logits of the batch, and keys that its rows must not see, by layer."""
    model, batch, _ = opened(name, pictures)
    with torch.no_grad():
        logits = model.logits(batch)
    return logits, hidden_keys(model, batch)


def hidden_keys(model, prompt):
    with torch.no_grad():
        trace = model.trace(prompt, "scores")
    return {layer: value < torch.finfo(value.dtype).min / 2 for (_, layer), value in trace.items()}


def generated(model, prompt, using, **more):
    more = {"max_new_tokens": NEW, "do_sample": False, "use_cache": True, **more}
    with torch.no_grad():
        return model.generate(prompt, using=using, **more)


class Case:
    """A method on a family; what several checks look at is run once."""

    def __init__(self, method, name):
        self.method, self.name = method, name
        self.pictures = method.__name__ in PICTURES
        self.model, self.batch, self.alone = opened(name, self.pictures)
        self.plain, self.hidden = plain(name, self.pictures)
        self.settings = {**method.strong, **FASTER.get(method.__name__, {})}
        self.strong = method(**self.settings)

    @functools.cached_property
    def trace(self):
        with torch.no_grad():
            return self.model.trace(self.batch, "pattern", using=self.strong)

    @functools.cached_property
    def logits(self):
        with torch.no_grad():
            return self.model.logits(self.batch, using=self.strong)

    @functools.cached_property
    def answer(self):
        """Of the batch, with the scores that each token was chosen by."""
        more = {"return_dict_in_generate": True, "output_scores": True}
        return generated(self.model, self.batch, self.strong, **more)

    @functools.cached_property
    def written(self):
        """What the batch is answered, behind the prompt that the method left."""
        return self.answer.sequences[:, self.trace.prompt.length :]


def inert_is_plain_to_the_bit(case):
    method, model, batch = case.method, case.model, case.batch
    with torch.no_grad():
        assert torch.equal(model.logits(batch, using=method(**method.inert)), case.plain)
    if case.name in FEW:
        answer = generated(model, batch, None)
        assert torch.equal(generated(model, batch, method.inert), answer)


def strong_is_not(case):
    """In the answer's first token, of most texts: one may have nothing for it to act on."""
    changed = case.logits[:, -1] - case.plain[:, -1]
    far = [float(row.abs().max()) for row in changed]
    assert sum(one > 1e-3 for one in far) > 1, far
    assert case.logits.isfinite().all()


def patterns_stay_patterns(case):
    """Rows sum to one, and hidden keys get nothing, in every layer."""
    prompt = case.trace.prompt
    hidden = case.hidden if prompt is case.batch else hidden_keys(case.model, prompt)
    sinks = case.name == "gpt_oss"  # a learned sink takes a share of each row
    for layer in range(case.model.stacks["text"].size):
        pattern = case.trace["pattern", layer]
        rows = pattern.transpose(1, 2)[prompt.mask]
        unseen = hidden[layer].expand_as(pattern).transpose(1, 2)[prompt.mask]
        assert not rows[unseen].any(), layer
        assert (rows >= 0).all(), layer
        total = rows.sum(-1)
        assert (total < 1 + 1e-5).all() and (sinks or (total > 1 - 1e-5).all()), layer
    assert (case.trace.logits - case.logits)[prompt.mask].abs().max() < 1e-4 * scale(case)


def scale(case):
    return max(1.0, float(case.logits.abs().max()))


def a_padded_batch_is_each_alone(case):
    for row, prompt in enumerate(case.alone):
        with torch.no_grad():
            single = case.model.logits(prompt, using=case.strong)[0]
        far = (case.logits[row, -len(single) :] - single).abs().max()
        assert far < 2e-5 * scale(case), (row, float(far))


def cached_uncached_and_one_shot_are_one(case):
    model, prompt = case.model, case.trace.prompt
    answer = case.answer.sequences
    assert torch.equal(generated(model, case.batch, case.strong, use_cache=False), answer)
    # A method that changes the prompt has done so, and plans from no answer.
    whole, using = respond(model, prompt, case.written), case.strong
    using = using if prompt is case.batch else using.plan(model, case.batch)[1]
    with torch.no_grad():
        logits = model.logits(whole, using=None if using == [] else using)
    for step, scores in enumerate(case.answer.scores):
        own = logits[:, prompt.length - 1 + step]
        open_to = scores > -1e30  # the placeholder of an image is not
        assert torch.equal(
            own.masked_fill(~open_to, -torch.inf).argmax(-1), case.written[:, step]
        ), step
        far = (own - scores)[open_to].abs().max()
        assert far < 1e-4 * scale(case), (step, float(far))


def beams_run(case):
    beams = generated(case.model, case.batch, case.strong, num_beams=3)
    length = case.trace.prompt.length
    assert beams.shape == (len(case.batch), length + NEW)
    for row, prompt in enumerate(case.alone[:2]):
        single = generated(case.model, prompt, case.strong, num_beams=3)
        assert torch.equal(single[0, -NEW:], beams[row, length:]), row


def a_batch_says_what_each_says_alone(case):
    for row, prompt in enumerate(case.alone):
        single = generated(case.model, prompt, case.strong)
        assert torch.equal(single[0, -NEW:], case.written[row]), row


def sampling_with_a_seed_repeats(case):
    answers = []
    for _ in range(2):
        torch.manual_seed(5)
        answers.append(generated(case.model, case.batch, case.strong, do_sample=True))
    assert torch.equal(*answers)


def every_way_of_asking_is_the_same(case):
    method, model, batch = case.method, case.model, case.batch
    expected, answer = case.logits, case.answer.sequences
    with torch.no_grad(), model.using(case.strong):
        assert torch.equal(model.logits(batch), expected)
        if case.pictures:
            with pytest.raises(ValueError, match="made from ready inputs"):
                model.hf(**single_pass(model, batch))
        else:
            given = dict(batch.inputs)
            given = model.hf.generate(**given, max_new_tokens=NEW, do_sample=False, use_cache=True)
            assert torch.equal(given, answer)
            assert torch.equal(model.hf(**single_pass(model, batch)).logits, expected)
    with torch.no_grad():
        for form in (method.inert, method.inert(), method(**method.inert), [method.inert, []]):
            assert torch.equal(model.logits(batch, using=form), case.plain)
        faster = case.settings != dict(method.strong)
        for form in ([case.strong], *([] if faster else [method.strong, method(**method.strong)])):
            assert torch.equal(model.logits(batch, using=form), expected)
        watched = Report(case.strong)
        assert torch.equal(model.logits(batch, using=watched), expected) and watched.changed
    slow = model.logits(batch, using=case.strong)
    assert slow.requires_grad
    assert (slow - expected)[case.trace.prompt.mask].abs().max() < 1e-4 * scale(case)


def threads_do_not_see_each_other(case):
    model, batch = case.model, case.batch
    expected = {True: case.logits, False: case.plain}
    wrong = []

    def serve(steered):
        for _ in range(3):
            with torch.no_grad():
                given = model.logits(batch, using=case.strong if steered else None)
            if not torch.equal(given, expected[steered]):
                wrong.append(steered)

    workers = [threading.Thread(target=serve, args=(which,)) for which in (True, False, True)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def nothing_is_left_behind(case):
    """After runs that ended well, and after some that did not, nothing stands before a module."""
    model, batch = case.model, case.batch
    before = threading.active_count()
    for since in (0, case.trace.prompt.length):  # the prompt, and a step of the answer

        def fail(value, at):
            if at.first >= since:
                raise RuntimeError("inside")

        hook = Hook("resid_post", fail, layers=[3])
        with pytest.raises(RuntimeError, match="inside"):
            generated(model, batch, [case.strong, hook])
        with pytest.raises(RuntimeError, match="inside"), model.using(hook, case.strong):
            generated(model, batch, None)
        assert LIVE.get() == () and RUN.get() is None and not _SHADOWS
        assert threading.active_count() <= before
    with torch.no_grad():
        assert torch.equal(model.logits(batch), case.plain)
    assert torch.equal(generated(model, batch, case.strong), case.answer.sequences)


def heads_are_query_heads(case):
    """Where a method takes heads, (layer, head) names one of the heads that queries have."""
    if "heads" not in [one.name for one in fields(case.method)]:
        return
    layer, head = 2, 3  # above the number of KV heads
    given = {name: value for name, value in case.method.strong.items() if name != "layers"}
    report = Report(case.method(**{**given, "heads": [(layer, head)]}))
    with torch.no_grad():
        before = case.model.trace(case.batch, "z")
        after = case.model.trace(case.batch, "z", using=report)
    table = report.table[report.table["changed"] > 0]
    assert set(table["layer"]) == {layer} and set(table["heads"]) == {(head,)}
    changed = (before["z", layer] - after["z", layer])[case.batch.mask].abs().amax((0, 2)) > 1e-6
    assert changed.nonzero()[:, 0].tolist() == [head]


WIDE = [
    inert_is_plain_to_the_bit,
    strong_is_not,
    patterns_stay_patterns,
    a_padded_batch_is_each_alone,
    cached_uncached_and_one_shot_are_one,
]
DEEP = [
    a_batch_says_what_each_says_alone,
    beams_run,
    sampling_with_a_seed_repeats,
    every_way_of_asking_is_the_same,
    threads_do_not_see_each_other,
    nothing_is_left_behind,
    heads_are_query_heads,
]


def families_of(method):
    return IMAGE if method.of == "image" else [*TEXT, *IMAGE]


CELLS = [
    (name, family)
    for family in [*TEXT, *IMAGE]
    for name, method in INTERVENTIONS.items()
    if family in families_of(method)
]
_KEPT: dict[tuple[str, str], Case] = {}


def case_of(name, family):
    if (name, family) not in _KEPT:
        _KEPT.clear()  # one at a time: their traces are large
        _KEPT[name, family] = Case(INTERVENTIONS[name], family)
    return _KEPT[name, family]


@pytest.fixture(autouse=True)
def nothing_half_applied():
    yield
    assert not _SHADOWS and LIVE.get() == () and RUN.get() is None


@pytest.mark.parametrize(
    ("name", "family", "check"),
    [
        (*cell, check)
        for cell in CELLS
        for check in [*WIDE, *(DEEP if cell[1] in FEW else [])]
        if cell not in REFUSED
    ],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_contract(name, family, check):
    check(case_of(name, family))


@pytest.mark.parametrize(("name", "family"), REFUSED)
def test_families_that_a_method_refuses(name, family):
    model, batch, _ = opened(family)
    with pytest.raises((ValueError, LookupError), match=REFUSED[name, family]):
        model.logits(batch, using=INTERVENTIONS[name].strong)


def test_every_method_is_tried_somewhere():
    tried = {name for name, family in CELLS if (name, family) not in REFUSED and family in FEW}
    assert tried == set(INTERVENTIONS)
    for method in INTERVENTIONS.values():
        assert method.of in ("text", "image") and method.paper and method.inert and method.strong
        assert method() == method() != method.strong()  # settings and nothing else


def test_methods_of_images_refuse_text_and_say_what_there_is():
    model, batch, _ = opened("llama")
    for method in INTERVENTIONS.values():
        if method.of == "image":
            with pytest.raises(ValueError, match="reads text only"):
                model.logits(batch, using=method())


def test_methods_refuse_encoders():
    family = FAMILIES["bert"]
    model = interp.wrap(family.model())
    prompt = interp.Prompt.from_inputs(model, family.inputs(model.hf))
    for method in INTERVENTIONS.values():
        with pytest.raises(ValueError, match="decoder-only or vision-language|reads text only"):
            model.logits(prompt, using=method.strong)


def test_hooks_beside_a_method_in_a_block():
    """They run, and one that never did is told of; so is a method's."""
    model, batch, _ = opened("llava")
    seen = []
    look = Hook("z", lambda z, at: seen.append(at.layer), [1])
    late = Hook("pattern", lambda pattern, at: None, [1], within=(90, None))
    with model.using(INTERVENTIONS["PAI"].strong(), look):
        model.hf(**batch.inputs)
        model.hf(**batch.inputs)
    assert seen == [1, 1]
    for items in ((INTERVENTIONS["PAI"].strong(), late), (Late(late),)):
        with pytest.raises(LookupError, match="never ran"), model.using(*items):
            model.hf(**batch.inputs)
    with model.using(INTERVENTIONS["PAI"].strong(), late):
        pass  # nothing was run: nothing to complain of


@dataclass(frozen=True)
class Late(Intervention):
    hook: Hook

    def plan(self, model, prompt):
        return prompt, [self.hook]


# Wrong interventions, each in one way that is easily gone wrong in.


@dataclass(frozen=True)
class Planted(Intervention):
    strength: float = 1.0
    inert: ClassVar[Settings] = Settings(strength=0.0)
    strong: ClassVar[Settings] = Settings(strength=4.0)

    def plan(self, model, prompt):
        return prompt, [] if self.strength == 0 else self.hooks(model, prompt)


class Right(Planted):
    """Takes from the first token in rows of the answer; nothing is wrong with it."""

    def hooks(self, model, prompt):
        first = prompt.where("first")

        def away(scores, at):
            return scores - self.strength * over_keys(first, scores, at)[:, None, None].to(scores)

        return [Hook("scores", away, [2, 3], rows=True)]


class NotInert(Right):
    """What does nothing to the value still opens the map, and rounds."""

    def plan(self, model, prompt):
        return prompt, self.hooks(model, prompt)


class Weak(Right):
    strong: ClassVar[Settings] = Settings(strength=1e-7)


class Uncovers(Planted):
    """Gives weight to keys that are hidden."""

    def hooks(self, model, prompt):
        def flat(pattern, at):
            even = torch.full_like(pattern, 1 / pattern.shape[-1])
            return 0.5 * pattern + 0.5 * even

        return [Hook("pattern", flat, [2])]


class NotNormed(Planted):
    def hooks(self, model, prompt):
        return [Hook("pattern", lambda pattern, at: pattern * 1.2, [2])]


class OneRow(Planted):
    """Takes the first row's places for everybody's."""

    def hooks(self, model, prompt):
        keys = int(prompt.where("first")[0].nonzero()[0])

        def away(scores, at):
            changed = scores.clone()
            changed[..., keys] = changed[..., keys] - self.strength
            return changed

        return [Hook("scores", away, [2, 3])]


class CountsRows(Planted):
    """Takes a row's number in the call for its position: at.first is forgotten."""

    def hooks(self, model, prompt):
        def later(z, at):
            position = torch.arange(z.shape[1])
            return z * (1 + 0.1 * self.strength * position).view(1, -1, 1, 1)

        return [Hook("z", later, [1])]


class LastOnly(Planted):
    """Acts on the last row of each call: each token that is written, or one of the whole text."""

    def hooks(self, model, prompt):
        def last(value, at):
            changed = value.clone()
            changed[:, -1] *= self.strength
            return changed

        return [Hook("attn_out", last, [2])]


class Remembers(Right):
    """Keeps state of a run on itself, where another thread or run finds it."""

    seen: ClassVar[list] = []

    def hooks(self, model, prompt):
        def louder(z, at):
            self.seen.append(1)
            return z * (1 + 0.01 * len(self.seen))

        return [Hook("z", louder, [2])]


class BeamBlind(Planted):
    """Holds the batch for the prompt's rows, where beams have made more of them."""

    def hooks(self, model, prompt):
        scale = torch.ones(len(prompt), 1, 1, 1) * self.strength
        return [Hook("z", lambda z, at: z * scale, [2])]


class LogitsOnce(Planted):
    """Changes what is said in `generate`, and not in a forward."""

    def hooks(self, model, prompt):
        def turned(ids, logits, at):
            return -logits if logits.shape[1] == 1 else logits

        return [LogitsHook(turned)]


FAULTS = {
    NotInert: "inert_is_plain_to_the_bit",
    Weak: "strong_is_not",
    Uncovers: "patterns_stay_patterns",
    NotNormed: "patterns_stay_patterns",
    OneRow: "a_padded_batch_is_each_alone",
    CountsRows: "cached_uncached_and_one_shot_are_one",
    LastOnly: "cached_uncached_and_one_shot_are_one",
    Remembers: "every_way_of_asking_is_the_same",
    BeamBlind: "beams_run",
    LogitsOnce: "cached_uncached_and_one_shot_are_one",
}


def failing(method, name):
    found = set()
    for check in [*WIDE, *DEEP]:
        try:
            check(Case(method, name))
        except (AssertionError, RuntimeError, ValueError, IndexError):
            found.add(check.__name__)
    return found


@pytest.mark.parametrize("name", ["llama", "llava"])
def test_nothing_is_held_against_a_right_one(name):
    assert failing(Right, name) == set()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_wrong_one_is_found_out(fault):
    assert FAULTS[fault] in failing(fault, "llama")
