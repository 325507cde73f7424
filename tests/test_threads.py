"""What is live belongs to the context that asked: many threads on one model, and every way out."""

import contextvars
import functools
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import interp
from interp import Hook
from interp.families import FAMILIES
from interp.live import LIVE, RUN
from interp.shadow import _SHADOWS

THREADS, REQUESTS = 8, 2000

HOOK_SETS = {
    "none": (),
    "silence": [Hook("z", lambda z, at: z * 0, layers=[1], heads=[0, 2])],
    "press": [Hook("scores", lambda scores, at: scores * 2, layers=[0, 2])],
    "flat": [Hook("pattern", lambda pattern, at: (pattern > 0) / (pattern > 0).sum(-1, True))],
    "push": [
        Hook("resid_pre", lambda value, at: value + 1, layers=[2]),
        Hook("mlp_out", lambda value, at: -value, layers=[0]),
    ],
}


@pytest.fixture(scope="module")
def model():
    return interp.wrap(FAMILIES["llama"].model())


@pytest.fixture(scope="module")
def prompts(model):
    inputs = [FAMILIES["llama"].inputs(model.hf, length=length, seed=length) for length in (5, 9)]
    return [interp.Prompt.from_inputs(model, item) for item in inputs]


def answer(model, prompt, name, way):
    """One request, through any of the verbs."""
    hooks = HOOK_SETS[name]
    with torch.no_grad():
        if way == "logits":
            return model.logits(prompt, hooks=hooks)
        if way == "trace":
            return model.trace(prompt, "pattern", keep=["received"], hooks=hooks).logits
        if way == "generate":
            return model.generate(prompt, hooks=hooks, max_new_tokens=2, do_sample=False)
        with model.using(*hooks):
            return model.hf(**prompt.inputs).logits


def test_eight_threads_and_two_thousand_requests(model, prompts):
    ways = ["logits", "trace", "using", "generate"]
    cases = [(p, name, way) for p in range(2) for name in HOOK_SETS for way in ways]
    expected = {case: answer(model, prompts[case[0]], *case[1:]) for case in cases}
    distinct = {name: expected[0, name, "logits"] for name in HOOK_SETS}
    assert all(
        not torch.allclose(distinct[one], distinct[other], atol=1e-3)
        for one in distinct
        for other in distinct
        if one < other
    )
    wanted = [random.Random(0).choice(cases) for _ in range(REQUESTS)]
    wrong, leaks = [], []

    def serve(case):
        got = answer(model, prompts[case[0]], *case[1:])
        same = got.shape == expected[case].shape and torch.equal(got, expected[case])
        if not same:
            wrong.append(case)
        if LIVE.get() or RUN.get() is not None:
            leaks.append(case)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(serve, wanted))
    assert (len(wrong), len(leaks)) == (0, 0)
    assert not _SHADOWS


def test_a_thread_started_inside_takes_the_block_along_only_when_told(model, prompts):
    plain = model.logits(prompts[0])
    hooked = model.logits(prompts[0], hooks=HOOK_SETS["silence"])
    results = {}

    def run(name):
        results[name] = model.hf(**prompts[0].inputs).logits

    with model.using(*HOOK_SETS["silence"]):
        context = contextvars.copy_context()
        workers = [
            threading.Thread(target=run, args=("bare",)),
            threading.Thread(target=context.run, args=(run, "carried")),
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert torch.allclose(results["bare"], plain, atol=1e-6)
    assert torch.allclose(results["carried"], hooked, atol=1e-6)


def state(hf):
    """Everything that a hook could leave behind on the modules."""
    return [
        (
            name,
            "forward" in module.__dict__,
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
        )
        for name, module in hf.named_modules()
    ]


def interrupt(value, at):
    raise KeyboardInterrupt


def fail(value, at):
    raise RuntimeError("inside")


@pytest.mark.parametrize("site", ["pattern", "z", "resid_pre", "mlp_out", "k"])
@pytest.mark.parametrize("stop", [interrupt, fail])
def test_nothing_is_left_after_an_exception(model, prompts, site, stop):
    plain = model.logits(prompts[0])
    before = state(model.hf)
    hook = Hook(site, stop, layers=[2])
    generate = functools.partial(model.generate, max_new_tokens=2)
    for call in (model.logits, model.trace, generate):
        with pytest.raises((KeyboardInterrupt, RuntimeError)):
            call(prompts[0], hooks=[*HOOK_SETS["push"], hook])
    with pytest.raises((KeyboardInterrupt, RuntimeError)), model.using(hook):
        model.hf(**prompts[0].inputs)
    assert state(model.hf) == before
    assert not _SHADOWS and LIVE.get() == () and RUN.get() is None
    assert torch.equal(model.logits(prompts[0]), plain)


def test_nothing_is_left_after_normal_and_nested_use(model, prompts):
    plain = model.logits(prompts[0])
    before = state(model.hf)
    with model.using(*HOOK_SETS["silence"]), model.using(*HOOK_SETS["push"]):
        nested = model.hf(**prompts[0].inputs).logits
        traced = model.trace(prompts[0], "z", hooks=HOOK_SETS["press"])
        assert not traced["z", 1][:, :, [0, 2]].any()
    everything = [*HOOK_SETS["silence"], *HOOK_SETS["push"]]
    assert torch.equal(nested, model.logits(prompts[0], hooks=everything))
    assert state(model.hf) == before
    assert torch.equal(model.logits(prompts[0]), plain)


def test_two_models_do_not_see_each_other(prompts, model):
    other = interp.wrap(FAMILIES["llama"].model(seed=1))
    plain = other.logits(prompts[0])
    with model.using(*HOOK_SETS["push"]):
        assert torch.equal(other.logits(prompts[0]), plain)
        with other.using(*HOOK_SETS["silence"]):
            inner = other.hf(**prompts[0].inputs).logits
    assert torch.equal(inner, other.logits(prompts[0], hooks=HOOK_SETS["silence"]))
