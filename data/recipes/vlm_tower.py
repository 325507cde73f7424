"""The stand-in for CLIP's pretraining: the tower learns what is in each patch, and where it is."""

import random
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from data.recipes.training import Phase, muon_and_adam, warmed
from data.recipes.vlm_model import patch_features, pixel_values
from data.recipes.vlm_scenes import patches, view
from interp.tasks.scene import ACROSS, CELLS, COLOURS, SHAPES, Thing

IMAGES = 48  # a step
EMPTY_WEIGHT = 0.2  # of a patch without an object
PLACE_WEIGHT = 0.3
_SIZES = (len(SHAPES) + 1, len(COLOURS) + 1, ACROSS, ACROSS)  # shape, colour, row, column


class Tower:
    """The phase, and the linear heads that are thrown away after it."""

    def __init__(self, model: Any):
        self.model = model
        self.heads = nn.Linear(model.config.vision_config.hidden_size, sum(_SIZES))

    def phase(self, steps: int) -> Phase:
        return Phase(
            "tower",
            steps,
            self._optimizers,
            self._losses,
            lambda fraction: warmed(fraction, 0.04, 0.4),
            watch=self._watch,
            watch_every=max(1, steps // 8),
        )

    def _optimizers(self) -> list[Optimizer]:
        inner: list[Tensor] = []
        outer: list[Tensor] = [*self.heads.parameters()]
        for name, weight in self.model.model.vision_tower.named_parameters():
            embedded = "embedding" in name
            (inner if weight.ndim == 2 and not embedded else outer).append(weight)
        return muon_and_adam(inner, outer)

    def _losses(self, step: int, chance: random.Random) -> Iterator[tuple[str, Tensor]]:
        # Fuller than what it will see later: more to learn from each image.
        views = [view(chance, counts=(3, 7), free=0.5) for _ in range(IMAGES)]
        images = torch.stack([seen.pixels for seen in views])
        features = patch_features(self.model, pixel_values(images))
        yield "dense", self._loss(features, [seen.things for seen in views])

    def _loss(self, features: Tensor, scenes: list[list[Thing]]) -> Tensor:
        shape, colour, row, column = self.heads(features).split(_SIZES, dim=-1)
        shapes, colours = labels(scenes)
        weights = torch.where(shapes > 0, 1.0, EMPTY_WEIGHT)
        what = _entropy(shape, shapes) + _entropy(colour, colours)
        patch = torch.arange(CELLS).expand(len(scenes), -1)
        where = _entropy(row, patch // ACROSS) + _entropy(column, patch % ACROSS)
        small = features.pow(2).mean()  # keeps the projector's input in bounds
        return (what * weights).sum() / weights.sum() + PLACE_WEIGHT * where.mean() + 1e-3 * small

    def _watch(self, step: int) -> dict[str, float]:
        """Accuracy on patches with an object, of one fixed batch of other training scenes."""
        chance = random.Random("tower watch")
        views = [view(chance) for _ in range(200)]
        images = torch.stack([seen.pixels for seen in views])
        features = patch_features(self.model, pixel_values(images))
        shape, colour, _, _ = self.heads(features).split(_SIZES, dim=-1)
        shapes, colours = labels([seen.things for seen in views])
        full = shapes > 0
        return {
            "shape": (shape.argmax(-1) == shapes)[full].float().mean().item(),
            "colour": (colour.argmax(-1) == colours)[full].float().mean().item(),
            "empty": (shape.argmax(-1) == shapes)[~full].float().mean().item(),
        }


def labels(scenes: list[list[Thing]]) -> tuple[Tensor, Tensor]:
    """[scene, patch]: shape and colour of the object there, 0 for none."""
    shapes, colours = (torch.zeros(len(scenes), CELLS, dtype=torch.long) for _ in range(2))
    for number, things in enumerate(scenes):
        for thing in things:
            at = patches(thing)
            shapes[number, at] = SHAPES.index(thing.shape) + 1
            colours[number, at] = list(COLOURS).index(thing.colour) + 1
    return shapes, colours


def _entropy(scores: Tensor, right: Tensor) -> Tensor:
    return F.cross_entropy(scores.transpose(1, 2), right, reduction="none")
