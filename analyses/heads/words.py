"""Scores on random words that come twice, and on texts as they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from analyses.heads.asked import Asked, Means
from interp.making import begins
from interp.metrics import METRICS, Block, Extent, Metric
from interp.prompt import Prompt
from interp.roles.random_words import plain

if TYPE_CHECKING:
    from interp.model import Model


@dataclass(frozen=True)
class Peak(Metric):
    """How far from its query the largest weight stands, per head and query; before it is below 0."""

    name: ClassVar[str] = "peak"
    per: ClassVar[str] = "query"
    one_sequence: ClassVar[bool] = True

    def add(self, total: Tensor, block: Block, extent: Extent) -> None:
        row = torch.arange(block.rows.start, block.rows.stop, device=total.device) + extent.first
        place = block.pattern.argmax(-1) + block.left + extent.first_key
        total[block.batch, block.heads, block.rows] = (place - row).to(total.dtype)


# Lengths of a run, tried in this order: the literature's least, and what small models have learned.
LENGTHS = (50, 40, 30, 20, 10)


def drawn(asked: Asked, length: int | None, rows: int, seed: int) -> Prompt:
    """Random words said twice, and what attention makes of them.

    Without a length, the longest of LENGTHS at which the model itself says most of the second run: where
    it cannot repeat, its heads need not look.
    """
    tried = LENGTHS if length is None and _writes(asked) else (length or LENGTHS[0],)
    for size in tried:
        prompt, size, notes = _twice(asked, size, rows, seed)
        right = _repeated(asked, prompt, size) if _writes(asked) else None
        if right is None or right > 0.5:
            break
    else:
        prompt, size, notes = _twice(asked, tried[0], rows, seed)
        right = _repeated(asked, prompt, size)
    asked.notes += notes
    if right is not None:
        asked.notes.append(f"Of the second runs the model itself says {right:.0%} right.")
        if right <= 0.5:
            shorter = (
                ""
                if length is None
                else " One that learned shorter repeats shows it at length=None."
            )
            asked.notes[-1] += shorter or f" No length down to {LENGTHS[-1]} did better than half."
    metrics: dict[str, Metric] = {"previous": METRICS["previous"]()}
    for name in ("duplicate", "induction"):
        metrics[name] = METRICS[name](period=size, begins=prompt.length - 2 * size)
    found = asked.keep(prompt, metrics)
    asked.columns |= {name: values.mean(0) for name, values in found.items()}
    return prompt


def _twice(asked: Asked, length: int, rows: int, seed: int) -> tuple[Prompt, int, list[str]]:
    """Rows of random words said twice, how many words that is, and what there is to say of it."""
    model, ids = asked.model, plain(asked.model)
    first = begins(model)
    before = [] if first is None else [model.tokenizer.convert_tokens_to_ids(first)]
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    # RoBERTa and its kin begin to count after the padding id: a few positions are spared.
    fits = (limit - 4 - len(before)) // 2 if limit and limit > 0 else length
    size = min(length, fits)
    if size < 2:
        raise ValueError(f"{model.name} has {limit} positions, too few for words said twice.")
    notes = [
        f"Random words: {rows} rows of {size}, said twice, after {first or 'nothing'}."
        + (f" The model's {limit} positions hold no more." if size < length else "")
    ]
    if size > len(ids):
        notes.append(f"There are {len(ids)} words, so that some come twice within a run.")
    chance = torch.Generator().manual_seed(seed)
    runs = [_run(ids, size, chance) for _ in range(rows)]
    return model.encode(torch.tensor([before + run + run for run in runs])), size, notes


def _writes(asked: Asked) -> bool:
    return asked.stack.name == "text" and asked.model.hf.get_output_embeddings() is not None


def _repeated(asked: Asked, prompt: Prompt, size: int) -> float:
    """The share of the second runs that the model itself says right."""
    assert prompt.ids is not None
    with torch.no_grad():
        said = asked.model.logits(prompt)[:, -size:-1].argmax(-1)
    return float((said == prompt.ids[:, 1 - size :]).float().mean())


def _run(ids: list[int], size: int, chance: torch.Generator) -> list[int]:
    if size <= len(ids):
        order = torch.randperm(len(ids), generator=chance)[:size]
    else:
        order = torch.randint(len(ids), (size,), generator=chance)
    return [ids[place] for place in order.tolist()]


def texts(asked: Asked, random: Prompt, offsets: Sequence[int]) -> None:
    """What attention does on the task's texts; on the random words where there is no task."""
    causal = asked.stack.causal
    metrics: dict[str, Metric] = {
        "sink": METRICS["sink"](),
        "confidence": METRICS["confidence"](),
        "positional": Peak(),
        "span": METRICS["span"](without_first=True) if causal else METRICS["distance"](),
    }
    if not causal:
        asked.notes.append("Attention sees both ways, and `span` counts the first position too.")
    if asked.task is None:
        asked.notes.append("sink, span, confidence and positional are of the random words.")
    else:
        metrics["previous_text"] = METRICS["previous"]()
    means, lengths = Means(), []
    for prompt in [random] if asked.task is None else (part.prompt for part in asked.batches()):
        means.add(_of_text(asked, prompt, metrics, offsets))
        lengths.append(prompt.length)
    columns = means.means()
    shares, best = columns.pop("positional").max(-1)
    asked.columns |= columns | {"positional": shares, "offset": torch.tensor([*offsets])[best]}
    asked.notes.append(
        f"Texts have {min(lengths)} to {max(lengths)} tokens; `sink` falls with their length, so compare it "
        "at one length only."
    )


def _of_text(
    asked: Asked, prompt: Prompt, metrics: dict[str, Metric], offsets: Sequence[int]
) -> dict[str, Tensor]:
    """[example, layer, head] of each metric, and `positional` for each offset."""
    if "image" in prompt.names:
        asked.leave_out(
            "duplicate_text (and induction_text)", "all tokens of an image are one and the same."
        )
    elif asked.task is not None:
        matching = {f"{name}_text": METRICS[name]() for name in ("duplicate", "induction")}
        metrics = metrics | matching
    found = asked.keep(prompt, metrics)
    found["sink"] = found["sink"][..., 0]
    counted = ~_ends(asked.model, prompt)[:, None, None].cpu()
    found["confidence"] = (found["confidence"] * counted).sum(-1) / counted.sum(-1).clamp_min(1)
    if found["span"].ndim > 3:
        found["span"] = found["span"].mean(-1)
    found["positional"] = torch.stack([_fixed(found["positional"], each) for each in offsets], -1)
    return found


def _fixed(peaks: Tensor, offset: int) -> Tensor:
    """The share of the queries that have a place at the offset, whose peak stands there."""
    kept = peaks[..., -offset:] if offset < 0 else peaks[..., : peaks.shape[-1] - offset]
    return (kept == offset).float().mean(-1)


def _ends(model: "Model", prompt: Prompt) -> Tensor:
    """True at end tokens, which Voita et al. leave out."""
    assert prompt.ids is not None
    end = getattr(model.config.get_text_config(), "eos_token_id", None)
    listed = end if isinstance(end, list) else [] if end is None else [end]
    return torch.isin(prompt.ids, torch.tensor(listed).to(prompt.ids))
