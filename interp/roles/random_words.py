"""What heads look at in random words that are said twice (arXiv 2211.00593 checks its heads so)."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.making import begins
from interp.metrics import METRICS, Metric
from interp.tokens import vocabulary

if TYPE_CHECKING:
    from interp.model import Model
    from interp.structure import Stack

SCORES = ("previous", "duplicate", "induction", "own")


def on_random_words(
    model: "Model", stack: "Stack", length: int = 50, rows: int = 4, seed: int = 0
) -> tuple[dict[str, Tensor], str]:
    """How much each head looks at the word before, at the same word in the first run, at the one after
    that, and at its own word: [layer, head] each; and a note.

    Rows are `length` different words, said twice; fewer where the model has fewer positions or words.
    """
    first = begins(model)
    before = [] if first is None else [model.tokenizer.convert_tokens_to_ids(first)]
    ids = plain(model)
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    fits = (limit - 4 - len(before)) // 2 if limit and limit > 0 else length
    size = min(length, fits, len(ids))
    if size < 2:
        raise ValueError(
            f"{model.name} has {limit} positions and {len(ids)} words, too few for words said twice."
        )
    chance = torch.Generator().manual_seed(seed)
    said = []
    for _ in range(rows):
        run = [ids[at] for at in torch.randperm(len(ids), generator=chance)[:size].tolist()]
        said.append(before + run + run)
    metrics: dict[str, Metric] = {"previous": METRICS["previous"]()}
    for name in ("duplicate", "induction"):
        metrics[name] = METRICS[name](period=size, begins=len(before))
    with torch.no_grad():
        prompt = model.encode(torch.tensor(said))
        trace = model.trace(prompt, "pattern", keep=metrics, stack=stack.name)
    note = f"Random words: {rows} rows of {size}, said twice, after {first or 'nothing'}."
    found = {name: trace[name].mean(1).float().cpu() for name in metrics}
    own = [trace["pattern", layer].diagonal(dim1=-2, dim2=-1) for layer in trace.layers("pattern")]
    return {**found, "own": torch.stack(own).mean((1, 3)).float().cpu()}, note


def plain(model: "Model") -> list[int]:
    """Ids that stand for words, and for nothing else."""
    size, special = vocabulary(model), set()
    if model.tokenizer is not None:
        size, special = min(size, len(model.tokenizer)), set(model.tokenizer.all_special_ids)
    for config in (model.config, model.config.get_text_config()):
        for name, value in vars(config).items():
            if name.endswith(("_token_id", "_token_index")):
                special |= set(value if isinstance(value, list) else [value])
    return [token for token in range(size) if token not in special]
