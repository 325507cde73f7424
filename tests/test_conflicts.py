"""Two interventions that may rewrite the same entries are told of, at the user's line; others are not."""

import warnings
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

import interp
from interp import Hook
from interp.families import FAMILIES
from interp.interventions import ACT, PAI, PASTA, VAR, VCD, Conflict, Report
from interp.sites import LogitsHook
from interp.steering.intervention import Intervention
from tests.test_padding import pad

GREEDY = {"max_new_tokens": 3, "do_sample": False}


def opened(name):
    family = FAMILIES[name]
    hf = family.model()
    image = getattr(hf.config, "image_token_id", None)
    if image is not None:
        hf.generation_config.suppress_tokens = [image]
    model = interp.wrap(hf)
    rows = [family.inputs(hf, length=length, seed=length) for length in (12, 9)]
    return model, interp.Prompt.from_inputs(model, pad(rows, 0))


@pytest.fixture(scope="module")
def llama():
    return opened("llama")


@pytest.fixture(scope="module")
def llava():
    return opened("llava")


def half(value, at):
    return value * 0.5


def look(value, at) -> None:
    """Reads, and says so."""


@dataclass(frozen=True)
class One(Intervention):
    hooks: Any = field(default=(), hash=False)

    def plan(self, model, prompt):
        return prompt, list(self.hooks)


class Other(One):
    pass


def told(model, prompt, using, run=None):
    """What is said of a run; other warnings are not expected."""
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        (run or (lambda: model.logits(prompt, using=using)))()
    assert all(issubclass(one.category, Conflict) for one in caught), [
        str(one.message) for one in caught
    ]
    return [str(one.message) for one in caught], caught


def turned(ids, logits, at):
    return logits * 0.5


PATTERN, SCORES = Hook("pattern", half, [1]), Hook("scores", half, [1])
PAIRS = {
    "same": (
        Hook("pattern", half, [1, 2]),
        Hook("pattern", half, [2, 3]),
        "attention of the same heads and rows in layers [2]",
    ),
    "all layers": (Hook("pattern", half), Hook("scores", half), "in layers [0, 1, 2, 3]"),
    "scores, pattern": (SCORES, PATTERN, "One is first, and Other works on what it leaves"),
    "pattern, scores": (
        PATTERN,
        SCORES,
        "scores come before the pattern, whatever the order in the list, so Other is first, and One works on",
    ),
    "rows": (
        Hook("pattern", half, [1], within=(2, 6)),
        Hook("pattern", half, [1], within=(5, None)),
        "in layers [1]",
    ),
    "all rows": (Hook("pattern", half, [1], within=(2, 6)), PATTERN, "in layers [1]"),
    "heads": (
        Hook("z", half, [1], heads=[0, 1]),
        Hook("z", half, [1], heads=[1, 2]),
        "both rewrite z in layers [1]",
    ),
    "all heads": (
        Hook("z", half, [1]),
        Hook("z", half, [1], heads=[-1]),
        "rewrite z in layers [1]",
    ),
    "negative": (
        Hook("z", half, [-1], heads=[-1]),
        Hook("z", half, [3], heads=[3]),
        "in layers [3]",
    ),
    "outputs": (Hook("mlp_out", half, [0]), Hook("mlp_out", half, [0, 1]), "mlp_out in layers [0]"),
    "lens names": (Hook("blocks.1.attn.hook_pattern", half), SCORES, "in layers [1]"),
    "logits": (LogitsHook(turned), LogitsHook(turned), "both change the logits: One first"),
}


@pytest.mark.parametrize("case", PAIRS)
def test_methods_that_meet_are_told_of_once(llama, case):
    model, prompt = llama
    one, other, expected = PAIRS[case]
    for hooks in ([One([one]), Other([other])], Report(One([one]), Other([other]))):
        (said,), (caught,) = told(model, prompt, hooks)
        assert said.startswith("One and Other both ") and expected in said
        assert caught.filename == __file__


APART = {
    "layers": (PATTERN, Hook("pattern", half, [2])),
    "heads": (Hook("pattern", half, [1], heads=[0, 1]), Hook("scores", half, [1], heads=[2])),
    "rows": (
        Hook("pattern", half, [1], within=(2, 6)),
        Hook("pattern", half, [1], within=(6, None)),
    ),
    "rows before": (
        Hook("pattern", half, [1], within=(6, 8)),
        Hook("scores", half, [1], within=(0, 6)),
    ),
    "sites": (Hook("z", half, [1]), PATTERN),
    "outputs": (Hook("attn_out", half, [1]), Hook("mlp_out", half, [1])),
    "kv": (Hook("k", half, [1]), Hook("v", half, [1])),
    "reading": (Hook("resid_pre", look, [1]), Hook("resid_pre", half, [1])),
    "both reading": (Hook("resid_pre", look, [1]), Hook("resid_pre", look, [1])),
    "logits": (LogitsHook(turned), PATTERN),
}


@pytest.mark.parametrize("case", APART)
def test_methods_that_do_not_meet_are_not(llama, case):
    model, prompt = llama
    one, other = APART[case]
    assert told(model, prompt, [One([one]), Other([other])])[0] == []
    assert told(model, prompt, [Other([other]), One([one])])[0] == []


def test_stacks_are_apart(llava):
    model, prompt = llava
    one, other = One([Hook("z", half, [1], stack="vision")]), Other([Hook("z", half, [1])])
    assert told(model, prompt, [one, other])[0] == []
    assert len(told(model, prompt, [one, Other([Hook("z", half, [1], stack="vision")])])[0]) == 1


def test_a_user_s_own_hooks_and_one_method_s_are_left_alone(llama):
    model, prompt = llama
    hook = Hook("pattern", half, [1])
    method = One([hook, Hook("scores", half, [1]), hook])
    for using in (
        [hook, hook],
        [hook, method],
        [method, hook],
        [method],
        Report(hook, method),
        Report(hook, Hook("scores", half)),
    ):
        assert told(model, prompt, using)[0] == []
    run = lambda: model.logits(prompt, using=method, hooks=[hook])  # noqa: E731
    assert told(model, prompt, None, run)[0] == []


def test_two_settings_of_one_method_meet(llava):
    model, prompt = llava
    (said,), _ = told(model, prompt, [PAI(alpha=0.5), PAI(alpha=0.1)])
    assert said.startswith(
        "PAI and PAI both rewrite attention of the same heads and rows in layers [2, 3]"
    )
    assert told(model, prompt, [PAI(layers=[2]), PAI(layers=[3])])[0] == []
    assert told(model, prompt, [PAI.inert, PAI.strong])[0] == []
    (said,), _ = told(model, prompt, [PAI.strong, PAI.strong])
    assert said.startswith("PAI and PAI ")


def test_every_two_that_meet_are_named(llama):
    model, prompt = llama
    hook = Hook("pattern", half, [1])

    class Third(One):
        pass

    said, _ = told(model, prompt, [One([hook]), Other([hook]), Third([hook, Hook("z", half)])])
    pairs = [sentence.split(" both ")[0] for sentence in said]
    assert pairs == ["One and Other", "One and Third", "Other and Third"]
    several = [Hook("pattern", half, [1]), Hook("z", half, [2])]
    said, _ = told(model, prompt, [One(several), Other(several)])
    assert [sentence.split(" in layers")[0] for sentence in said] == [
        "One and Other both rewrite attention of the same heads and rows",
        "One and Other both rewrite z",
    ]


def test_real_methods(llava):
    model, prompt = llava
    (said,), _ = told(model, prompt, [VAR.strong, PAI.strong])
    assert "VAR and PAI" in said and "so PAI is first" in said
    (said,), _ = told(model, prompt, [PAI.strong, ACT(layers=[2, 3])])
    assert (
        said.startswith("PAI and ACT") and "PAI is first" in said
    )  # at the last row of the prompt
    assert told(model, prompt, [VAR.strong, VCD.strong])[0] == []
    given = {"highlight": "first"}
    meets = [PASTA(**given, heads=[(1, 0), (2, 3)]), PASTA(**given, heads=[(2, 3)])]
    (said,), _ = told(model, prompt, meets)
    assert "in layers [2]" in said
    apart = [PASTA(**given, heads=[(1, 0), (2, 3)]), PASTA(**given, heads=[(2, 2), (3, 3)])]
    assert told(model, prompt, apart)[0] == []


VERBS = {
    "logits": lambda model, prompt, using: model.logits(prompt, using=using),
    "trace": lambda model, prompt, using: model.trace(prompt, "z", using=using),
    "generate": lambda model, prompt, using: model.generate(prompt, using=using, **GREEDY),
}


@pytest.mark.parametrize("verb", VERBS)
def test_blocks_around_a_call_are_compared_with_it(llama, verb):
    model, prompt = llama
    one, other = One([Hook("pattern", half, [1])]), Other([Hook("scores", half, [1], heads=[2])])
    far = Other([Hook("scores", half, [2])])

    def run(outer, inner):
        def go():
            with model.using(*outer):
                VERBS[verb](model, prompt, inner)

        return told(model, prompt, None, go)

    (said,), (caught,) = run([one], other)
    assert said.startswith("One and Other both rewrite") and caught.filename == __file__
    assert "so Other is first" in said
    assert run([one], far)[0] == [] and run([Hook("pattern", half)], one)[0] == []
    assert run([one], None)[0] == []
    assert len(run([one, other], None)[0]) == 1 and len(run([far], [one, other])[0]) == 1


def test_nested_blocks_are_compared(llama):
    model, prompt = llama
    one, other = One([Hook("z", half, [1])]), Other([Hook("z", half, [0, 1])])

    def run(*blocks, plain=False):
        def go():
            with model.using(*blocks[0]), model.using(*blocks[1]):
                if plain:
                    model.hf(**prompt.inputs)
                else:
                    model.hf.generate(**prompt.inputs, **GREEDY)

        return told(model, prompt, None, go)

    for plain in (True, False):
        (said,), (caught,) = run([one], [other], plain=plain)  # once, however many steps
        assert said.startswith("One and Other both rewrite z in layers [1]")
        assert "One is first" in said and caught.filename == __file__
        assert run([one], [Hook("z", half)], plain=plain)[0] == []
        assert run([one], [Report(other)], plain=plain)[0] == [said]
    other_model, _ = opened("gpt2")

    def two_models():
        with model.using(one), other_model.using(other):
            model.hf(**prompt.inputs)

    assert told(model, prompt, None, two_models)[0] == []


def test_each_run_says_it_and_it_can_be_silenced(llama):
    model, prompt = llama
    hooks = [One([Hook("z", half, [1])]), Other([Hook("z", half, [1])])]

    def twice():
        model.logits(prompt, using=hooks)
        model.logits(prompt, using=hooks)

    said, caught = told(model, prompt, None, twice)
    assert len(said) == 2 and len({one.lineno for one in caught}) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", Conflict)
        model.logits(prompt, using=hooks)
    with warnings.catch_warnings(), pytest.raises(Conflict, match="both rewrite z"):
        warnings.simplefilter("error", Conflict)
        model.logits(prompt, using=hooks)
    assert interp.live.LIVE.get() == ()


def test_the_warning_stops_nothing(llama):
    model, prompt = llama
    one, other = Hook("z", half, [1]), Hook("z", lambda z, at: z + 1, [1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Conflict)
        given = model.logits(prompt, using=[One([one]), Other([other])])
    assert torch.equal(given, model.logits(prompt, hooks=[one, other]))
