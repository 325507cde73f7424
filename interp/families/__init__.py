"""What cannot be discovered about a model family, as data; and a tiny model of each to test on.

Layers, heads and projections are found by structure (`interp.structure`). A family needs an entry
only to be in the conformance table, or where it holds an oddity named by a field below.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from interp.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

FAMILIES: "Registry[Family]" = Registry("family", "interp.families")


@dataclass(frozen=True)
class Family:
    """Facts about one `config.model_type`.

    `tiny` and `inputs` make a model and forward inputs for tests, with no download. `mlp` and `out`
    name modules inside a layer that structure does not find, by stack. `layout` says where image
    tokens lie. `own_positions`: the model finds positions by itself, and must be given none.
    `between`: stacks where the model adds to the stream between two layers. `causal`: stacks that
    are causal though their attention modules do not say so. `written`: the token type of what it writes.
    """

    name: str
    kind: str  # text, vlm, vision, dual (image and text towers), encoder, encoder-decoder, audio
    auto: str  # the transformers Auto class that opens it
    tiny: Callable[[], "PretrainedConfig"]  # a config small enough for a test
    inputs: Callable[..., dict[str, "Tensor"]]  # (model, batch=, length=, seed=) -> forward inputs
    mlp: dict[str, str] = field(default_factory=dict)  # stack -> path of the MLP inside a layer
    out: dict[str, str] = field(default_factory=dict)  # stack -> path of the output projection
    layout: Callable[..., Any] | None = None  # where image tokens lie: see interp.images
    own_positions: bool = False  # the model derives positions from the mask or ids by itself
    between: tuple[str, ...] = ()  # stacks where the model adds something between two layers
    causal: tuple[str, ...] = ()  # stacks that are causal though their attention does not say so
    written: int = 0  # token type of what the model writes

    def model(self, seed: int = 0) -> "PreTrainedModel":
        """The tiny model with random weights, in float32 and eval mode."""
        import torch
        import transformers

        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            model = getattr(transformers, self.auto).from_config(self.tiny()).float().eval()
            for name, weight in model.named_parameters():
                # Gates and projections that start at zero would hide whole towers from the logits.
                if not weight.any() and "bias" not in name:
                    torch.nn.init.normal_(weight, std=0.3)
        return model


def family_of(config: "PretrainedConfig") -> Family | None:
    """The entry for this config's model type, if it has one."""
    known = config.model_type in FAMILIES
    return FAMILIES[config.model_type] if known else None
