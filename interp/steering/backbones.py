"""Sink dimensions of backbones that are known: channels of the stream in which their sinks stand out.

Found by the authors of VAR (LLaMA-2) or reported for it by others. They hold for weights that were tuned
lightly from the backbone; where they do not, VAR finds no sink, and says so.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interp.model import Model


@dataclass(frozen=True)
class Backbone:
    """A text model by its shape; `vocabulary` leaves room for the few tokens that others add."""

    name: str
    kinds: tuple[str, ...]  # how the text model's type begins
    width: int
    layers: int
    hidden: int  # of the MLP
    vocabulary: tuple[int, int]
    dims: tuple[int, ...]


BACKBONES = (
    Backbone("LLaMA-2-7B", ("llama",), 4096, 32, 11008, (32000, 32256), (1415, 2533)),
    Backbone("LLaMA-2-13B", ("llama",), 5120, 40, 13824, (32000, 32256), (2100, 4743)),
    Backbone("Qwen2-7B", ("qwen2",), 3584, 28, 18944, (151000, 153000), (458, 2570)),
    Backbone("Mistral-7B", ("mistral",), 4096, 32, 14336, (32000, 32256), (2070,)),
)


def known(model: "Model") -> Backbone | None:
    """The backbone that this model's text stack has the shape of, if its sink dimensions are known."""
    config = model.config.get_text_config()

    def has(each: Backbone) -> bool:
        least, most = each.vocabulary
        own = (config.hidden_size, config.num_hidden_layers)
        return (
            own == (each.width, each.layers)
            and getattr(config, "intermediate_size", None) == each.hidden
            and config.model_type.startswith(each.kinds)
            and least <= config.vocab_size <= most
        )

    return next((each for each in BACKBONES if has(each)), None)
