"""Trains demo-vlm: a LLaVA of 1.1 million parameters that answers questions about shapes.

    python -m data.recipes.demo_vlm [--seed 0] [--out FOLDER] [--unguided] [--no-tower] [--part 1]

Three phases: the vision tower by itself, the language model without images, both together.
A run that was stopped goes on where it was.
"""

import argparse
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from data.recipes.saving import MODELS, save
from data.recipes.training import RUNS, Training
from data.recipes.vlm_joint import Settings, Speaking
from data.recipes.vlm_model import fresh
from data.recipes.vlm_questions import SHARES
from data.recipes.vlm_tower import Tower
from data.recipes.vlm_words import processor

TOWER_STEPS, TEXT_STEPS, JOINT_STEPS = 3200, 200, 4800


def train(
    seed: int,
    out: Path,
    settings: Settings,
    tower: bool = True,
    part: float = 1.0,
) -> None:
    """`part` shortens every phase alike."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = fresh()
    eyes = Tower(model)
    steps = [max(1, int(part * each)) for each in (TOWER_STEPS, TEXT_STEPS, JOINT_STEPS)]
    speaking = Speaking(model, settings, steps[2], steps[1])
    phases = [eyes.phase(steps[0])] if tower else []
    phases += [speaking.text_phase(), speaking.joint_phase()]
    name = out.name
    # The heads are part of what is kept, so that a stopped tower phase can go on.
    training = Training(nn.ModuleList([model, eyes.heads]), phases, RUNS / name, seed)
    training.run()
    model.eval()
    made = {**asdict(settings), "shares": SHARES, "tower": tower, "part": part}
    save(model, processor(), out, training, made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--unguided", action="store_true", help="never tell attention where to look"
    )
    parser.add_argument("--no-tower", action="store_true", help="skip the tower's own phase")
    parser.add_argument("--part", type=float, default=1.0, help="share of the steps to take")
    given = parser.parse_args()
    settings = Settings()
    if given.unguided:
        settings = replace(settings, guidance=0.0)
    name = "demo-vlm" + (f"-seed{given.seed}" if given.seed else "")
    name += ("-unguided" if given.unguided else "") + ("-no-tower" if given.no_tower else "")
    shipped = name == "demo-vlm" and given.part == 1.0
    out = given.out or (MODELS if shipped else RUNS) / name
    train(given.seed, out, settings, not given.no_tower, given.part)


if __name__ == "__main__":
    main()
