"""How a model does on a task: one row for each record, from one forward."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.progress import counted
from interp.prompt import Prompt
from interp.task import Record, Task

if TYPE_CHECKING:
    import pandas

    from interp.model import Model


def score(
    model: "Model",
    task: Task,
    *,
    using: Any = None,
    hooks: Any = (),
    counterfactual: bool = False,
    batch: int = 64,
) -> "pandas.DataFrame":
    """The model's next token after each record's prompt, against its right and wrong answers.

    Columns: `right` (the likeliest token of all is the first of a right answer), `said`,
    `probability` and `against` (of all right, of all wrong answers together), and `difference`, the
    mean logit of the right less that of the wrong ones. Answers of several tokens count by their
    first; where a right and a wrong one share it, they are told apart by `generate` only, and this
    refuses. With `counterfactual`, the other prompts are asked, and still judged by these answers.
    """
    import pandas

    _check(model, task, batch)
    rows: list[dict[str, Any]] = []
    for start in counted(range(0, len(task), batch), "scoring"):
        part = task[start : start + batch]
        prompt, seen = part.encode(model, counterfactual), Witness()
        with torch.no_grad():
            logits = model.logits(prompt, using=[using, seen], hooks=hooks)
        logits = last_logits(model, logits, seen.prompt)
        for order, record in enumerate(part):
            right = answer_ids(model, prompt, order, record.answers)
            wrong = answer_ids(model, prompt, order, record.wrong)
            _check_apart(record, right, wrong)
            rows.append(
                _row(model, logits[order].float(), right, wrong) | {"record": start + order}
            )
    columns = ["record", "right", "said", "probability", "against", "difference"]
    return pandas.DataFrame(rows, columns=columns)


class Witness:
    """Stands last among interventions and keeps the prompt as they left it; changes nothing."""

    prompt: Prompt

    def plan(self, model: "Model", prompt: Prompt) -> tuple[Prompt, list[Any]]:
        self.prompt = prompt
        return prompt, []


def _check(model: "Model", task: Any, batch: int) -> None:
    if not isinstance(task, Task):
        raise TypeError(
            f"score takes a Task, not {type(task).__name__}: interp.Task.load(name or file), or "
            "Task(name, (record, ...))."
        )
    if batch < 1:
        raise ValueError(f"batch={batch}: give at least 1.")
    name = type(model.hf).__name__
    if model.kind not in ("text", "vlm", "vision"):
        raise ValueError(
            f"{name} does not go on from its prompt, so it has no next token to score. Score a "
            "decoder-only or vision-language model, or an image classifier."
        )
    if model.kind != "vision" and model.hf.get_output_embeddings() is None:
        raise ValueError(f"{name} has no language-model head; open the ...ForCausalLM of it.")
    if model.kind == "vision" and not hasattr(model.hf, "classifier"):
        raise ValueError(f"{name} has no classifier; open the ...ForImageClassification of it.")


def _check_apart(record: Record, right: list[int], wrong: list[int]) -> None:
    if not right:
        raise ValueError(f"a record has no answers to score: {record.prompt!r}.")
    if set(right) & set(wrong):
        raise ValueError(
            f"the answers {record.answers[:2]} and {record.wrong[:2]} start with the same token. Compare "
            "what the model writes: model.decode(model.generate(prompt, ...), prompt)."
        )


def last_logits(model: "Model", logits: Tensor, prompt: Prompt) -> Tensor:
    """Logits of what comes next, [batch, token]: at each row's last real position."""
    if model.kind == "vision":
        return logits
    place = prompt.where("last").int().argmax(-1)
    return logits[torch.arange(len(logits), device=logits.device), place.to(logits.device)]


def answer_ids(
    model: "Model", prompt: Prompt, row: int, answers: Sequence[str], whole: bool = False
) -> list[int]:
    """The first token of each answer as it follows this row's prompt; of a classifier, the label.

    `whole` refuses answers of several tokens.
    """
    if model.kind == "vision":
        labels = {str(name): number for number, name in model.config.id2label.items()}
        missing = [answer for answer in answers if answer.strip() not in labels]
        if missing:
            raise ValueError(f"the labels {sorted(labels)} of {model.name} hold no {missing[0]!r}.")
        return [labels[answer.strip()] for answer in answers]
    if model.tokenizer is None or prompt.texts is None:
        raise ValueError("answers are read by a tokenizer, and this model or prompt has none.")
    # A prompt may end in the space or newline that its answer starts with.
    end = prompt.texts[row][-24:]
    found = [_first(model.tokenizer, end, answer, whole) for answer in answers]
    return list(dict.fromkeys(found))  # a token counts once, however many answers start with it


def _first(tokenizer: Any, end: str, answer: str, whole: bool) -> int:
    if end[-1:].isspace():
        answer = answer.lstrip()
    before = tokenizer(end, add_special_tokens=False)["input_ids"]
    after = tokenizer(end + answer, add_special_tokens=False)["input_ids"]
    if after[: len(before)] != before:  # byte pairs joined the prompt's end with the answer
        after = [*before, *tokenizer(answer, add_special_tokens=False)["input_ids"]]
    if len(after) <= len(before):
        raise ValueError(
            f"the answer {answer!r} adds no token to a prompt that ends in {end!r}. Answers are written "
            "as they follow, with the space before them."
        )
    if whole and len(after) > len(before) + 1:
        parts = tokenizer.convert_ids_to_tokens(after[len(before) :])
        raise ValueError(
            f"the answer {answer!r} is {len(parts)} tokens ({', '.join(parts)}), and one is read; give "
            "answers of one token, or say first=True to count by the first."
        )
    first = after[len(before)]
    if first == tokenizer.unk_token_id:
        raise ValueError(
            f"the answer {answer!r} starts with a word that the tokenizer does not know."
        )
    return first


def _row(model: "Model", logits: Tensor, right: list[int], wrong: list[int]) -> dict[str, Any]:
    chances = logits.softmax(-1)
    best = int(logits.argmax())
    labels = model.config.id2label if model.kind == "vision" else None
    mean = logits[wrong].mean() if wrong else logits.new_tensor(float("nan"))
    return {
        "right": best in right,
        "said": str(labels[best]) if labels else model.tokenizer.decode([best]),
        "probability": float(chances[right].sum()),
        "against": float(chances[wrong].sum()),
        "difference": float(logits[right].mean() - mean),
    }
