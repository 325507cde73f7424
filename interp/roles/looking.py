"""How much heads attend from one place of a record to another."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.batches import batches
from interp.prompt import Prompt
from interp.scoring import answer_ids
from interp.statistics import NORMAL, standard_error
from interp.task import Record

if TYPE_CHECKING:
    from interp.model import Model
    from interp.structure import Stack

# Places of a batch by name, [row, position]; a row without the place has none True.
Places = Callable[[Prompt, Sequence[Record]], Mapping[str, Tensor]]


class Shares:
    """Attention to places, record by record."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Tensor]] = {}

    def add(
        self,
        model: "Model",
        prompt: Prompt,
        stack: "Stack",
        start: str,
        places: Mapping[str, Tensor],
    ) -> None:
        """A batch: attention from the last token of the span `start`, in whatever runs with the model."""
        with torch.no_grad():
            trace = model.trace(prompt, "pattern", stack=stack.name)
        rows = torch.arange(len(prompt), device=model.device)
        at = prompt.position(start).to(model.device)
        pattern = torch.stack([trace["pattern", layer][rows, :, at] for layer in attending(stack)])
        for name, where in places.items():
            mask = where.to(pattern)
            got = torch.einsum("lrhk,rk->rlh", pattern, mask).float().cpu()
            got[~where.any(-1).cpu()] = torch.nan
            self.parts.setdefault(name, []).append(got)

    def found(self) -> dict[str, Tensor]:
        """[record, layer, head] of each place that some record has, not a number in those that lack it.

        What the tokens of a place get is added up.
        """
        whole = {name: torch.cat(parts) for name, parts in self.parts.items()}
        return {name: values for name, values in whole.items() if not bool(values.isnan().all())}


def means(shares: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """[layer, head], over the records that have the place."""
    return {name: values.nanmean(0) for name, values in shares.items()}


def more(first: Tensor, second: Tensor) -> Tensor:
    """[layer, head]: whether the first place gets more on average, told from chance (95 %)."""
    beyond = first.nan_to_num() - second.nan_to_num()
    error = standard_error(beyond).nan_to_num()  # one record has none
    return beyond.mean(0) > NORMAL * error


def attention(
    model: "Model", task: Any, stack: "Stack", start: str, places: Places, batch: int
) -> dict[str, Tensor]:
    """Attention from the last token of the span `start` to each place: [record, layer, head]."""
    shares = Shares()
    for part in batches(model, task, "roles", batch):
        shares.add(model, part.prompt, stack, start, places(part.prompt, part.records))
    return shares.found()


def spans(names: Sequence[str]) -> Places:
    """Spans of the prompt, as places."""

    def places(prompt: Prompt, records: Sequence[Record]) -> dict[str, Tensor]:
        return {name: prompt.where(name) for name in names}

    return places


def answers(model: "Model") -> Places:
    """Where the first token of a right and of a wrong answer stands before the end."""

    def places(prompt: Prompt, records: Sequence[Record]) -> dict[str, Tensor]:
        assert prompt.ids is not None
        found = {}
        for name in ("right answer", "wrong answer"):
            mask = torch.zeros_like(prompt.mask)
            for row, record in enumerate(records):
                said = record.answers if name == "right answer" else record.wrong
                known = answer_ids(model, prompt, row, said) if said else []
                mask[row] = torch.isin(prompt.ids[row], torch.tensor(known).to(prompt.ids))
            mask[:, -1] = False
            found[name] = mask
        return found

    return places


def attending(stack: "Stack") -> list[int]:
    """Layers with heads."""
    return [at for at, layer in stack.layers.items() if layer.attention is not None]
