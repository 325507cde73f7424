"""What each planted fault costs, on the test split of the task it is judged on."""

from pathlib import Path

import interp
from interp.faults import FAULTS
from interp.scoring import score
from interp.tasks import TASKS


def measure(name: str, folder: Path, count: int = 400) -> dict[str, float]:
    """Accuracy of the model as it is and under each fault made for it."""
    found: dict[str, float] = {}
    for fault in FAULTS.values():
        if fault.model != name:
            continue
        task, settings = fault.judged
        asked = TASKS[task](count, "test", **settings)
        model = interp.load(folder)
        plain = float(score(model, asked)["right"].mean())
        if fault.edit is None:
            usual = TASKS[task](count, "test")
            found[f"fault {fault.name}: usual {task}"] = float(score(model, usual)["right"].mean())
            found[f"fault {fault.name}: accuracy"] = plain
            continue
        fault.damage(model)
        found[f"fault {fault.name}: without it"] = plain
        found[f"fault {fault.name}: accuracy"] = float(score(model, asked)["right"].mean())
    return found
