"""Which records a model answers right: tracing asks where a model knows what it knows."""

from typing import TYPE_CHECKING

import torch

from interp.batches import batches
from interp.scoring import answer_ids, last_logits
from interp.task import Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from interp.model import Model
    from interp.prompt import Prompt
    from interp.task import Record


def check_writes(model: "Model", who: str) -> None:
    """Refuse models that do not go on from their prompt."""
    if model.kind not in ("text", "vlm") or model.hf.get_output_embeddings() is None:
        raise ValueError(
            f"{type(model.hf).__name__} does not go on from its prompt, so it has no answer to trace; {who} "
            "takes decoder-only and vision-language models (...ForCausalLM)."
        )


@torch.no_grad()
def known_records(model: "Model", task: Task, who: str, batch: int, first: bool) -> list[int]:
    """Numbers of the records whose likeliest next token begins (`first`) or is a right answer."""
    found: list[int] = []
    for part in batches(model, task, who, batch):
        right = said_right(model, part.prompt, part.records, model.logits(part.prompt), first)
        found += [number for number, own in zip(part.numbers, right.tolist(), strict=True) if own]
    return sorted(found)


def said_right(
    model: "Model",
    prompt: "Prompt",
    records: "Sequence[Record]",
    logits: "Tensor",
    first: bool = False,
) -> "Tensor":
    """[batch]: whether the likeliest token after each row is one of its record's answers."""
    said = last_logits(model, logits, prompt).argmax(-1).tolist()
    rows = enumerate(zip(said, records, strict=True))
    return torch.tensor(
        [
            token in answer_ids(model, prompt, row, record.answers, whole=not first)
            for row, (token, record) in rows
        ]
    )
