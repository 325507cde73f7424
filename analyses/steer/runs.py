"""Every record under every entry: one run that is watched, and one that is timed."""

import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from analyses.compare.asked import REFUSALS, told
from analyses.steer.asked import PLAIN, TOGETHER, Asked
from interp.asking import choose_layers
from interp.model import Model
from interp.progress import counted
from interp.prompt import Prompt
from interp.sites import At, Hook
from interp.steering.needs import writing_stack
from interp.steering.report import Report

_LISTENING = threading.Lock()


@dataclass(eq=False)
class Look:
    """Stands last among interventions: the prompt as they left it, and its last row of attention.

    A row of each layer is opened, so that no whole map is made.
    """

    prompt: Prompt = field(init=False)
    rows: dict[int, Tensor] = field(default_factory=dict)  # layer -> [head, key]

    def plan(self, model: Model, prompt: Prompt) -> tuple[Prompt, list[Hook]]:
        self.prompt = prompt
        stack, last = writing_stack(model, "steer"), prompt.length - 1
        layers = sorted(choose_layers(stack, None, "pattern"))
        where = {"layers": layers, "stack": stack.name}
        return prompt, [Hook("pattern", self.read, **where, rows=True, within=(last, last + 1))]

    def read(self, pattern: Tensor, at: At) -> None:
        """Keys that no row sees may be left out; they are 0."""
        seen = pattern[0, :, -1].detach().float()
        row = seen.new_zeros(len(seen), max(self.prompt.length, at.first_key + seen.shape[1]))
        row[:, at.first_key : at.first_key + seen.shape[1]] = seen
        self.rows[at.layer] = row[:, : self.prompt.length].cpu()


@dataclass(eq=False)
class Run:
    """One record under one entry; only `refused` where it cannot be."""

    record: int
    name: str
    refused: str = ""
    answer: str = ""
    chances: Tensor | None = None  # [token], of the first token that is written
    look: Look | None = None
    report: Report | None = None  # None: plain
    seconds: float = 0.0
    warned: list[str] = field(default_factory=list)


def ran(asked: Asked) -> list[Run]:
    """Record by record, plain first; refused where nothing but plain could be run."""
    runs: list[Run] = []
    problems: list[tuple[str, Exception]] = []
    for record in counted(range(len(asked.task)), "steer"):
        prompt = asked.task[record : record + 1].encode(asked.model)
        for name, item in asked.entries:
            left = [run.name for run in runs if run.record == record and run.refused]
            if name == TOGETHER and left:
                why = f"{', '.join(left)} cannot be run on this record, so neither can all of them."
                runs.append(Run(record, name, refused=why))
                continue
            try:
                runs.append(_run(asked, Run(record, name), prompt, item))
            except REFUSALS as problem:
                if item is None:
                    raise
                problems.append((name, problem))
                runs.append(Run(record, name, refused=told(problem)))
    if all(run.refused or run.name == PLAIN for run in runs):
        name, problem = problems[0]
        said = dict.fromkeys(f"{name}: {told(one)}" for name, one in problems)
        kind = next(kind for kind in REFUSALS if isinstance(problem, kind))
        raise kind(" ".join(said)) from problem
    return runs


def _run(asked: Asked, run: Run, prompt: Prompt, item: Any) -> Run:
    model = asked.model
    options = {"do_sample": False, "num_beams": 1, "max_new_tokens": asked.max_new_tokens}
    run.look = Look()
    if item is not None:
        run.report = Report(*(item if isinstance(item, tuple) else (item,)))
    watched = [run.look] if run.report is None else [run.report, run.look]
    with heard() as run.warned:
        seen = model.generate(
            prompt, using=watched, return_dict_in_generate=True, output_scores=True, **options
        )
        run.chances = seen.scores[0][0].float().softmax(-1).cpu()
        started = _now(model.device)  # warm by now, and not watched
        ids = model.generate(prompt, using=item, **options)
        run.seconds = _now(model.device) - started
    ids = getattr(ids, "sequences", ids)[:, run.look.prompt.length :]
    run.answer = model.tokenizer.decode(ids[0], skip_special_tokens=True)
    return run


def _now(device: torch.device) -> float:
    """CPU seconds of the process; behind an accelerator, seconds by the clock."""
    if device.type == "cpu":
        return time.process_time()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def heard() -> Iterator[list[str]]:
    """What this thread is warned of, in words.

    Filters are the whole process's, so one thread listens at a time, and hands on what is meant for others.
    """
    said: list[str] = []
    own = threading.get_ident()
    with _LISTENING, warnings.catch_warnings():
        others = warnings.showwarning

        def keep(message: Warning | str, *more: Any) -> None:
            if threading.get_ident() == own:
                said.append(str(message))
            else:
                others(message, *more)

        warnings.simplefilter("always")
        warnings.showwarning = keep
        yield said
