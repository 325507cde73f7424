"""Forward inputs for the tiny models, the same for the same seed.

`length` counts text tokens; the placeholders of an image and its markers come in addition.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from interp.families.tiny import FIRST_WORD, IMAGE, VOCABULARY

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from transformers import PreTrainedModel

Inputs = dict[str, "Tensor"]


def seeded(seed: int) -> "Generator":
    import torch

    return torch.Generator().manual_seed(seed)


def words(generator: "Generator", batch: int, length: int) -> "Tensor":
    """Random ids, none of them special."""
    import torch

    return torch.randint(FIRST_WORD, VOCABULARY, (batch, length), generator=generator)


def pixels(generator: "Generator", *shape: int) -> "Tensor":
    import torch

    return torch.randn(*shape, generator=generator)


def put(model: "PreTrainedModel", inputs: Inputs) -> Inputs:
    return {name: value.to(model.device) for name, value in inputs.items()}


def text(model: "PreTrainedModel", batch: int = 1, length: int = 12, seed: int = 0) -> Inputs:
    import torch

    ids = words(seeded(seed), batch, length)
    return put(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})


def image(model: "PreTrainedModel", batch: int = 1, length: int = 0, seed: int = 0) -> Inputs:
    """A square image per row, for a model that takes no text: `length` says nothing here."""
    size = model.config.image_size
    return put(model, {"pixel_values": pixels(seeded(seed), batch, 3, size, size)})


def image_beside_text(
    model: "PreTrainedModel", batch: int = 1, length: int = 12, seed: int = 0
) -> Inputs:
    """Text and a square image per row, for two towers that never mix them."""
    import torch

    generator = seeded(seed)
    ids = words(generator, batch, length)
    size = model.config.vision_config.image_size
    values = pixels(generator, batch, 3, size, size)
    return put(
        model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": values}
    )


def source_and_target(
    model: "PreTrainedModel", batch: int = 1, length: int = 12, seed: int = 0
) -> Inputs:
    """Text for an encoder, and a shorter one for its decoder, so that cross maps are not square."""
    import torch

    generator = seeded(seed)
    ids = words(generator, batch, length)
    target = words(generator, batch, max(2, length - 4))
    return put(
        model,
        {"input_ids": ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": target},
    )


def image_in_text(
    model: "PreTrainedModel",
    batch: int,
    length: int,
    seed: int,
    middle: Sequence[int],
    shape: Sequence[int],
) -> Inputs:
    """Text, then `middle` (the placeholders of one image, with its markers), then text.

    `shape` is the shape of `pixel_values` for one row; rows are stacked.
    """
    import torch

    generator = seeded(seed)
    ids = words(generator, batch, length)
    cut = length // 3
    ids = torch.cat([ids[:, :cut], torch.tensor(middle).expand(batch, -1), ids[:, cut:]], dim=1)
    values = pixels(generator, batch, *shape)
    return put(
        model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": values}
    )


def square_in_text(
    placeholders: int, before: Sequence[int] = (), after: Sequence[int] = ()
) -> Callable[..., Inputs]:
    """Inputs for a family whose every image is one square of the config's size."""

    def made(model: "PreTrainedModel", batch: int = 1, length: int = 12, seed: int = 0) -> Inputs:
        size = model.config.vision_config.image_size
        high, wide = size if isinstance(size, (list, tuple)) else (size, size)
        middle = [*before, *[IMAGE] * placeholders, *after]
        return image_in_text(model, batch, length, seed, middle, (3, high, wide))

    return made
