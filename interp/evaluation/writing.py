"""What a model writes to each record of a task, with all that decides it."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

import torch

from interp.asking import interventions
from interp.making import making
from interp.progress import counted
from interp.scoring import Witness
from interp.sites import Hook
from interp.task import Record, Task

if TYPE_CHECKING:
    from interp.model import Model


@dataclass(frozen=True, eq=False)
class Answers(Sequence[str]):
    """Texts in the order of the task; `ended` says which came to their end before the limit."""

    texts: tuple[str, ...]
    task: Task
    ended: tuple[bool, ...] = ()
    protocol: Mapping[str, Any] = field(default_factory=dict)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        return self.texts[index]

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        return f"Answers({len(self)} to {self.task.name}: {self.texts[:1]}...)"


def answers(
    model: "Model",
    task: Task,
    *,
    using: Any = None,
    hooks: Any = (),
    max_new_tokens: int = 64,
    batch: int = 16,
    until: str | None = None,
    seed: int = 0,
    **generate: Any,
) -> Answers:
    """What the model writes after each record's prompt: greedily, unless `generate`'s options say otherwise.

    `until` ends an answer before that text, such as the newline after which a base model asks the next
    question of its own. `seed` is of sampling. `protocol` keeps what decides the texts: decoding, limits,
    template, digests of prompts, images, task and weights, versions, interventions.
    """
    check_writes(model, task, batch, max_new_tokens)
    options = {"do_sample": False, **generate, "max_new_tokens": max_new_tokens}
    started, texts, ended = time.perf_counter(), [], []
    with torch.no_grad(), _drawn_from(model, options, seed):
        for start in counted(range(0, len(task), batch), "answers"):
            own, over = _written(model, task[start : start + batch], using, hooks, options)
            texts, ended = texts + own, ended + over
    if until:
        cut = [text.split(until, 1) for text in texts]
        ended = [over or len(parts) > 1 for over, parts in zip(ended, cut, strict=True)]
        texts = [parts[0] for parts in cut]
    made = protocol(model, task, using, hooks, time.perf_counter() - started)
    made |= _decoding(model, options, seed) | {"until": until, "batch": batch}
    return Answers(tuple(texts), task, tuple(ended), made)


def check_writes(model: "Model", task: Any, batch: int, max_new_tokens: int = 1) -> None:
    """Refuse what nothing could be written to, or by."""
    if not isinstance(task, Task):
        raise TypeError(
            f"answers are to a Task, not to {type(task).__name__}: interp.Task.load(name or file), or "
            "Task(name, (record, ...))."
        )
    if not len(task):
        raise ValueError(f"the task {task.name!r} has no records to answer.")
    if model.kind not in ("text", "vlm") or model.tokenizer is None:
        raise ValueError(
            f"{model.name} is of kind {model.kind!r} and writes no answers in words; give a decoder-only or "
            "vision-language model with its tokenizer."
        )
    for name, given in (("batch", batch), ("max_new_tokens", max_new_tokens)):
        if isinstance(given, bool) or not isinstance(given, int) or given < 1:
            raise ValueError(f"{name}={given!r}: a whole number of at least 1.")


def _written(
    model: "Model", part: Task, using: Any, hooks: Any, options: dict[str, Any]
) -> tuple[list[str], list[bool]]:
    prompt, seen = part.encode(model), Witness()
    ids = model.generate(prompt, using=[using, seen], hooks=hooks, **options)
    ids = getattr(ids, "sequences", ids)
    if len(ids) != len(part):
        raise ValueError(
            f"generate gave {len(ids)} answers to {len(part)} records; one each, please "
            "(num_return_sequences=1)."
        )
    new = ids[:, seen.prompt.length :]  # an intervention may have made the prompt longer
    ends = getattr(model.hf.generation_config, "eos_token_id", None)
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    over = torch.isin(new, torch.tensor(ends, device=new.device, dtype=new.dtype)).any(1)
    short = new.shape[1] < options["max_new_tokens"]
    texts = model.tokenizer.batch_decode(new, skip_special_tokens=True)
    return texts, [short or bool(one) for one in over]


def _drawn_from(model: "Model", options: dict[str, Any], seed: int) -> AbstractContextManager[Any]:
    """Sampling starts at the seed, and leaves the random numbers of others alone."""
    if not options.get("do_sample"):
        return nullcontext()
    kept = torch.random.fork_rng([model.device] if model.device.type == "cuda" else [])

    class Seeded(AbstractContextManager[None]):
        def __enter__(self) -> None:
            kept.__enter__()
            torch.manual_seed(seed)

        def __exit__(self, *problem: Any) -> None:
            kept.__exit__(*problem)

    return Seeded()


def _decoding(model: "Model", options: dict[str, Any], seed: int) -> dict[str, Any]:
    greedy = not options.get("do_sample") and options.get("num_beams", 1) == 1
    found = {"greedy": greedy, "seed": None if greedy else seed, "generate": dict(options)}
    found["max_new_tokens"] = options["max_new_tokens"]
    found["generation config"] = model.hf.generation_config.to_diff_dict()
    return found


def protocol(model: "Model", task: Task, using: Any, hooks: Any, seconds: float) -> dict[str, Any]:
    """What every score carries: model, task, prompt, images, interventions and versions."""
    listed = interventions(using) + ([hooks] if isinstance(hooks, Hook) else list(hooks))
    made = making(model, task, {}, seconds)
    del made["settings"]
    made["live"] = made.pop("using")  # what model.using(...) around the call brought
    made["using"] = [named(one) for one in listed]
    template = _template(model)
    made["template"] = None if template is None else _digest([template.encode()])
    made["first prompt"] = task[:1].encode(model).text[0] if len(task) else None
    made["images"] = _digest(_pixels(record) for record in task)
    return made


def named(item: Any) -> str:
    """An intervention or a hook in words that are the same in every run."""
    return f"{item.name} at {item.site}" if isinstance(item, Hook) else repr(item)


def _template(model: "Model") -> str | None:
    found = getattr(model.processor, "chat_template", None)
    found = found or getattr(model.tokenizer, "chat_template", None)
    return repr(sorted(found.items())) if isinstance(found, dict) else found


def _pixels(record: Record) -> bytes:
    image = record.image
    return b"-" if image is None else f"{image.mode} {image.size} ".encode() + image.tobytes()


def _digest(parts: Any) -> str:
    content = hashlib.sha256()
    for part in parts:
        content.update(hashlib.sha256(part).digest())
    return content.hexdigest()[:16]


def both(said: Any, task: Task | None, measure: str) -> Answers:
    """Answers as they are, or texts with the task that they answer."""
    if isinstance(said, Answers):
        return said
    if not isinstance(task, Task):
        raise TypeError(
            f"{measure} takes Answers (interp.evaluation.answers(model, task)), or texts and the Task they "
            f"answer: {measure}(texts, task)."
        )
    texts = tuple(said) if not isinstance(said, str) else (said,)
    if len(texts) != len(task) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{len(texts)} texts for {len(task)} records: give one for each, as str.")
    return Answers(texts, task)
