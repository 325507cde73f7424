"""A tiny vision-language model that writes answers of full length, and a prompt for it."""

import interp
from interp.families import FAMILIES


def opened(name="llava", batch=1, length=12):
    family = FAMILIES[name]
    hf = family.model()
    hf.generation_config.eos_token_id = None
    # A placeholder among new tokens would ask for another image.
    hf.generation_config.suppress_tokens = [hf.config.image_token_id]
    model = interp.wrap(hf)
    return model, interp.Prompt.from_inputs(model, family.inputs(hf, batch=batch, length=length))
