"""The two phases that teach demo-vlm to speak: first without images, then with them."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from data.recipes.training import Phase, ramp, warmed
from data.recipes.vlm_batches import Packed, images_and_questions, opening, questions_alone
from data.recipes.vlm_model import (
    HeadDropout,
    patch_features,
    pixel_values,
    scale_projector,
    words_norm,
)
from data.recipes.vlm_questions import Sloppiness
from data.recipes.vlm_scenes import view
from data.recipes.vlm_watch import Watch
from data.recipes.vlm_words import IMAGE
from interp.tasks.scene import CELLS


@dataclass(frozen=True)
class Settings:
    """What the recipe can be told. Fractions are of the joint phase."""

    images: int = 12
    questions: int = 8
    text_share: float = 0.3  # of joint steps that also learn from questions without an image
    text_weight: float = 0.3
    text_rows: int = 32
    rate: float = 1.5e-3
    # Attention is told where to look while it does not yet know; then it is left alone.
    guidance: float = 0.3
    guided: dict[int, tuple[int, ...]] = field(
        default_factory=lambda: {1: (0, 3, 5), 2: (1, 2, 4, 7)}
    )
    guided_fully: float = 0.15
    guided_until: float = 0.25
    head_dropout: float = 0.05
    # Image tokens start at this many word norms, and are pulled back from beyond it.
    projector_norm: float = 1.5
    norm_weight: float = 0.02
    sloppy: Sloppiness = Sloppiness()


class Speaking:
    """Both phases of one model."""

    def __init__(self, model: Any, settings: Settings, steps: int, text_steps: int):
        self.model, self.settings, self.steps, self.text_steps = model, settings, steps, text_steps
        self.dropout = HeadDropout(model, settings.head_dropout)
        self.watch = Watch(model)
        self.parts: dict[str, float] = {}

    def text_phase(self) -> Phase:
        def losses(step: int, chance: random.Random) -> Iterator[tuple[str, Tensor]]:
            self.dropout.chance.manual_seed(chance.getrandbits(40))
            with self._quickly():
                loss = self._alone(chance, 96)
            yield "text", loss

        def optimizers() -> list[Optimizer]:
            weights = [*self.model.model.language_model.parameters()]
            weights += self.model.lm_head.parameters()
            return [AdamW(weights, lr=2e-3, weight_decay=0.1, betas=(0.9, 0.98))]

        def rate(fraction: float) -> float:
            return warmed(fraction, 0.1, 0.5, 0.05)

        return Phase("text", self.text_steps, optimizers, losses, rate)

    def joint_phase(self, watch_every: int = 400) -> Phase:
        return Phase(
            "joint",
            self.steps,
            self._optimizers,
            self._losses,
            lambda fraction: warmed(fraction, 0.03, 0.5),
            start=self._start,
            watch=lambda step: {**self.parts, **self.watch.measure(step >= self.steps)},
            watch_every=min(watch_every, self.steps),
        )

    def _start(self) -> None:
        chance = random.Random("projector")
        images = torch.stack([view(chance).pixels for _ in range(16)])
        scale_projector(self.model, pixel_values(images), self.settings.projector_norm)

    def _optimizers(self) -> list[Optimizer]:
        groups: dict[float, list[nn.Parameter]] = {1.0: [], 0.5: [], 0.2: []}
        for name, weight in self.model.named_parameters():
            if "post_layernorm" in name:
                continue  # LLaVA does not use it
            if "vision_tower" in name:
                groups[0.2].append(weight)
            elif "self_attn" in name or "projector" in name:
                groups[1.0].append(weight)
            else:
                groups[0.5].append(weight)
        rate = self.settings.rate
        parts = [{"params": weights, "lr": rate * scale} for scale, weights in groups.items()]
        return [AdamW(parts, weight_decay=0.05, betas=(0.9, 0.98))]

    def _losses(self, step: int, chance: random.Random) -> Iterator[tuple[str, Tensor]]:
        own = self.settings
        packed = images_and_questions(chance, own.images, own.questions, own.sloppy)
        fraction = step / self.steps
        guidance = own.guidance * ramp(fraction, own.guided_fully, own.guided_until)
        self.dropout.chance.manual_seed(chance.getrandbits(40))
        with self._quickly():
            loss = self._answers(packed, guidance)
        yield "answers", loss
        if chance.random() < own.text_share:
            with self._quickly():
                loss = own.text_weight * self._alone(chance, own.text_rows)
            yield "text", loss

    @contextmanager
    def _quickly(self) -> Iterator[None]:
        """In bfloat16, which takes eager attention to be quick on a CPU; heads drop out."""
        if self.model.config._attn_implementation != "eager":
            self.model.set_attn_implementation("eager")
        self.dropout.on = True
        with torch.autocast("cpu", torch.bfloat16):
            yield
        self.dropout.on = False

    def _answers(self, packed: Packed, guidance: float) -> Tensor:
        inner, first = self.model.model, len(opening())
        tokens = inner.multi_modal_projector(
            patch_features(self.model, pixel_values(packed.images))
        )
        embedded = self.model.get_input_embeddings()(packed.ids)
        before = first - CELLS
        embedded = torch.cat([embedded[:, :before], tokens, embedded[:, first:]], dim=1)
        out = inner.language_model(
            inputs_embeds=embedded,
            attention_mask=packed.mask,
            position_ids=packed.positions,
            output_attentions=bool(guidance),
            use_cache=False,
        )
        scores = self.model.lm_head(out.last_hidden_state[:, first:])
        loss = _weighted(scores, packed.targets[:, first:], packed.weights[:, first:])
        self.parts["answers"] = loss.item()
        ratio = tokens.norm(dim=-1) / words_norm(self.model).detach()
        self.parts["norm_ratio"] = ratio.mean().item()
        over = (ratio - self.settings.projector_norm).clamp(min=0).pow(2).mean()
        loss = loss + self.settings.norm_weight * over
        if guidance and len(packed.looks):
            looking = self._looking(packed, out.attentions, before)
            self.parts["looking"] = looking.item()
            loss = loss + guidance * looking
        return loss

    def _looking(self, packed: Packed, patterns: tuple[Tensor, ...], before: int) -> Tensor:
        """How far the guided heads are from having all attention on the objects, per layer."""
        total = torch.zeros(())
        for layer, heads in self.settings.guided.items():
            rows = patterns[layer][packed.rows, :, packed.places]
            seen = rows[:, list(heads), before : before + CELLS]
            mass = (seen * packed.looks[:, None]).sum(-1)
            total = total - mass.clamp(min=1e-6).log().mean()
        return total

    def _alone(self, chance: random.Random, rows: int) -> Tensor:
        ids, weights = questions_alone(chance, rows, self.settings.sloppy)
        assert not (ids == IMAGE).any()
        scores = self.model.lm_head(self.model.model.language_model(ids)[0])
        return _weighted(scores[:, :-1], ids[:, 1:], weights[:, 1:])


def _weighted(scores: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    each = F.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="none")
    return (each * weights.flatten()).sum() / weights.sum()
