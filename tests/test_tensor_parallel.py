"""Two processes that share a model's heads see, measure and change what one process does."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import interp
from interp.families import FAMILIES
from interp.families.tiny import GROUPED
from interp.parallel import check_spread
from tests.parallel_work import KEPT, STEERED, hooks, measured, off

ROOT = Path(__file__).parents[1]
CLOSE = 1e-5
# Grouped heads, norms of each head, soft caps on the family's eager function, experts, heads that the plan
# gathers at once, latent attention, q k v in one projection, learned sinks.
TINY = ("qwen3", "gemma2", "mixtral", "phi3", "deepseek_v3", "gpt_neox", "granite_swa")
NAMES = ("demo-lm", "demo-vlm", *TINY)
LIMIT = 240  # seconds after which the processes are killed


def made(name):
    """A tiny model with random weights; of families that are not in our table too."""
    if name in FAMILIES:
        return FAMILIES[name].model()
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, more = {
        "granite_swa": ("granite_swa", {"sliding_window": 6}),
        "mqa": ("llama", {"num_key_value_heads": 1}),
    }[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hf = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(GROUPED | more)))
        for weight in (weight for path, weight in hf.named_parameters() if "sinks" in path):
            torch.nn.init.normal_(weight)
    return hf.float().eval()


def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What two processes, and this one, measured: (of one process, [of rank 0, of rank 1])."""
    folder = tmp_path_factory.mktemp("parallel")
    for name in (*TINY, "mqa", "gpt2"):
        made(name).save_pretrained(folder / name)
    (folder / "names").write_text(" ".join(NAMES))
    given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port()), "WORLD_SIZE": "2"}
    given |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    script = [sys.executable, str(ROOT / "tests" / "parallel_work.py"), str(folder)]
    running, said = [], [folder / f"said{rank}" for rank in range(2)]
    try:
        for rank, path in enumerate(said):
            own = {**os.environ, **given, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            with path.open("wb") as out:
                running.append(subprocess.Popen(script, env=own, stdout=out, stderr=out))
        alone = {
            name: measured(name, interp.load(name if name in NAMES[:2] else folder / name))
            for name in NAMES
        }
        codes = [one.wait(timeout=LIMIT) for one in running]
    finally:
        for one in running:
            one.kill()
            one.wait(timeout=30)
    assert codes == [0, 0], "\n".join(path.read_text()[-3000:] for path in said)
    return alone, [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", NAMES)
def test_every_process_has_the_numbers_of_one(found, name):
    alone, ranks = found
    for rank in ranks:
        assert rank[name].keys() == alone[name].keys()
        far = {what: off(rank[name][what], value) for what, value in alone[name].items()}
        assert not {what: size for what, size in far.items() if not size <= CLOSE}


def test_both_processes_have_the_same(found):
    _, (first, second) = found
    for name in NAMES:
        for what, value in first[name].items():
            assert torch.equal(value, second[name][what]), (name, what)


def test_what_was_compared_is_not_nothing(found):
    alone, _ = found
    for name in ("demo-lm", *TINY):
        plain = alone[name]["logits"]
        for edit in hooks():
            assert off(alone[name][f"{edit}: logits"], plain) > 1e-3, (name, edit)
        assert all(f"{metric} 0" in alone[name] for metric in KEPT)
    assert "loudest 3" in alone["demo-lm"]
    sums = [float(alone["demo-vlm"][f"{method}: logits"].double().sum()) for method in STEERED]
    assert len(set(sums)) == len(STEERED)
    grads = [value for what, value in alone["demo-lm"].items() if what.startswith("gradient")]
    assert len(grads) == 9 and all(value.abs().max() > 1e-2 for value in grads)


@pytest.mark.parametrize(
    "name, words",
    [
        ("mqa", "4 heads and 1 KV heads, which 2 processes cannot share out equally"),
        ("gpt2", "has no tensor parallel plan"),
        ("demo-lm", "fault='shouted-down' needs all weights in this process"),
        ("qwen3", "device='cpu' and tp_plan both say where the weights go"),
        ("mixtral", "tp_plan and device_map both say where the weights go"),
    ],
)
def test_what_is_refused(found, name, words):
    for rank in found[1]:
        assert words in rank["refused"][name]


@pytest.mark.parametrize(
    "sizes, styles, words",
    [
        ({"pp_size": 2}, {}, "pipeline parallelism"),
        ({"dp_size": 2}, {}, "FSDP"),
        ({"ep_size": 2}, {}, "expert parallelism"),
        ({}, {"model.layers.*.input_layernorm": "sequence_parallel"}, "shares out positions at"),
    ],
)
def test_other_ways_to_spread_are_refused(sizes, styles, words):
    hf = SimpleNamespace(
        config=SimpleNamespace(distributed_config=SimpleNamespace(**sizes)),
        named_parameters=lambda: iter(()),
        tp_plan=styles,
        _device_mesh="a mesh",
    )
    with pytest.raises(ValueError, match=words):
        check_spread(hf, {})


def test_one_process_has_nobody_to_share_with():
    with pytest.raises(ValueError, match="torchrun --nproc-per-node 2"):
        interp.load("demo-lm", tp_plan="auto")
