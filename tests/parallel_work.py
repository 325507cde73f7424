"""What is measured on a model in one process, and on the same model shared out over several.

    torchrun-style environment: python tests/parallel_work.py FOLDER

opens each model of FOLDER with a tensor parallel plan, and saves what it measured as FOLDER/rank0.pt.
"""

import os
import sys
from pathlib import Path

import pytest
import torch

import interp
from interp import Hook
from interp.interventions import INTERVENTIONS
from interp.making import weights_digest
from interp.metrics import Metric, logit_diff
from interp.weights import head_weights
from tests.documented import ROOT, snippets

LARGE = ROOT / "docs" / "large_models.md"
TEXTS = ["The cat sat on the mat and the cat", "A dog and a cow"]
GREEDY = {"max_new_tokens": 6, "do_sample": False}
HEADS = ("q", "scores", "pattern", "z")
KEPT = ("entropy", "received", "sink", "waad", "previous", "chunks", "value_drain", "written")
STEERED = ("ACT", "IRI", "PAI", "PASTA", "VAR", "VHR", "VCD")
REFUSED = {  # a folder of this name, and what is asked beside the plan
    "mqa": {},
    "gpt2": {},
    "demo-lm": {"fault": "shouted-down"},
    "qwen3": {"device": "cpu"},
    "mixtral": {"device_map": "auto"},
}
LAYERS = (1, 2)
UNKNOWN = ("granite_swa",)  # attention that only the family's own function can compute


class Loudest(Metric):
    """The strongest look of any head, per query: of all heads at once, so no process can say it alone."""

    name = "loudest"
    per = "over heads"

    def start(self, extent):
        return torch.zeros(extent.batch, extent.queries)

    def add(self, total, block, extent):
        found = block.pattern.amax((1, 3)).to(total)
        own = total[block.batch, block.rows]
        total[block.batch, block.rows] = torch.maximum(own, found)


def hooks():
    """Edits by name: some of all heads, some of a few that lie in several processes, some streamed."""
    return {
        "q": Hook("q", lambda value, at: value.flip(2)),
        "k": Hook("k", lambda value, at: value * 1.2, heads=[1]),
        "v": Hook("v", lambda value, at: value.flip(2), layers=[2]),
        "scores": Hook("scores", lambda value, at: value * 1.5 - value.mean(1, keepdim=True)),
        "rows": Hook(
            "scores", lambda value, at: value * 1.5, rows=True, within=(2, None), heads=[1, 2]
        ),
        "pattern": Hook("pattern", lambda value, at: value.flip(1), layers=[1], heads=[0, 3]),
        "z": Hook("z", lambda value, at: value * 0, layers=[1], heads=[3, 1]),
        "attn_out": Hook("attn_out", lambda value, at: value.roll(1, -1), layers=[2]),
        "mlp_out": Hook("mlp_out", lambda value, at: value.roll(1, -1), layers=[2]),
    }


def off(ours, theirs):
    """The largest difference, by the largest value; what a mask hides counts as it is shown."""
    assert ours.shape == theirs.shape
    if not ours.is_floating_point():
        return float(not torch.equal(ours, theirs))
    hidden = torch.finfo(theirs.dtype).min / 2
    assert torch.equal(ours <= hidden, theirs <= hidden)
    ours, theirs = (one.masked_fill(theirs <= hidden, 0) for one in (ours, theirs))
    return float((ours - theirs).abs().max()) / max(1.0, float(theirs.abs().max()))


def traced(model, prompt):
    found = model.trace(prompt)
    values = {f"{site} {layer}": found[site, layer] for site, layer in found}
    own = [] if model.config.model_type in UNKNOWN else [Loudest()]
    kept = model.trace(prompt, keep=[*KEPT, *own])
    values |= {f"{name} {layer}": kept[name, layer].nan_to_num() for name, layer in kept}
    values |= {"logits": found.logits, "heads": model.trace(prompt, "z", heads=[2, 0])["z"]}
    return values


def edited(model, prompt, write=True):
    values = {}
    for name, hook in hooks().items():
        seen = model.trace(prompt, "z", keep=["entropy"], hooks=hook)
        values[f"{name}: logits"] = seen.logits
        values[f"{name}: z"] = seen["z"]
        values[f"{name}: entropy"] = seen["entropy"]
        if write:
            values[f"{name}: text"] = model.generate(prompt, hooks=hook, **GREEDY)
    with model.using(*hooks().values()):
        values["using: logits"] = model.hf(**prompt.inputs).logits
    return values


def graded(model, prompt):
    """Gradients of a logit, at every site."""
    values = {}
    for site in ("resid_pre", "q", "k", "v", "scores", "pattern", "z", "attn_out", "mlp_out"):
        seen = model.trace(prompt, site)
        grads = torch.autograd.grad(seen.logits[:, -1, 5].sum(), [seen[site, at] for at in LAYERS])
        values[f"gradient at {site}"] = torch.stack(grads)
    return values


def swept(model, prompt):
    values = {}
    for site in ("resid_pre", "k", "pattern", "z", "mlp_out"):
        over = ("layer", "head") if site in ("k", "pattern", "z") else ("layer", "position")
        grid = model.sweep(prompt, site, "zero", over=over, metric=logit_diff(5, 7))
        assert grid.path == "positions", grid.why
        values[f"sweep of {site}"] = torch.Tensor(grid)
    return values


def of_lm(model):
    two, one = model.encode(TEXTS), model.encode(TEXTS[0])
    values = {**edited(model, two), **graded(model, one), **swept(model, two)}
    weights = head_weights(model)
    values |= {f"weights {name}": getattr(weights, name) for name in ("q", "o", "embed", "unembed")}
    digest = torch.tensor([ord(one) for one in weights_digest(model.hf)])
    with torch.no_grad():
        values |= traced(model, two)
        values["beams"] = model.generate(one, hooks=hooks()["scores"], num_beams=2, **GREEDY)
    return {**values, "digest": digest}


@torch.no_grad()
def of_vlm(model):
    record = interp.Task.load("existence", count=1)[0]
    prompt = model.encode(record.prompt, images=record.image)
    seen = model.trace(prompt, "pattern", "z", stack=["text", "vision"], keep=["entropy"])
    values = {str(key): seen[key] for key in seen}
    for name in STEERED:
        method = INTERVENTIONS[name](**dict(INTERVENTIONS[name].strong))
        values[f"{name}: logits"] = model.logits(prompt, using=method)
        values[f"{name}: text"] = model.generate(prompt, using=method, **GREEDY)
    return values


@torch.no_grad()
def of_family(model):
    ids = torch.randint(10, 120, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    prompt = interp.Prompt.from_inputs(model, {"input_ids": ids, "attention_mask": mask})
    return traced(model, prompt) | edited(model, prompt, write=False)


def of_unknown(model):
    """Maps pass through the family's own function; what reads all heads at once is refused."""
    values = of_family(model)
    spread = model.places[model.stacks["text"].layers[0].attention].split is not None
    if spread:
        with pytest.raises(ValueError, match="reads all heads of a map at once"):
            model.trace([[11, 12, 13]], keep=Loudest())
    grid = model.sweep([[11, 12, 13]], "z", over="layer", metric=logit_diff(5, 7))
    return values | {"sweep": torch.Tensor(grid)}


def measured(name, model):
    of = {"demo-lm": of_lm, "demo-vlm": of_vlm, **dict.fromkeys(UNKNOWN, of_unknown)}
    of = of.get(name, of_family)
    return {what: value.detach() for what, value in of(model).items()}


def _refusals(folder):
    said = {}
    for name, beside in REFUSED.items():
        path = name if name.startswith("demo-") else folder / name
        try:
            interp.load(path, tp_plan="auto", **beside)
        except ValueError as problem:
            said[name] = str(problem)
    return said


def main(folder):
    rank, names = int(os.environ["RANK"]), (folder / "names").read_text().split()
    found = {"refused": _refusals(folder)}
    for script in snippets(LARGE.read_text(encoding="utf-8"))[1:]:
        exec(script, {})
    for name in names:
        path = name if name.startswith("demo-") else folder / name
        found[name] = measured(name, interp.load(path, tp_plan="auto"))
    torch.save(found, folder / f"rank{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
