"""What every intervention is: frozen settings that plan hooks for a prompt."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from interp.model import Model
    from interp.prompt import Prompt


class Settings(Mapping[str, Any]):
    """Settings of an intervention by name, and, called, the intervention with them.

    VAR(**VAR.inert), VAR.inert() and using=VAR.inert are the same; VAR(tau=9).inert() keeps its tau.
    """

    def __init__(self, **given: Any):
        self._given = given
        self._owner: Any = None

    def __get__(self, instance: Any, owner: type) -> "Settings":
        bound = Settings(**self._given)
        bound._owner = owner if instance is None else instance
        return bound

    def __getitem__(self, name: str) -> Any:
        return self._given[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)

    def __repr__(self) -> str:
        return repr(self._given)

    @property
    def owner(self) -> str:
        """The intervention's name."""
        own = self._owner
        return own.__name__ if isinstance(own, type) else type(own).__name__

    def __call__(self, **more: Any) -> Any:
        given = {**self._given, **more}
        return (
            self._owner(**given) if isinstance(self._owner, type) else replace(self._owner, **given)
        )

    def plan(self, model: "Model", prompt: "Prompt") -> tuple["Prompt", Sequence[Any]]:
        return self().plan(model, prompt)


@dataclass(frozen=True)
class Intervention(ABC):
    """Frozen settings; `plan` names the hooks for one prompt, and may change the prompt.

    `inert` are settings at which the model is the plain one to the bit, `strong` some at which it is
    not. `of` says what it acts on ("text": any decoder-only model, "image": vision-language models),
    `paper` where it comes from. State of a run lives in `at.memo` and dies with the run.
    """

    inert: ClassVar[Settings]
    strong: ClassVar[Settings]
    of: ClassVar[str] = "text"
    paper: ClassVar[str] = ""

    @abstractmethod
    def plan(self, model: "Model", prompt: "Prompt") -> tuple["Prompt", Sequence[Any]]:
        """The prompt to go on with, and hooks (`Hook`, `LogitsHook`) for it; none where nothing is asked."""
