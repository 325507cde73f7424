"""Writing a trained model as a Hugging Face folder, with what made it beside the weights."""

import json
import platform
from pathlib import Path
from typing import Any

import torch
import transformers

from data.recipes.training import Training

MODELS = Path(__file__).parents[1] / "models"


def save(
    model: Any, processor: Any, folder: Path, training: Training, settings: dict[str, Any]
) -> None:
    """Weights, config, processor, and `training.json`: settings, seed, versions, cost, the log."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    parameters = sum(weight.numel() for weight in model.parameters())
    made = {
        "settings": {key: value for key, value in settings.items() if not isinstance(value, Path)},
        "seed": training.seed,
        "steps": {phase.name: phase.steps for phase in training.phases},
        "parameters": parameters,
        "cpu_seconds": round(training.spent),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "log": training.log,
    }
    text = json.dumps(made, indent=1)
    (folder / "training.json").write_text(text + "\n", encoding="utf-8")
