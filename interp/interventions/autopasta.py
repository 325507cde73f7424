"""AutoPASTA: the model names its key sentence, and is steered to it (Zhang et al., 2024)."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.interventions import INTERVENTIONS
from interp.interventions.pasta import check_alpha, looking_away
from interp.live import plainly
from interp.prompt import Prompt
from interp.sites import Hook, whole_number
from interp.steering.highlights import check_lit, check_texts, spans_of
from interp.steering.intervention import Intervention, Settings
from interp.steering.needs import check_at_least, check_flag, writing_stack
from interp.steering.sentences import check_encoder, closest, encoder_of, paragraphs, split
from interp.steering.spans import asked

if TYPE_CHECKING:
    from interp.model import Model

ASK = (
    "A question and a passage are shown below. Please select the key sentence in the passage that supports "
    "to answer the question correctly. Only output the exactly same sentence from the passage without other "
    "additional words.\n\nQuestion: {question}\n\nPassage: {context}\n\nSentence:"
)
DIRECT = (
    "Answer the question below, paired with a context that provides background knowledge. Only output the "
    "answer without other context words.\n\nContext: {context}\n\nQuestion: {question}\n\nAnswer:"
)
TOGETHER = 16  # questions that are asked in one batch


class Evidence(NamedTuple):
    """What the model wrote for a row (or a paragraph of it), and the sentence that was taken for it.

    `how` is "exact", "part", "words" or "encoder", and "nothing" where it wrote nothing; `span` is where
    the sentence stands among the characters of the row.
    """

    row: int
    said: str
    sentence: str
    how: str
    score: float
    span: tuple[int, int]


@dataclass(frozen=True)
class AutoPASTA(Intervention):
    """The plain model is asked for the key sentence of the context, and PASTA highlights it in the prompt.

    Zhang et al., 2024 (arXiv 2409.10790). `question` and `context` are spans of the prompt, which stays
    as it is (`direct_prompt` writes the paper's). What the model writes to `ask`, greedily, is mapped to
    a sentence: the one that stands in it, else the most alike, by `encoder` (texts -> vectors, or the name
    of a sentence-transformers model) or by shared words; the paper always maps by a small encoder.
    `evidence_of` shows what was found. `evidence` gives it: one span or text for all rows, or a list.

    `paragraphs` takes a sentence from each paragraph, as the paper does for HotpotQA. `chat` puts `ask`
    through the chat template. `alpha`, `heads`, `layers` and `spare` are PASTA's: all of the prompt but the
    sentence is pressed down, as in its code; spare=("question",) leaves the question out of that.
    """

    question: str = "question"
    context: str = "context"
    alpha: float = 0.01
    heads: Any = None
    layers: Sequence[int] | int | None = None
    spare: str | Sequence[str] = ()
    evidence: str | Sequence[str] | None = None
    ask: str = ASK
    max_new_tokens: int = 100
    paragraphs: bool = False
    chat: bool = False
    encoder: Any = None

    inert: ClassVar[Settings] = Settings(alpha=1.0, evidence="first")
    strong: ClassVar[Settings] = Settings(alpha=1e-4, evidence="first")
    of: ClassVar[str] = "text"
    paper: ClassVar[str] = "Zhang et al., 2024"

    def __post_init__(self) -> None:
        for name in ("question", "context", "ask"):
            check_texts("AutoPASTA", name, getattr(self, name), several=False)
        check_texts("AutoPASTA", "spare", self.spare, none=True)
        if self.evidence is not None:
            check_texts("AutoPASTA", "evidence", self.evidence)
        check_encoder(self.encoder)
        check_alpha("AutoPASTA", self.alpha)
        check_flag("AutoPASTA", "paragraphs", self.paragraphs)
        check_flag("AutoPASTA", "chat", self.chat)
        whole_number(self.max_new_tokens, "AutoPASTA: max_new_tokens")
        check_at_least("AutoPASTA", "max_new_tokens", self.max_new_tokens, 1)
        missing = [name for name in ("{question}", "{context}") if name not in self.ask]
        if missing:
            raise ValueError(
                "AutoPASTA(ask=...): the template says where {question} and {context} go, and "
                f"{missing[0]} is not in it."
            )

    def plan(self, model: "Model", prompt: Prompt) -> tuple[Prompt, list[Hook]]:
        writing_stack(model, "AutoPASTA")
        if self.evidence is not None:
            return prompt, looking_away(self, model, prompt, [self._given(prompt)])
        self._asked(model, prompt)
        if self.alpha == 1:
            return prompt, []
        lit = prompt.mask & False
        for one in self.evidence_of(model, prompt):
            lit |= _tokens(prompt, one)
        told = self._tell_rows_without(lit)
        return prompt, looking_away(self, model, prompt, [lit]) if told else []

    def evidence_of(self, model: "Model", prompt: Prompt) -> list[Evidence]:
        """What the model says the key sentence is: one for each row, or for each paragraph of it."""
        question, context = self._asked(model, prompt)
        places = [
            (row, start, stop)
            for row in range(len(prompt))
            for start, stop in self._parts(prompt, row, context[row])
        ]
        texts = [reading.text for reading in prompt.readings]
        prompts = [
            _filled(
                self.ask,
                question=_words(prompt, row, question[row]),
                context=texts[row][start:stop],
            )
            for row, start, stop in places
        ]
        encoder = encoder_of(self.encoder)
        found = []
        for said, (row, start, stop) in zip(self._answers(model, prompts), places, strict=True):
            part = texts[row][start:stop]
            spans = split(part)
            match = closest(said, [part[low:high] for low, high in spans], encoder)
            if match is None:
                found.append(Evidence(row, said, "", "nothing", 0.0, (start, start)))
                continue
            low, high = spans[match.place]
            at = (start + low, start + high)
            found.append(Evidence(row, said, part[low:high], match.how, match.score, at))
        return found

    def _asked(self, model: "Model", prompt: Prompt) -> tuple[Tensor, Tensor]:
        """The question's and the context's positions in each row."""
        if model.tokenizer is None:
            raise ValueError(
                f"AutoPASTA asks {model.name} in words, and it has no tokenizer; give evidence= yourself, a "
                "span's name."
            )
        (question,), (context,) = spans_of(prompt, self.question), spans_of(prompt, self.context)
        check_lit("AutoPASTA", question, self.question)
        check_lit("AutoPASTA", context, self.context)
        return question, context

    def _answers(self, model: "Model", prompts: list[str]) -> list[str]:
        """What the plain model writes to each, greedily."""
        said: list[str] = []
        for start in range(0, len(prompts), TOGETHER):
            batch: list[Any] = list(prompts[start : start + TOGETHER])
            if self.chat:
                batch = [[{"role": "user", "content": text}] for text in batch]
            with plainly(), torch.no_grad():
                given = model.encode(batch)
                ids = model.generate(
                    given, do_sample=False, num_beams=1, max_new_tokens=self.max_new_tokens
                )
            said += model.decode(getattr(ids, "sequences", ids), given)
        return said

    def _parts(self, prompt: Prompt, row: int, context: Tensor) -> list[tuple[int, int]]:
        """The context among the row's characters, whole or by paragraph."""
        start, stop = _characters(prompt, row, context)
        if not self.paragraphs:
            return [(start, stop)]
        text = prompt.readings[row].text[start:stop]
        return [(start + low, start + high) for low, high in paragraphs(text)]

    def _given(self, prompt: Prompt) -> Bool[Tensor, "row position"]:
        if isinstance(self.evidence, str):
            (lit,) = spans_of(prompt, self.evidence)
        else:
            texts = list(self.evidence or ())
            if len(texts) != len(prompt):
                raise ValueError(
                    f"AutoPASTA(evidence=...) has {len(texts)} sentences for {len(prompt)} rows; one each."
                )
            lit = prompt.locate(texts) & asked(prompt)
        check_lit("AutoPASTA", lit, self.evidence)
        return lit

    def _tell_rows_without(self, lit: Tensor) -> bool:
        """Warn of rows that have no evidence, and stay as they are; whether others have some."""
        rows = (~lit.any(1)).nonzero().flatten().tolist()
        if rows:
            warnings.warn(
                f"AutoPASTA: the model named no sentence for rows {rows}, which are not steered; see "
                "evidence_of(model, prompt), and change ask= or give evidence=.",
                stacklevel=3,
            )
        return len(rows) < len(lit)


def direct_prompt(context: str, question: str) -> str:
    """The paper's prompt for the answer.

    model.encode(direct_prompt(context, question), spans={"context": context, "question": question})
    """
    return _filled(DIRECT, context=context, question=question)


def _filled(template: str, **words: str) -> str:
    """The template with {question} and {context} filled in, whatever braces these hold."""
    return re.sub(r"\{(question|context)\}", lambda match: words[match[1]], template)


def _characters(prompt: Prompt, row: int, span: Tensor) -> tuple[int, int]:
    """The stretch of the row's text that a span covers, without spaces at its ends."""
    reading = prompt.readings[row]
    places = [reading.offsets[position] for position in span.nonzero().flatten().tolist()]
    places = [(low, high) for low, high in places if low < high] or [(0, 0)]
    start, stop = min(low for low, _ in places), max(high for _, high in places)
    part = reading.text[start:stop]
    start += len(part) - len(part.lstrip())
    return start, start + len(part.strip())


def _words(prompt: Prompt, row: int, span: Tensor) -> str:
    start, stop = _characters(prompt, row, span)
    return prompt.readings[row].text[start:stop]


def _tokens(prompt: Prompt, one: Evidence) -> Bool[Tensor, "row position"]:
    """The tokens of a sentence, in its row."""
    found = prompt.mask & False
    start, stop = one.span
    for position, (low, high) in enumerate(prompt.readings[one.row].offsets):
        if start < stop and low < high and low < stop and start < high:
            found[one.row, position] = True
    return found


INTERVENTIONS.add("AutoPASTA", AutoPASTA)
