"""Where a value can be read or changed, and the function that is put there.

| site       | axes                          | what it is                                                    |
|------------|-------------------------------|---------------------------------------------------------------|
| resid_pre  | batch position d_model        | the residual stream as a layer receives it                    |
| q          | batch position head d_head    | queries as they enter attention: normed, rotated, unscaled    |
| k          | batch key kv_head d_head      | keys likewise, cached ones first, KV heads not repeated       |
| v          | batch key kv_head d_head      | values likewise                                               |
| scores     | batch head query key          | before softmax: scaled, soft-capped, biased, masked           |
| pattern    | batch head query key          | after softmax, before dropout; a row with no key to see is 0  |
| z          | batch position head d_head    | each head's mixed values, before the output projection        |
| attn_out   | batch position d_model        | what the output projection returns (before any post-norm)     |
| mlp_out    | batch position d_model        | what the MLP or mixture of experts returns (likewise)         |
| resid_post | batch position d_model        | the residual stream as the layer hands it on                  |
"""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from interp.registry import unknown

if TYPE_CHECKING:
    from interp.prompt import Prompt

SITES: dict[str, tuple[str, ...]] = {
    "resid_pre": ("batch", "position", "d_model"),
    "q": ("batch", "position", "head", "d_head"),
    "k": ("batch", "key", "kv_head", "d_head"),
    "v": ("batch", "key", "kv_head", "d_head"),
    "scores": ("batch", "head", "query", "key"),
    "pattern": ("batch", "head", "query", "key"),
    "z": ("batch", "position", "head", "d_head"),
    "attn_out": ("batch", "position", "d_model"),
    "mlp_out": ("batch", "position", "d_model"),
    "resid_post": ("batch", "position", "d_model"),
}
ATTENTION_SITES = ("q", "k", "v", "scores", "pattern", "z", "attn_out")
QUERY_HEAD_SITES = ("q", "scores", "pattern", "z")
MAP_SITES = ("scores", "pattern")

# TransformerLens takes hook_q before the rotation and hook_rot_q after it; the seam sees the latter.
_ALIASES = {
    "hook_resid_pre": "resid_pre",
    "hook_q": "q",
    "hook_k": "k",
    "hook_v": "v",
    "hook_rot_q": "q",
    "hook_rot_k": "k",
    "hook_attn_scores": "scores",
    "hook_pattern": "pattern",
    "hook_z": "z",
    "hook_attn_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    "hook_resid_post": "resid_post",
}
_LENS_NAME = re.compile(r"(?:blocks\.(?P<layer>\d+)\.)?(?:attn\.)?(?P<hook>hook_\w+)")


def parse_site(name: str) -> tuple[str, int | None]:
    """The site that a name means, and the layer when a TransformerLens name carries one."""
    if name in SITES:
        return name, None
    match = _LENS_NAME.fullmatch(name) if isinstance(name, str) else None
    if match and match["hook"] in _ALIASES:
        layer = match["layer"]
        return _ALIASES[match["hook"]], None if layer is None else int(layer)
    raise LookupError(unknown("site", name, list(SITES), plural="Sites are"))


def whole_number(value: Any, noun: str) -> int:
    """An int from anything that is one (numpy's and torch's too), or the reason why not."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{noun} must be whole numbers, not {value!r}.") from None


def head_axis(site: str) -> int | None:
    """Which axis of a site counts heads."""
    axes = SITES[site]
    return next((axes.index(name) for name in ("head", "kv_head") if name in axes), None)


@dataclass
class At:
    """Where and when a hook runs."""

    site: str
    stack: str
    layer: int
    first: int  # absolute position of the value's first row (query, or position)
    first_key: int  # absolute position of the first key column of scores, pattern, k and v
    prefill: bool  # True while prompt positions are processed, False once only new tokens are
    memo: dict[Any, Any] = field(repr=False)  # shared by one intervention's hooks, for one run
    run: Any = field(repr=False)

    @property
    def prompt(self) -> "Prompt | None":
        """What is being answered; None for a forward that was given bare embeddings."""
        return self.run.prompt

    def where(self, name: str, value: Tensor, image: int | None = None) -> Tensor:
        """The span `name` as [batch, key] over the keys of `value`, beams and new tokens included.

        Beam search repeats each prompt row; tokens past the prompt belong to no span.
        """
        if self.prompt is None:
            raise ValueError(f"no prompt is known here, so the span {name!r} cannot be placed.")
        span = self.prompt.where(name, image).to(value.device)
        keys = value.shape[-1] if self.site in MAP_SITES else value.shape[1]
        start = self._start(self.prompt, keys)
        width = max(self.first_key + keys, start + span.shape[1])
        padded = span.new_zeros(span.shape[0], width)
        padded[:, start : start + span.shape[1]] = span
        window = padded[:, self.first_key : self.first_key + keys]
        return window.repeat_interleave(value.shape[0] // span.shape[0], dim=0)

    def _start(self, prompt: "Prompt", keys: int) -> int:
        """Where the prompt begins among this stack's positions; refused where it is not in them."""
        if self.stack == "text":
            return self.run.start or 0
        own = self.stack == "encoder" or (self.stack == "vision" and prompt.ids is None)
        if (own or "cross" in self.stack) and prompt.length == keys:
            return 0
        raise ValueError(
            f"the prompt's spans lie on its own {prompt.length} positions, and not on the {keys} keys of the "
            f"{self.stack} stack."
        )


@dataclass(frozen=True)
class Hook:
    """A function at a site. It reads when it returns None and changes when it returns a tensor.

        Hook("z", lambda z, at: z * 0, layers=[2], heads=[1, 3])

    `rows=True` promises that `fn` treats each query row of `scores` or `pattern` by itself: it may
    then be called on blocks of rows (`at.first` says which), and no whole map is made.

    `within=(start, stop)` shows `fn` only the rows at these positions of the prompt, new tokens
    following it (`stop=None`: to the end). Other rows run on plain attention, as do other heads of a
    prompt. With `rows=True` keys that none of the rows can see may be left out.
    """

    site: str
    fn: Callable[[Tensor, At], Tensor | None]
    layers: Sequence[int] | int | None = None  # None: every layer of the stack
    stack: str | None = None  # None: the model's main stack
    heads: Sequence[int] | int | None = None  # None: all; `fn` sees only these
    rows: bool = False
    within: tuple[int, int | None] | None = None

    @property
    def name(self) -> str:
        """The name of its function, as messages and reports say it."""
        return getattr(self.fn, "__name__", type(self.fn).__name__)


@dataclass(frozen=True)
class LogitsHook:
    """A function of what the model says next: fn(ids, logits, at) -> logits of the same shape.

    `ids` [batch, position] are all tokens so far, `logits` [batch, last, vocabulary] those of the last
    positions: all of them in one forward, one at each step of `generate`, where beams may have
    reordered the rows since the last step. Interventions plan it beside hooks.
    """

    fn: Callable[[Tensor, Tensor, At], Tensor]
    site: str = "logits"

    @property
    def name(self) -> str:
        """The name of its function, as messages and reports say it."""
        return getattr(self.fn, "__name__", type(self.fn).__name__)
