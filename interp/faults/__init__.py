"""Faults to be found and mended: known damage to the weights of a demo model.

    model = interp.load("demo-lm", fault="...")

A file here holds one fault, and ends in `FAULTS.add(fault.name, fault)`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from interp.registry import Registry

if TYPE_CHECKING:
    from interp.model import Model

FAULTS: "Registry[Fault]" = Registry("fault", "interp.faults")


@dataclass(frozen=True)
class Fault:
    """Damage done in place, each time the same, to one demo model.

    `repairs` names the interventions that claim to mend it, `about` says in a sentence what goes
    wrong, `judged` is the task, with its settings, that shows it. A fault of the inputs has no edit:
    that task itself is hard.
    """

    name: str
    model: str
    repairs: tuple[str, ...]
    about: str
    edit: Callable[["Model"], None] | None
    judged: tuple[str, Mapping[str, Any]]

    def damage(self, model: "Model") -> None:
        """Change the weights of this model in memory; its files stay as they are."""
        if self.edit is None:
            task, settings = self.judged
            given = "".join(f", {key}={value!r}" for key, value in settings.items())
            raise ValueError(
                f"the fault {self.name!r} is one of the inputs, and no weights change. Ask the "
                f"model as it is: interp.Task.load({task!r}{given})."
            )
        with torch.no_grad():
            self.edit(model)


def fault_for(name: str, asked: object, shipped: bool) -> Fault:
    """The fault of that name, if it is made for the shipped model that was asked for."""
    fault = FAULTS[name]
    if shipped and asked == fault.model:
        return fault
    if shipped:
        why = f"not for {asked!r}"
    elif asked == fault.model:
        why = f"and a folder {asked!r} here goes before the shipped model; call from elsewhere"
    else:
        why = f"and {str(asked)!r} is not a shipped model"
    raise ValueError(
        f"the fault {name!r} is made for {fault.model!r}, {why}: "
        f"interp.load({fault.model!r}, fault={name!r})."
    )
