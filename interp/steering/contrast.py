"""The same model on another prompt, beside a run: it says what would come next there.

In one forward it reads its prompt once. In `generate` it keeps a cache of its own and is fed the
tokens that the run writes; where beams have changed places, its cache follows.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.forward import single_pass
from interp.live import plainly
from interp.prompt import Prompt
from interp.responses import respond
from interp.trace import main_output

if TYPE_CHECKING:
    from interp.model import Model

# Where models keep the offset of their positions from one call to the next (Qwen-VL and its kin).
STATE = "rope_deltas"


def beside(model: "Model", prompt: Prompt) -> Tensor:
    """The plain model's logits on a prompt, [row, position, token]; no gradient."""
    with _apart(_holders(model), {}):
        return main_output(model.hf(**single_pass(model, prompt)))


class Beside:
    """The plain model on its own prompt, going on with the tokens that another run writes."""

    def __init__(self, model: "Model", prompt: Prompt, length: int):
        self.model, self.prompt = model, prompt
        self.length = length  # of the other run's prompt: what follows was written
        self.written: Tensor | None = None  # what the cache was fed, [batch, position]
        self.first = prompt.mask.long()  # the prompt's ids, a row for each beam
        self.options: dict[str, Any] = {}  # of the next forward, as `generate` keeps them
        self.output: Any = None
        self.holders = _holders(model)
        self.state: dict[int, Any] = {}  # what the model keeps of this stream, not of the other
        self.caches = "past_key_values" in inspect.signature(type(model.hf).forward).parameters

    def next(self, ids: Tensor) -> Tensor:
        """Logits of what follows the other run's `ids` [batch, position]: [batch, token]."""
        written = ids[:, self.length :]
        with _apart(self.holders, self.state):
            if self.caches and not self._follow(written):
                self._begin(written)
            if not self.caches:
                return self._whole(written)
            known = 0 if self.written is None else self.written.shape[1]
            for end in range(known, written.shape[1]):
                self._feed(written[:, : end + 1])
        self.written = written
        return self.output.logits[:, -1]

    def _whole(self, written: Tensor) -> Tensor:
        """All of it again, where the forward takes no cache; beams one after the other."""
        each = len(written) // len(self.prompt)
        found = []
        for beam in range(each):
            own = written[beam::each]
            prompt = respond(self.model, self.prompt, own) if own.shape[1] else self.prompt
            found.append(beside(self.model, prompt)[:, -1])
        return torch.stack(found, 1).flatten(0, 1)

    def _follow(self, written: Tensor) -> bool:
        """Whether the cache can go on with one token more, after rows that changed places."""
        before = self.written
        if before is None or before.shape != written[:, :-1].shape:
            return False
        if torch.equal(before, written[:, :-1]):
            return True
        each = len(before) // len(self.prompt)
        group = torch.arange(len(before), device=before.device) // each
        same = (before[None] == written[:, None, :-1]).all(-1) & (group[:, None] == group)
        if bool(same.any(-1).all()):
            self.output.past_key_values.reorder_cache(same.int().argmax(-1))
            return True
        return False

    def _begin(self, written: Tensor) -> None:
        """The prompt into a new cache, which is then repeated for each beam."""
        hf, given = self.model.hf, dict(self.prompt.inputs)
        ids = given.pop("input_ids")
        takes = inspect.signature(type(hf).forward).parameters
        if "position_ids" in takes and "position_ids" not in given:
            given["position_ids"] = hf._prepare_position_ids_for_generation(ids, given)
        given["use_cache"] = True
        if hf._supports_logits_to_keep():
            given["logits_to_keep"] = 1
        inputs = hf.prepare_inputs_for_generation(ids, is_first_iteration=True, **given)
        self.output, self.written = hf(**inputs, return_dict=True), None
        cache = getattr(self.output, "past_key_values", None)
        self.caches = cache is not None
        rows = torch.arange(len(ids), device=ids.device).repeat_interleave(len(written) // len(ids))
        self.first = ids[rows]
        self.options = {key: _of(rows, key, one) for key, one in given.items()}
        self.output.logits = self.output.logits[rows.to(self.output.logits.device)]
        if cache is not None and len(rows) > len(ids):
            cache.reorder_cache(rows)

    def _feed(self, written: Tensor) -> None:
        """The last of these tokens into the cache."""
        hf = self.model.hf
        self.options = hf._update_model_kwargs_for_generation(
            self.output, self.options, is_encoder_decoder=False
        )
        ids = torch.cat([self.first, written.to(self.first)], 1)
        inputs = hf.prepare_inputs_for_generation(ids, next_sequence_length=1, **self.options)
        self.output = hf(**inputs, return_dict=True)


def _of(rows: Tensor, name: str, value: Any) -> Any:
    """What `generate` keeps beside the ids, for these rows; pixels are not looked at again."""
    if not isinstance(value, Tensor) or value.is_floating_point():
        return value
    axis = 1 if name == "position_ids" and value.ndim == 3 else 0
    counted = value.shape[axis] == int(rows[-1]) + 1
    return value.index_select(axis, rows) if counted else value


def _holders(model: "Model") -> list[Any]:
    return [module for module in model.hf.modules() if STATE in vars(module)]


@contextmanager
def _apart(holders: list[Any], state: dict[int, Any]) -> Iterator[None]:
    """Plain, without gradients, and with this stream's own state in modules that keep one."""
    before = [getattr(module, STATE) for module in holders]
    for place, module in enumerate(holders):
        setattr(module, STATE, state.get(place))
    try:
        with plainly(), torch.no_grad():
            yield
    finally:
        for place, module in enumerate(holders):
            state[place] = getattr(module, STATE)
            setattr(module, STATE, before[place])
