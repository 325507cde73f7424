"""A prompt together with the answer to it, so that one forward shows every step of writing it."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.prompt import Prompt
from interp.tokens import check_fit, check_ids

if TYPE_CHECKING:
    from interp.model import Model

SPAN = "response"
OWN = ("prompt", "first", "last")  # spans that every prompt has of itself


def respond(model: "Model", prompt: Any, answer: Any = None, **generate: Any) -> Prompt:
    """The prompt continued by its answer, the span `response` marking it.

    `answer` is a text, or ids [batch, position], taken as it is; without one the model writes it, with
    `generate`'s options, and rows that end early are padded behind their end token.
    """
    prompt = prompt if isinstance(prompt, Prompt) else model.encode(prompt)
    if prompt.ids is None or model.config.is_encoder_decoder:
        raise ValueError(
            f"{model.name} does not go on from its prompt, so no response follows it; give a decoder-only "
            "or vision-language model, and a prompt of text."
        )
    added = _written(model, prompt, generate) if answer is None else _given(model, prompt, answer)
    if added.shape[1] == 0:
        why = "ask for min_new_tokens=1" if answer is None else "give at least one token"
        raise ValueError(f"the response is empty: {why}.")
    check_ids(model, added.tolist())
    check_fit(model, prompt.length + added.shape[1])
    real = _before_padding(model, added) if answer is None else torch.ones_like(added).bool()
    written = model.family.written if model.family is not None else 0
    inputs = {
        name: _longer(name, value, prompt, added, written) for name, value in prompt.inputs.items()
    }
    inputs["attention_mask"] = torch.cat([prompt.mask.to(real.device), real], 1).long()
    whole = Prompt.from_inputs(model, inputs)
    whole.mask = inputs["attention_mask"].bool()
    spans = {name: prompt.where(name) for name in prompt.names if name not in OWN}
    none = torch.zeros_like(real)
    whole.spans = {name: torch.cat([span.to(none.device), none], 1) for name, span in spans.items()}
    whole.spans.setdefault("question", torch.cat([prompt.mask.to(none.device), none], 1))
    whole.spans[SPAN] = torch.cat([torch.zeros_like(prompt.mask).to(real.device), real], 1)
    return replace(whole, images=prompt.images, tokenizer=prompt.tokenizer)


def _written(model: "Model", prompt: Prompt, generate: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        ids = model.generate(prompt, **{"do_sample": False, "max_new_tokens": 64, **generate})
    ids = getattr(ids, "sequences", ids)
    if len(ids) != len(prompt):
        raise ValueError(
            f"generate gave {len(ids)} answers to {len(prompt)} prompts; one each, please "
            "(num_return_sequences=1)."
        )
    return ids[:, prompt.length :]


def _given(model: "Model", prompt: Prompt, answer: Any) -> Tensor:
    if isinstance(answer, str):
        if model.tokenizer is None:
            raise ValueError("an answer in words is read by a tokenizer, and this model has none.")
        ids = model.tokenizer(answer, add_special_tokens=False)["input_ids"]
        answer = torch.tensor([ids] * len(prompt), dtype=torch.long)
    answer = torch.as_tensor(answer)
    if answer.ndim != 2 or len(answer) != len(prompt) or answer.is_floating_point():
        raise ValueError(
            f"answer= is a text, or ids [batch, position] for {len(prompt)} rows, not "
            f"{tuple(answer.shape)} {answer.dtype}."
        )
    return answer.to(prompt.mask.device)


def _before_padding(model: "Model", added: Tensor) -> Tensor:
    """True up to and with each row's end token."""
    ends = getattr(model.hf.generation_config, "eos_token_id", None)
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    over = torch.isin(added, torch.tensor(ends, device=added.device, dtype=added.dtype))
    return (over.long().cumsum(1) - over.long()) == 0


def _longer(name: str, value: Any, prompt: Prompt, added: Tensor, written: int) -> Any:
    """An input with the answer behind it; what is not counted by position stays."""
    if name == "input_ids":
        return torch.cat([value, added.to(value)], 1)
    if isinstance(value, Tensor) and value.shape == prompt.mask.shape and name != "attention_mask":
        kind = written if name == "token_type_ids" else 0  # token types: text
        return torch.cat([value, torch.full_like(added, kind).to(value)], 1)
    return value
