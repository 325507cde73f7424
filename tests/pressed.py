"""Shared by tests of interventions on scores: tiny models, hooks by hand, ways of running that must agree."""

import torch

import interp
from interp.families import FAMILIES
from interp.families.tiny import FIRST_WORD
from interp.live import Run
from interp.prompt import Prompt
from interp.responses import respond
from interp.sites import At


def tiny(family: str, batch: int = 1, length: int = 12, seed: int = 0, double: bool = False):
    """A tiny model of the family, and a prompt of random words for it."""
    model = interp.wrap(FAMILIES[family].model())
    inputs = FAMILIES[family].inputs(model.hf, batch=batch, length=length, seed=seed)
    if double:
        model.hf.double()
        inputs = {
            name: one.double() if one.is_floating_point() else one for name, one in inputs.items()
        }
    return model, Prompt.from_inputs(model, inputs)


def marked(prompt: Prompt, *positions: int, row: int | None = None) -> torch.Tensor:
    mask = torch.zeros_like(prompt.mask)
    mask[slice(None) if row is None else row, list(positions)] = True
    return mask


def called(
    hook, scores: torch.Tensor, first: int | None = None, prefill: bool = False
) -> torch.Tensor:
    """The hook's function on scores of the last rows, or of rows from `first` on."""
    keys, rows = scores.shape[-1], scores.shape[-2]
    first = keys - rows if first is None else first
    return hook.fn(scores, At("scores", "text", 0, first, 0, prefill, {}, Run(start=0)))


def padded(model, inputs: dict, left: int) -> Prompt:
    """The same rows with `left` padding positions before them."""
    ids = inputs["input_ids"]
    pad = torch.zeros(len(ids), left, dtype=ids.dtype)
    wide = dict(inputs, input_ids=torch.cat([pad, ids], 1))
    wide["attention_mask"] = torch.cat([torch.zeros_like(pad), torch.ones_like(ids)], 1)
    for name in set(wide) - {"input_ids", "attention_mask"}:
        if wide[name].shape == ids.shape:  # token types
            wide[name] = torch.cat([torch.zeros_like(pad), wide[name]], 1)
    return Prompt.from_inputs(model, wide)


def agree(model, prompt: Prompt, using, tolerance: float = 2e-4, at_once: bool = True) -> None:
    """With a cache, without, and in one forward over prompt and answer: the same logits; and beams run."""
    new = 5
    asked = {"do_sample": False, "max_new_tokens": new, "min_new_tokens": new}
    asked["suppress_tokens"] = list(range(FIRST_WORD))  # such as an image's
    told = {"return_dict_in_generate": True, "output_logits": True}
    cached = model.generate(prompt, using=using, **asked, **told)
    again = model.generate(prompt, using=using, use_cache=False, **asked, **told)
    assert torch.equal(cached.sequences, again.sequences)
    steps = torch.stack(cached.logits, 1)
    torch.testing.assert_close(steps, torch.stack(again.logits, 1), atol=tolerance, rtol=0)
    beams = model.generate(prompt, using=using, num_beams=3, **asked)
    assert beams.shape == cached.sequences.shape
    if not at_once:
        return
    whole = respond(model, prompt, cached.sequences[:, prompt.length :])
    with torch.no_grad():
        found = model.logits(whole, using=using)[:, prompt.length - 1 : -1]
        plain = model.logits(whole)[:, prompt.length - 1 : -1]
    torch.testing.assert_close(steps, found, atol=tolerance, rtol=0)
    assert (found - plain).abs().amax((0, 2)).min() > tolerance  # each step is steered
