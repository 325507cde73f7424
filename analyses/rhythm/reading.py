"""Responses, each written or given, and read once with their prompt."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from analyses.rhythm.asked import TRAINED, Asked
from interp.asking import check_metric, choose_layers
from interp.batches import as_task, rows_of
from interp.coupling.heads import chunk_starts, receiver_scores
from interp.credit import credit_layers
from interp.mapping import over
from interp.metrics import METRICS
from interp.prompt import Prompt
from interp.responses import SPAN, respond

if TYPE_CHECKING:
    from interp.metrics import Metric
    from interp.model import Model

STACK = "text"


@dataclass(frozen=True)
class Reading:
    """One response as the model read it, head by head."""

    number: int
    tokens: list[str]
    positions: np.ndarray
    entropy: np.ndarray  # [token]
    heads: np.ndarray  # [head, 2]: layer and number in it
    waad: np.ndarray  # [head, token]
    fai: dict[str, np.ndarray]  # the same, by horizon
    values: dict[str, np.ndarray]  # [head]: spans and receiver score
    chunks: int  # 0: the response was not cut
    written: bool  # by the model here


def check_model(model: "Model") -> None:
    name = type(model.hf).__name__
    if model.kind == "vision":
        raise ValueError(f"{name} reads images alone and writes nothing; give a language model.")
    if STACK not in model.stacks or model.config.is_encoder_decoder:
        check_metric(METRICS["waad"](), next(iter(model.stacks.values())), None)
        raise ValueError(f"{name} does not go on from its prompt; give a decoder-only model.")
    check_metric(METRICS["waad"](), model.stacks[STACK], None)
    if model.hf.get_output_embeddings() is None:
        raise ValueError(f"{name} has no language-model head; open the ...ForCausalLM of it.")


def written_and_read(model: "Model", task: Any, responses: Any, asked: Asked) -> list[Reading]:
    """Each record's response, written where none is given, and read."""
    told = rows_of(model, task, "rhythm") if isinstance(task, Prompt) else as_task(task, "rhythm")
    told = told[: asked.count]
    if responses is not None and (isinstance(responses, str) or len(responses) != len(told)):
        raise ValueError(
            f"responses= is a list, of a text or ids for each of {len(told)} records; "
            f"{'one text was given' if isinstance(responses, str) else f'{len(responses)} were given'}."
        )
    named = [name for name, value in asked.given.items() if value is not None]

    def answered(number: int) -> tuple[Prompt, bool]:
        """The prompt with its response, and whether it was written here."""
        prompt = told[number] if isinstance(told, list) else told[number : number + 1].encode(model)
        own = SPAN in prompt.names
        if named and (own or responses is not None) or own and responses is not None:
            raise ValueError(
                f"{', '.join(named) or 'responses'}= would do nothing: record {number} comes with its "
                f"response, {f'a span {SPAN!r}' if own else 'of responses='}."
            )
        if own:
            return prompt, False
        if responses is not None:
            text = isinstance(responses[number], str)
            answer = (
                responses[number] if text else torch.as_tensor(responses[number]).reshape(1, -1)
            )
            return respond(model, prompt, answer), False
        return _write(model, prompt, asked, number), True

    def one(number: int) -> Reading:
        return _read(model, number, *answered(number), asked)

    return list(over(model, range(len(told)), one, "rhythm"))


def _write(model: "Model", prompt: Prompt, asked: Asked, number: int) -> Prompt:
    options = asked.writing()
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 0
    if 0 < limit < prompt.length + options["max_new_tokens"]:
        raise ValueError(
            f"a prompt of {prompt.length} tokens and {options['max_new_tokens']} new ones do not fit the "
            f"{limit} positions of {model.name}; max_new_tokens={max(1, limit - prompt.length)} would."
        )
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(asked.seed * 1_000_003 + number)  # its own, so that count= changes none
        return respond(model, prompt, **options)


def _read(model: "Model", number: int, prompt: Prompt, written: bool, asked: Asked) -> Reading:
    """One forward over the prompt and its response."""
    positions = np.flatnonzero(prompt.where(SPAN)[0].cpu().numpy())
    _check_response(positions, number, asked)
    first, end = int(positions[0]), int(positions[-1]) + 1
    tokens = prompt.tokens[0][first:end]
    kept = {name: metric for name, metric in asked.metrics().items()
            if name not in TRAINED.values() or getattr(metric, "low", 0) < len(tokens)}  # fmt: skip
    cut = asked.receivers != 0 and (asked.chunks is not None or model.tokenizer is not None)
    starts = chunk_starts(tokens, asked.chunks) if cut else []
    if cut:
        after = [end] if end < prompt.length else []
        kept["chunks"] = METRICS["chunks"]((*(first + start for start in starts), *after))
    found, heads, logits = _measured(model, prompt, kept, asked)
    none = np.full((len(heads), prompt.length), np.nan)
    fai = {name: found.get(name, none)[:, first:end] for name in ("fai", *TRAINED.values())}
    values = {name: found[name] for name in ("span", "span_without_first")}
    matrix = found.get("chunks", np.zeros((len(heads), 0, 0)))[:, : len(starts), : len(starts)]
    values["receiver_score"] = receiver_scores(matrix, asked.proximity, asked.depth_control)
    waad, entropy = found["waad"][:, first:end], _entropy(logits, positions)
    return Reading(number, tokens, positions, entropy, heads, waad, fai, values, len(starts),
                   written)  # fmt: skip


def _measured(
    model: "Model", prompt: Prompt, kept: "dict[str, Metric]", asked: Asked
) -> tuple[dict[str, np.ndarray], np.ndarray, torch.Tensor]:
    """Metrics of all heads of the layers that are read, [head, ...]; layer and number of each; logits."""
    stack = model.stacks[STACK]
    layers = sorted(choose_layers(stack, asked.layers, "pattern"))
    if asked.mode == "rl" and asked.layers is None:
        layers = credit_layers(layers, stack.size)
    with torch.no_grad():
        trace = model.trace(prompt, keep=kept, stack=STACK, layers=layers)
    found = {
        name: np.concatenate([trace[name, layer][0].float().cpu().numpy() for layer in layers])
        for name in kept
    }
    sizes = [(layer, trace["span", layer].shape[1]) for layer in layers]
    heads = np.array([(layer, head) for layer, size in sizes for head in range(size)])
    return found, heads, trace.logits[0]


def _check_response(positions: np.ndarray, number: int, asked: Asked) -> None:
    if not len(positions):
        raise ValueError(f"the response of record {number} is empty: {SPAN!r} marks no token.")
    if positions[-1] - positions[0] >= len(positions):
        raise ValueError(
            f"the response of record {number} is not one stretch: {len(positions)} tokens from "
            f"{positions[0]} to {positions[-1]}. Its curves would have neighbours that are none."
        )
    low, high = asked.horizon
    if low >= len(positions):
        raise ValueError(
            f"the horizon [{low}, {high}] starts {low} tokens after a key, and the response of record "
            f"{number} has only {len(positions)} tokens: every FAI would be undefined. Give a smaller one."
        )


def _entropy(logits: torch.Tensor, positions: np.ndarray) -> np.ndarray:
    """Of the distribution before each token; NaN for a token that nothing stands before."""
    before = logits[torch.as_tensor(positions - 1, device=logits.device)].float()
    entropy = torch.special.entr(torch.softmax(before, -1)).sum(-1).cpu().numpy()
    return np.where(positions > 0, entropy, np.nan)
