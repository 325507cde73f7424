"""nnsight's own client against a server in a process without interp: traces and edits over the wire."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import interp
from interp.interventions import PAI, VAR, VCD
from interp.metrics import logit_diff
from interp.points import default_prompt, disturb
from interp.shipped import find
from interp.sites import SITES, Hook
from tests.test_backend_nnsight import close

pytest.importorskip("nnsight")
pytest.importorskip("tornado")
SERVER = Path(__file__).with_name("pretend_ndif.py")


def reachable(process, seconds=120):
    """The port that the server prints; it is ended when it does not."""
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        return int(process.stdout.readline())
    finally:
        timer.cancel()


@pytest.fixture(scope="module")
def served():
    """demo-vlm here, and demo-vlm on a server."""
    folder = str(find("demo-vlm"))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.Popen(
        [sys.executable, "-P", str(SERVER), folder, "image-text-to-text"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd="/",
        env=environment | {"OMP_NUM_THREADS": "1"},
    )
    try:
        address = f"http://127.0.0.1:{reachable(process)}"
        theirs = interp.load("demo-vlm", backend="nnsight", remote=address)
        from nnsight.modeling import huggingface
        from nnsight.schema.config import CONFIG

        CONFIG.APP.REMOTE_LOGGING = False
        huggingface._ID_CACHE[folder] = folder  # else the hub is asked how it spells the name
        yield interp.load("demo-vlm"), theirs
    finally:
        process.kill()
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="module")
def plain(served):
    return served[0]


@pytest.fixture(scope="module")
def remote(served):
    return served[1]


@pytest.fixture(scope="module")
def prompt(remote):
    return default_prompt(remote)


@torch.no_grad()
def test_traces_over_the_wire(plain, remote, prompt):
    assert all(weight.is_meta for weight in remote.hf.parameters())
    assert prompt.mask.device.type == "cpu"
    assert prompt.tokens == default_prompt(plain).tokens
    assert close(remote.logits(prompt), plain.logits(prompt))
    for stack in plain.stacks:
        expected, found = plain.trace(prompt, stack=stack), remote.trace(prompt, stack=stack)
        assert set(found) == set(expected) and len(expected) > len(SITES)
        assert all(close(found[key], expected[key]) for key in expected)


@torch.no_grad()
@pytest.mark.parametrize("stack", ["text", "vision"])
def test_edits_over_the_wire(plain, remote, prompt, stack):
    base = plain.logits(prompt)
    for site in SITES:
        hook = Hook(site, disturb, layers=1, stack=stack)
        expected = plain.logits(prompt, hooks=hook)
        assert close(remote.logits(prompt, hooks=hook), expected), site
        assert not close(expected, base), site


@torch.no_grad()
def test_hooks_with_heads_rows_and_spans(plain, remote, prompt):
    def less(value, at):
        image = at.where("image", value)[:, None, None, :]
        return torch.where(image, value * 0.1, value)

    def kept(value, at):
        at.memo["scale"] = float(value.abs().mean())

    hooks = [
        Hook("pattern", less, layers=2, heads=[1, 5], within=(40, None)),
        Hook("pattern", lambda value, at: value * 0.5, layers=2),
        Hook("q", kept, layers=1),
        Hook("z", lambda z, at: z / at.memo["scale"], layers=1, heads=3),
    ]
    found = remote.trace(prompt, "pattern", "attn_out", hooks=hooks)
    expected = plain.trace(prompt, "pattern", "attn_out", hooks=hooks)
    assert close(found.logits, expected.logits)
    assert all(close(found[key], expected[key]) for key in expected)
    assert not close(expected.logits, plain.logits(prompt))


@torch.no_grad()
def test_a_hook_that_only_reads_reads_here(plain, remote, prompt):
    seen = []

    def look(value, at):
        seen.append((at.layer, at.prompt.length, value.sum().item()))

    hooks = [
        Hook("resid_pre", lambda value, at: value * 2, layers=2),
        Hook("pattern", look, heads=2),
    ]
    remote.logits(prompt, hooks=hooks)
    there = list(seen)
    assert [one[0] for one in there] == list(range(plain.stacks["text"].size))
    values = plain.trace(prompt, "pattern", heads=2, hooks=hooks[0])
    sums = torch.tensor([float(values["pattern", layer].sum()) for layer, *_ in there])
    assert close(torch.tensor([one[2] for one in there]), sums)


@torch.no_grad()
@pytest.mark.parametrize("name", ["entropy", "visual_share", "massive"])
def test_metrics_are_measured_here(plain, remote, prompt, name):
    expected, found = plain.trace(prompt, keep=name), remote.trace(prompt, keep=name)
    assert set(found) == set(expected) and all(close(found[key], expected[key]) for key in expected)


@torch.no_grad()
def test_interventions_that_can_travel(plain, remote, prompt):
    expected = plain.logits(prompt, using=PAI(**PAI.strong))
    assert close(remote.logits(prompt, using=PAI(**PAI.strong)), expected)
    assert not close(expected, plain.logits(prompt))
    with pytest.raises(
        ValueError, match="weights of this LlavaForConditionalGeneration are on a server"
    ):
        remote.logits(prompt, using=VCD(**VCD.strong))
    with pytest.raises(ValueError, match="cannot be sent to a server"):
        remote.logits(prompt, using=VAR(**VAR.strong))


@torch.no_grad()
def test_a_sweep_sends_a_request_for_each_cell(plain, remote, prompt):
    settings = {"over": ("layer",), "metric": logit_diff(5, 6), "positions": [3]}
    grids = [model.sweep(prompt, "resid_pre", "zero", **settings) for model in (remote, plain)]
    assert grids[0].path == "whole"
    assert close(*(torch.as_tensor(grid) for grid in grids))


@torch.no_grad()
def test_points(remote, prompt):
    table = remote.points(prompt)
    assert bool(table.read.all()) and bool(table.change.all())
    assert set(table.note) == {"changed in layer 0 alone: each try is a request"}
    assert len(table) == len(SITES) * sum(stack.size for stack in remote.stacks.values())


@torch.no_grad()
def test_what_goes_wrong_is_told(remote, prompt):
    lock = threading.Lock()

    def holds(value, at):
        with lock:
            return value

    def imports(value, at):
        import interp.sites  # noqa: F401

    def fails(value, at):
        raise KeyError("mine")

    with pytest.raises(ValueError, match="holds at z cannot be sent to a server"):
        remote.logits(prompt, hooks=Hook("z", holds))
    with pytest.raises(RuntimeError, match="No module named 'interp.sites'"):  # the server has none
        remote.logits(prompt, hooks=Hook("z", imports))
    with pytest.raises(RuntimeError, match="the server could not do it: KeyError: 'mine'"):
        remote.logits(prompt, hooks=Hook("z", fails))
    with pytest.raises(RuntimeError, match="no span 'kitten' went along"):
        remote.logits(prompt, hooks=Hook("z", lambda z, at: at.where("kitten", z)))
    with pytest.raises(RuntimeError, match="all of it must stay"):
        remote.logits(prompt, hooks=Hook("z", lambda z, at: z[:, :1]))
    with pytest.raises(ValueError, match="generate is not offered on a server"):
        remote.generate(prompt)
    with pytest.raises(ValueError, match="give hooks to trace or logits"):
        remote.using(Hook("z", fails))
    with pytest.raises(ValueError, match="these are on a server"):
        interp.load("demo-vlm", backend="nnsight", remote=True, fault="shouted_down")
    with pytest.raises(ValueError, match="the server's to choose"):
        interp.load("demo-vlm", backend="nnsight", remote=True, device="cpu")


@torch.no_grad()
def test_a_rehearsal_in_this_process():
    plain, ours = interp.load("demo-lm"), interp.load("demo-lm", backend="nnsight", remote="local")
    prompt = ours.encode("the cat sat on")
    expected, found = plain.trace(prompt), ours.trace(prompt)
    assert set(found) == set(expected) and all(close(found[key], expected[key]) for key in expected)
    seen = []
    hooks = [
        Hook("z", lambda z, at: z * 0.3, layers=1, heads=[0, 2]),
        Hook("q", lambda q, at: seen.append(at.layer)),
    ]
    assert close(ours.logits(prompt, hooks=hooks), plain.logits(prompt, hooks=hooks[0]))
    assert seen == [0, 1, 2, 3]
