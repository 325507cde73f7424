"""The vision transformer that ships: it reads handwritten digits.

    python -m data.recipes.demo_vit [--seed N] [--out FOLDER]

Trained on the training split of the digits task, each time otherwise sized, moved, turned and
noised. The weights kept are those at the end of the schedule; nothing is chosen by how it scores.
"""

import argparse
import math
import random
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW, Optimizer

from data.recipes.saving import MODELS, save
from data.recipes.training import RUNS, Losses, Phase, Training, warmed
from interp.tasks.digits import LABELS, SIDE, indices, picture, scans

STEPS = 4000
BATCH = 64
SMOOTHING = 0.1


def network() -> nn.Module:
    """Four layers of four heads over 8x8 patches: a patch is one pixel of the scan."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=SIDE,
        patch_size=SIDE // 8,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=256,
        id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
    )
    return ViTForImageClassification(config)


def images(split: str) -> tuple[Tensor, Tensor]:
    """A split's ink, 0 to 1, [image, 1, side, side], and its digits."""
    chosen = list(indices(split))
    pixels = [
        torch.frombuffer(bytearray(picture(index).tobytes()), dtype=torch.uint8) for index in chosen
    ]
    ink = torch.stack(pixels).view(-1, 1, SIDE, SIDE).float() / 255
    return ink, torch.tensor(scans()[1][chosen])


def shown(ink: Tensor) -> dict[str, Tensor]:
    """Ink as the image processor gives it: three equal channels, -1 to 1."""
    return {"pixel_values": (ink * 2 - 1).expand(-1, 3, -1, -1)}


def varied(ink: Tensor, chance: torch.Generator) -> Tensor:
    """Each image sized, moved, turned, slanted, and given noise.

    Digits shrink by up to a third and roam in the room that leaves: no pixel means the same in every
    image, so that reading one takes attention in more layers than the first.
    """
    size, aspect, angle, slant, right, down, light, noisy = torch.rand(
        8, len(ink), generator=chance
    )
    wide = 0.9 + 0.65 * size  # how much of the plane is seen: over 1 makes the digit smaller
    aspect = 1 + 0.12 * (2 * aspect - 1)
    angle, slant = math.radians(18) * (2 * angle - 1), 0.25 * (2 * slant - 1)
    room = (wide - 0.9) + 0.15
    across = [wide * aspect * angle.cos(), slant - wide * angle.sin(), room * (2 * right - 1)]
    along = [wide * angle.sin(), wide / aspect * angle.cos(), room * (2 * down - 1)]
    place = torch.stack([torch.stack(across, 1), torch.stack(along, 1)], 1)
    grid = functional.affine_grid(place, list(ink.shape), align_corners=False)
    moved = functional.grid_sample(ink, grid, align_corners=False)
    noise = torch.randn(moved.shape, generator=chance) * 0.1 * noisy.view(-1, 1, 1, 1)
    return (moved * (0.85 + 0.3 * light).view(-1, 1, 1, 1) + noise).clamp(0, 1)


def losses(model: nn.Module) -> Callable[[int, random.Random], Losses]:
    ink, digits = images("train")

    def step(number: int, chance: random.Random) -> Losses:
        drawn = torch.Generator().manual_seed(chance.getrandbits(62))
        batch = torch.randint(len(ink), (BATCH,), generator=drawn)
        logits = model(**shown(varied(ink[batch], drawn))).logits
        yield "loss", functional.cross_entropy(logits, digits[batch], label_smoothing=SMOOTHING)

    return step


def optimizers(model: nn.Module) -> list[Optimizer]:
    return [AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, betas=(0.9, 0.98))]


def watch(model: nn.Module) -> Callable[[int], dict[str, float]]:
    ink, digits = images("validation")
    return lambda step: {
        "validation": float((model(**shown(ink)).logits.argmax(-1) == digits).float().mean())
    }


def schedule(model: nn.Module, steps: int = STEPS) -> Phase:
    return Phase(
        name="digits",
        steps=steps,
        optimizers=lambda: optimizers(model),
        losses=losses(model),
        rate=lambda fraction: warmed(fraction, 0.03, 0.3),
        watch=watch(model),
        watch_every=250,
    )


def train(folder: Path, seed: int, steps: int = STEPS) -> Training:
    torch.manual_seed(seed)
    model = network().train()
    training = Training(model, [schedule(model, steps)], folder, seed)
    training.run()
    model.eval()
    return training


def main() -> None:
    from transformers import ViTImageProcessorPil

    parser = argparse.ArgumentParser(description="Train the digits classifier.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=MODELS / "demo-vit")
    given = parser.parse_args()
    torch.set_num_threads(1)  # so small a model loses more to hand-overs than it gains
    training = train(RUNS / f"demo-vit-{given.seed}", given.seed)
    settings = {"batch": BATCH, "smoothing": SMOOTHING, "split": "train"}
    processor = ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})
    save(training.model, processor, given.out, training, settings)


if __name__ == "__main__":
    main()
