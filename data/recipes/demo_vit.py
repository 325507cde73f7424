"""The vision transformer that ships: it reads handwritten digits.

    python -m data.recipes.demo_vit [--seed N] [--out FOLDER]

Trained on the training split of the digits task, each time otherwise moved, turned, sized and
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

from data.recipes.saving import MODELS, save
from data.recipes.training import RUNS, Losses, Phase, Training, muon_and_adam, warmed
from interp.tasks.digits import LABELS, SIDE, indices, picture, scans

STEPS = 3000
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
    """Each image moved by up to a pixel of the scan, turned, sized, slanted, and given noise."""
    count = len(ink)

    def spread(width: float) -> Tensor:
        return (torch.rand(count, generator=chance) * 2 - 1) * width

    angle, slant = spread(math.radians(12)), spread(0.2)
    wide, high = 1 + spread(0.12), 1 + spread(0.12)
    cos, sin = angle.cos(), angle.sin()
    across = torch.stack([cos * wide, -sin + slant, spread(0.2)], 1)
    down = torch.stack([sin, cos * high, spread(0.2)], 1)
    grid = functional.affine_grid(torch.stack([across, down], 1), list(ink.shape), False)
    moved = functional.grid_sample(ink, grid, align_corners=False)
    noise = torch.randn(moved.shape, generator=chance) * torch.rand(
        count, 1, 1, 1, generator=chance
    )
    return (moved * (1 + spread(0.15))[:, None, None, None] + 0.1 * noise).clamp(0, 1)


def losses(model: nn.Module) -> Callable[[int, random.Random], Losses]:
    ink, digits = images("train")

    def step(number: int, chance: random.Random) -> Losses:
        drawn = torch.Generator().manual_seed(chance.getrandbits(62))
        batch = torch.randint(len(ink), (BATCH,), generator=drawn)
        logits = model(**shown(varied(ink[batch], drawn))).logits
        yield "loss", functional.cross_entropy(logits, digits[batch], label_smoothing=SMOOTHING)

    return step


def optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    inside = [weight for name, weight in model.named_parameters() if _is_inside(name, weight)]
    known = {id(weight) for weight in inside}
    others = [weight for weight in model.parameters() if id(weight) not in known]
    return muon_and_adam(inside, others, muon=0.01, adam=1e-3)


def _is_inside(name: str, weight: Tensor) -> bool:
    """A matrix of a layer, not of the embedding or the classifier."""
    return weight.ndim == 2 and ".layer" in name


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
