"""A measure by name: asks a model about a task and gives its scores."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interp.evaluation.scored import Scored
from interp.evaluation.writing import answers
from interp.registry import unknown
from interp.task import Task

if TYPE_CHECKING:
    from interp.model import Model

_OWN = ("using", "hooks", "batch")
_WRITING = ("max_new_tokens", "until", "seed", "generate")


@dataclass(frozen=True)
class Measure:
    """`measure(model, task, using=..., **settings) -> Scored`.

    `ask` does it whole; where what the model writes is judged, `judge` says how, and `max_new_tokens` is
    what it may write unless the settings say otherwise.
    """

    name: str
    ask: Callable[..., Scored] | None = None
    judge: Callable[..., Scored] | None = None
    max_new_tokens: int = 64

    @property
    def settings(self) -> tuple[str, ...]:
        """What may be given by name, besides using, hooks and batch."""
        asked = inspect.signature(self.judge or self._ask).parameters.values()
        own = [one.name for one in asked if one.kind is one.KEYWORD_ONLY and one.name not in _OWN]
        return (*own, *(_WRITING if self.judge else ()))

    def __call__(
        self,
        model: "Model",
        task: Task,
        *,
        using: Any = None,
        hooks: Any = (),
        batch: int = 16,
        **settings: Any,
    ) -> Scored:
        for name in settings:
            if name not in self.settings:
                raise TypeError(unknown(f"setting of {self.name}", name, list(self.settings)))
        if self.judge is None:
            return self._ask(model, task, using=using, hooks=hooks, batch=batch, **settings)
        given = {name: settings.pop(name) for name in _WRITING if name in settings}
        generate = given.pop("generate", None) or {}
        given.setdefault("max_new_tokens", self.max_new_tokens)
        said = answers(model, task, using=using, hooks=hooks, batch=batch, **given, **generate)
        return self.judge(said, **settings)

    @property
    def _ask(self) -> Callable[..., Scored]:
        assert self.ask is not None, f"the measure {self.name} neither asks nor judges"
        return self.ask
