"""One record as relevance is asked of it: its answer, its patterns and gradients, its replaced runs."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.prompt import Prompt
from interp.scoring import answer_ids, last_logits
from interp.sites import Hook
from interp.task import Record, Task

if TYPE_CHECKING:
    from interp.model import Model


@dataclass(eq=False)
class Example:
    """`target` is what the model itself says next ("said"), or the first right answer ("answer").

    `emptied`, [position, d_model], is what stands in the place of a position that is replaced.
    """

    model: "Model"
    record: Record
    asked: str = "said"
    batch: int = 64
    emptied: Tensor = field(init=False)
    _rows: dict[int, Prompt] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.emptied = torch.zeros_like(self.plain[0])

    @cached_property
    def first(self) -> int:
        """The layer before which positions are replaced."""
        return min(next(iter(self.model.stacks.values())).layers)

    @cached_property
    def prompt(self) -> Prompt:
        return Task("one", (self.record,)).encode(self.model)

    @property
    def length(self) -> int:
        return self.prompt.length

    @cached_property
    def image(self) -> Tensor:
        """True at the positions of the image."""
        none = torch.zeros(self.length, dtype=torch.bool)
        return self.prompt.spans["image"][0].cpu() if "image" in self.prompt.spans else none

    @cached_property
    def reads(self) -> int | None:
        """The position that answers; None for a classifier without a class token."""
        if self.model.kind != "vision":
            return self.length - 1
        return 0 if bool(self.image.any()) and not bool(self.image[0]) else None

    @cached_property
    def ranked(self) -> Tensor:
        """The positions that are ranked and replaced: patches, or all but the first token and the last."""
        if self.model.kind == "vision":
            return self.image.nonzero()[:, 0]
        ids: Any = self.prompt.ids
        begins = int(ids[0, 0]) in (getattr(self.model.tokenizer, "all_special_ids", None) or [])
        return torch.arange(int(begins), self.length - 1)

    @cached_property
    def plain(self) -> tuple[Tensor, Tensor]:
        """The untouched run: what the first layer receives, [position, d_model], and the last logits."""
        seen: list[Tensor] = []
        hook = Hook("resid_pre", lambda value, at: seen.append(value[0].detach()), [self.first])
        with torch.no_grad():
            logits = self.model.logits(self.prompt, hooks=hook)
        return seen[0], self.last(logits)[0].double()

    @cached_property
    def target(self) -> int:
        if self.asked == "said":
            return int(self.plain[1].argmax())
        if not self.record.answers:
            raise ValueError('target="answer" needs answers, and a record has none; target="said".')
        return answer_ids(self.model, self.prompt, 0, self.record.answers)[0]

    @cached_property
    def evidence(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Patterns of all layers and their gradients, [1, head, T, T], and gradient x input, [T]."""
        patterns: list[Tensor] = []
        stream = self.plain[0][None].clone().requires_grad_()

        def keep(value: Tensor, at: Any) -> Tensor:
            patterns.append(value.clone())
            return patterns[-1]

        hooks = [Hook("resid_pre", lambda value, at: stream, [self.first]), Hook("pattern", keep)]
        with torch.enable_grad():
            logit = self.last(self.model.logits(self.prompt, hooks=hooks))[0, self.target]
        gradients = [each.float().cpu() for each in torch.autograd.grad(logit, [stream, *patterns])]
        shown = [pattern.detach().float().cpu() for pattern in patterns]
        return shown, gradients[1:], (gradients[0][0] * stream[0].detach().float().cpu()).sum(-1)

    def last(self, logits: Tensor) -> Tensor:
        """Of the logits of this prompt, those of what comes next: [row, token]."""
        return last_logits(self.model, logits, self.prompt)

    def path_gradient(self, parts: Tensor) -> Tensor:
        """The logit's gradient, summed over parts of the way from every ranked position replaced to none."""
        start, end = self.plain[0].clone(), self.plain[0]
        start[self.ranked] = self.emptied[self.ranked]
        total = torch.zeros_like(end)
        for some in parts.split(self.batch):
            points = (start + some.to(end)[:, None, None] * (end - start)).requires_grad_()
            hook = Hook("resid_pre", lambda value, at, points=points: points, [self.first])
            with torch.enable_grad():
                prompt = self._repeated(len(some))
                logits = last_logits(self.model, self.model.logits(prompt, hooks=hook), prompt)
            total += torch.autograd.grad(logits[:, self.target].sum(), points)[0].sum(0)
        return ((end - start) * total).sum(-1).cpu()

    def log_odds(self, kept: Tensor) -> Tensor:
        """Of the answer, when only the positions of each row of `kept` are left as they are: [row].

        Log odds stay exact where the probability, their sigmoid, is nearly 1.
        """
        distinct, back = kept.unique(dim=0, return_inverse=True)
        found = []
        for part in distinct.split(self.batch):

            def replace(value: Tensor, at: Any, part: Tensor = part) -> Tensor:
                return torch.where(part.to(value.device)[..., None], value, self.emptied)

            prompt = self._repeated(len(part))
            with torch.no_grad():
                logits = self.model.logits(prompt, hooks=Hook("resid_pre", replace, [self.first]))
            logits = last_logits(self.model, logits, prompt).double()
            others = logits.clone()
            others[:, self.target] = -torch.inf
            found.append((logits[:, self.target] - others.logsumexp(-1)).cpu())
        return torch.cat(found)[back]

    def forget(self) -> None:
        """Let go of what is large: patterns, gradients and repeated prompts."""
        self._rows.clear()
        self.__dict__.pop("evidence", None)

    def _repeated(self, count: int) -> Prompt:
        """The prompt as a batch of equal rows."""
        if count not in self._rows:
            self._rows[count] = Task("rows", (self.record,) * count).encode(self.model)
        return self._rows[count]


def empty_with_means(examples: list[Example]) -> None:
    """Replace by the mean over all examples' ranked positions, image and text each by its own."""
    for image in (True, False):
        seen = [
            example.plain[0][example.ranked[example.image[example.ranked] == image]]
            for example in examples
        ]
        for example in examples:
            example.emptied[example.image == image] = torch.cat(seen).mean(0)
