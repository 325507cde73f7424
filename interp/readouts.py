"""What is read off the logits of a changed run: a number, or a row of them, for each example.

    metric = interp.metrics.logit_diff(" Mary", " John")  # or token ids, or one of them a row
    model.sweep(prompt, "resid_pre", take=trace, metric=metric)
    metric.bind(model, prompt)(model.logits(prompt), prompt)

A sweep takes any function of logits [batch, position, token] as well; a `Readout` says besides which
position and which tokens it reads, so that nothing else has to be computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from interp.model import Model
    from interp.prompt import Prompt

NONE = -1  # fills rows that name fewer tokens than the longest


@dataclass(frozen=True, eq=False)
class Readout:
    """Reads one position of each row: the last real one, or the last of a span of the prompt."""

    name: str
    at: str = "last"

    def bind(self, model: "Model", prompt: "Prompt", first: bool = False) -> "Readout":
        """With words turned into token ids for this prompt's rows, and their number checked.

        `first` lets answers of several tokens stand for their first.
        """
        return self

    def columns(self) -> Tensor | None:
        """The token ids that it reads, each once; None for all."""
        return None

    def of(self, logits: Tensor, rows: Tensor) -> Tensor:
        """From logits [n, token] (only `columns` where it names some) of these rows of the prompt."""
        raise TypeError(f"the readout {self.name!r} does not say how it reads logits.")

    def places(self, prompt: "Prompt | None", logits: Tensor) -> Tensor:
        """The position read in each row of logits [batch, position, token]."""
        batch, length = logits.shape[:2]
        decodes = prompt is not None and any(name.startswith("decoder_") for name in prompt.inputs)
        if (
            prompt is not None
            and not decodes
            and prompt.length == length
            and prompt.ids is not None
        ):
            if self.at == "last":  # the last real one: where an answer follows
                return prompt.where("last").int().argmax(-1).to(logits.device)
            return prompt.position(self.at).to(logits.device)
        if prompt is not None and decodes and self.at == "last":
            mask = prompt.inputs.get("decoder_attention_mask")
            if mask is not None and mask.shape == logits.shape[:2]:
                order = torch.arange(length, device=mask.device)
                return (order * mask.bool()).amax(1).to(logits.device)
        elif prompt is not None and prompt.ids is not None and not bool(prompt.mask[:, -1].all()):
            raise ValueError(
                f"{self.name} reads each row's last token, and these logits are of {length} of "
                f"{prompt.length} positions of a prompt padded behind."
            )
        if self.at != "last":  # no prompt, or the text that a decoder goes on from
            raise ValueError(
                f"{self.name} reads at {self.at!r}, and these {length} positions are of no prompt it knows."
            )
        return torch.full((batch,), length - 1, device=logits.device)

    def __call__(self, logits: Tensor, prompt: "Prompt | None" = None) -> Tensor:
        """[batch] or [batch, k] from whole logits [batch, position, token], or [batch, label]."""
        rows = torch.arange(len(logits), device=logits.device)
        if logits.ndim == 3:
            logits = logits[rows, self.places(prompt, logits)]
        columns = self.columns()
        if columns is not None:
            logits = logits[:, columns.to(logits.device)]
        return self.of(logits.float(), rows)


@dataclass(frozen=True, eq=False)
class Answers(Readout):
    """Of right answers, and of wrong ones where there are any."""

    right: Any = None
    wrong: Any = None
    bound: bool = False  # answers are token ids of a prompt's rows, with NONE for none

    def bind(self, model: "Model", prompt: "Prompt", first: bool = False) -> "Answers":
        if self.bound:
            return self
        right = _ids(model, prompt, self.right, first)
        wrong = None if self.wrong is None else _ids(model, prompt, self.wrong, first)
        if wrong is not None:
            self._check_apart(right, wrong)
        return replace(self, right=right, wrong=wrong, bound=True)

    def _check_apart(self, right: Tensor, wrong: Tensor) -> None:
        same = (right[:, :, None] == wrong[:, None, :]) & (right[:, :, None] != NONE)
        if bool(same.any()):
            row, place, _ = same.nonzero()[0].tolist()
            token = int(right.expand(len(same), -1)[row, place])
            raise ValueError(
                f"token {token} is both a right and a wrong answer of row {row}, so that their difference "
                "says nothing; give answers that start with different tokens."
            )

    def columns(self) -> Tensor | None:
        named = [_tokens(self.right, self.bound)] + (
            [] if self.wrong is None else [_tokens(self.wrong, self.bound)]
        )
        every = torch.cat([ids.flatten() for ids in named])
        return every[every != NONE].unique()

    def of(self, logits: Tensor, rows: Tensor) -> Tensor:
        value = self._mean(logits, rows, self.right)
        return value if self.wrong is None else value - self._mean(logits, rows, self.wrong)

    def _mean(self, logits: Tensor, rows: Tensor, answers: Any) -> Tensor:
        picked, real = self._picked(logits, rows, answers)
        return (picked * real).sum(-1) / real.sum(-1)

    def _picked(self, logits: Tensor, rows: Tensor, answers: Any) -> tuple[Tensor, Tensor]:
        """The logits of each row's answers, [n, answer], and which of them are there."""
        ids = _tokens(answers, self.bound).to(logits.device)
        if len(ids) > 1 and int(rows.max()) >= len(ids):
            raise ValueError(
                f"{self.name} names answers of {len(ids)} rows, and the prompt has more; give one for each "
                "row, or one for all."
            )
        ids = ids[rows] if len(ids) > 1 else ids.expand(len(rows), -1)
        columns = self.columns()
        places = ids if columns is None else torch.searchsorted(columns.to(ids), ids.clamp_min(0))
        if int(ids.max()) >= logits.shape[-1] and columns is None:
            raise ValueError(f"{self.name} names token {int(ids.max())} of {logits.shape[-1]}.")
        # A token counts once, however often it is named.
        again = (ids[:, :, None] == ids[:, None, :]).tril(-1).any(-1)
        real = (ids != NONE) & ~again
        return logits.gather(-1, torch.where(real, places, 0)), real


@dataclass(frozen=True, eq=False)
class Chance(Answers):
    """Of all right answers together: their probability, or (`log`) its logarithm."""

    log: bool = False

    def columns(self) -> Tensor | None:
        return None

    def of(self, logits: Tensor, rows: Tensor) -> Tensor:
        picked, real = self._picked(logits.log_softmax(-1), rows, self.right)
        total = picked.masked_fill(~real, float("-inf")).logsumexp(-1)
        return total if self.log else total.exp()


@dataclass(frozen=True, eq=False)
class Divergence(Readout):
    """KL(reference || what is read), in nats, summed over tokens."""

    reference: Any = (
        None  # logits [batch, token], or [batch, position, token] with the last row read
    )

    def bind(self, model: "Model", prompt: "Prompt", first: bool = False) -> "Divergence":
        reference = self.reference
        if len(reference) != len(prompt):
            raise ValueError(
                f"{self.name} has {len(reference)} reference rows, and the prompt {len(prompt)}."
            )
        if reference.ndim == 3:
            rows = torch.arange(len(reference), device=reference.device)
            reference = reference[rows, self.places(prompt, reference)]
        return replace(self, reference=reference)

    def of(self, logits: Tensor, rows: Tensor) -> Tensor:
        own = self.reference if self.reference.ndim == 2 else self.reference[:, -1]
        wanted = own.float().log_softmax(-1).to(logits.device)[rows]
        return (wanted.exp() * (wanted - logits.log_softmax(-1))).sum(-1)


def _named(at: Any) -> str:
    if not isinstance(at, str):
        raise TypeError(f"at={at!r} is no span: 'last', or the name of a span of the prompt.")
    return at


def logit_diff(right: Any, wrong: Any, at: str = "last") -> Answers:
    """Mean logit of the right answers less that of the wrong ones: token ids or words.

    One for all rows, one for each row (a list or tensor [batch]), or several for each row (a list of
    lists). Words are written as they follow the prompt, the space before them included.
    """
    return Answers("logit_diff", _named(at), right, wrong)


def logit(right: Any, at: str = "last") -> Answers:
    """Mean logit of the right answers."""
    return Answers("logit", _named(at), right)


def probability(right: Any, at: str = "last") -> Chance:
    """Probability of all right answers together."""
    return Chance("probability", _named(at), right)


def log_probability(right: Any, at: str = "last") -> Chance:
    """Logarithm of that probability, in nats."""
    return Chance("log_probability", _named(at), right, log=True)


def divergence(reference: Tensor, at: str = "last") -> Divergence:
    """KL divergence from a reference run: its logits."""
    if not isinstance(reference, Tensor) or reference.ndim not in (2, 3):
        raise TypeError(
            "divergence takes the logits of a reference run, [batch, position, token] or [batch, token]: "
            "divergence(model.logits(prompt))."
        )
    return Divergence("divergence", _named(at), reference)


def _tokens(answers: Any, bound: bool = False) -> Tensor:
    """Token ids as [rows or 1, answer], short rows filled with NONE."""
    if isinstance(answers, Tensor):
        if answers.is_floating_point() or (not bound and bool((answers < 0).any())):
            raise ValueError(
                f"answers are token ids, whole numbers from 0 on, not {answers.tolist()}."
            )
        return (
            answers[:, None]
            if answers.ndim == 1
            else answers.reshape(-1, answers.shape[-1] if answers.ndim else 1)
        )
    if hasattr(answers, "tolist"):
        return _tokens(torch.as_tensor(answers))
    if isinstance(answers, int) and not isinstance(answers, bool):
        return _tokens(torch.tensor([[answers]]))
    if isinstance(answers, Sequence) and not isinstance(answers, str) and len(answers):
        rows = [
            list(row) if isinstance(row, Sequence) and not isinstance(row, str) else [row]
            for row in answers
        ]
        if all(row and all(_is_id(token) for token in row) for row in rows):
            width = max(len(row) for row in rows)
            return torch.tensor(
                [[int(t) for t in row] + [NONE] * (width - len(row)) for row in rows]
            )
    raise TypeError(
        f"answers are token ids (one, one a row, or several a row), not {answers!r}; words have to be "
        "bound to a model first: metric.bind(model, prompt)."
    )


def _is_id(token: Any) -> bool:
    return hasattr(token, "__index__") and not isinstance(token, bool) and int(token) >= 0


def _vocabulary(model: "Model") -> int | None:
    """How many tokens (or labels) its logits are of, where the config says so."""
    if model.kind == "vision":
        return getattr(model.config, "num_labels", None)
    return getattr(model.config.get_text_config(), "vocab_size", None)


def _ids(model: "Model", prompt: "Prompt", answers: Any, first: bool) -> Tensor:
    """Answers as token ids; words as they follow each row of the prompt."""
    from interp.scoring import answer_ids

    if isinstance(answers, str):
        answers = [[answers]] * len(prompt)
    words = isinstance(answers, (list, tuple)) and any(
        isinstance(row, str)
        or (isinstance(row, (list, tuple)) and any(isinstance(one, str) for one in row))
        for row in answers
    )
    if not words:
        ids = _tokens(answers)
        words_known = _vocabulary(model)
        if words_known and int(ids.max()) >= words_known:
            raise ValueError(
                f"answers name token {int(ids.max())}, and {model.name} has {words_known}."
            )
        if len(ids) not in (1, len(prompt)):
            raise ValueError(
                f"answers are given for {len(ids)} rows, and the prompt has {len(prompt)}; give one for all, "
                "or one for each row ([[1, 2]]: two for all)."
            )
        return ids
    if len(answers) != len(prompt):
        raise ValueError(
            f"answers are given for {len(answers)} rows, and the prompt has {len(prompt)}."
        )
    rows = [[row] if isinstance(row, str) else list(row) for row in answers]
    if not all(rows):
        raise ValueError(f"row {rows.index([])} has no answer to be read.")
    found = [
        answer_ids(model, prompt, place, row, whole=not first) for place, row in enumerate(rows)
    ]
    return _tokens(found)
