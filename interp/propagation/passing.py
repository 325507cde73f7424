"""The rules of relevance propagation, written into the graph while a model runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from interp.asking import choose_stack
from interp.propagation.graph import check_rules
from interp.registry import unknown
from interp.shadow import shadowed
from interp.sites import Hook

if TYPE_CHECKING:
    from interp.model import Model

RULES = ("cp", "attn")
_TINY = 1e-10
_ACTIVE: ContextVar[bool] = ContextVar("interp_propagating", default=False)
# Activations of one function each; those that a family composes of several stand in modules.
_ACTIVATIONS: set[Any] = {
    functional.silu, functional.gelu, functional.relu, functional.relu6, functional.leaky_relu,
    functional.elu, functional.mish, functional.hardswish, torch.relu, torch.tanh, Tensor.relu,
    Tensor.tanh,
}  # fmt: skip
_ROOTS: set[Any] = {torch.rsqrt, Tensor.rsqrt, torch.sqrt, Tensor.sqrt}
_POWERS: set[Any] = {torch.pow, Tensor.pow, Tensor.__pow__}
_CASTS: set[Any] = {Tensor.to, Tensor.float}
_PRODUCTS: set[Any] = {torch.mul, Tensor.mul, Tensor.__mul__}


class Propagation:
    """What came in and went out of the last forward in a `propagating` block."""

    def __init__(self, rule: str, stack: str):
        self.rule, self.stack = rule, stack
        # What the first layer received, [batch, position, d_model].
        self.stream: Tensor | None = None

    def relevance(self, target: Tensor) -> Tensor:
        """The relevance of each position for `target`, a logit (or a sum of them): [batch, position]."""
        if self.stream is None:
            raise ValueError("no model ran in this block; call model.logits(prompt) inside it.")
        if target.numel() != 1:
            raise ValueError(
                f"relevance is of one number, not of {tuple(target.shape)}: pick a logit, "
                "or the sum of one for each row."
            )
        check_rules(target, self.stream, self.rule)
        (gradient,) = torch.autograd.grad(target.sum(), self.stream, retain_graph=True)
        return (gradient * self.stream).sum(-1).detach()

    def _begin(self, value: Tensor, at: Any) -> Tensor:
        self.stream = value.detach().clone().requires_grad_()
        return self.stream


@contextmanager
def propagating(
    model: "Model", rule: str = "cp", stack: str | None = None
) -> Iterator[Propagation]:
    """Forwards inside the block, in this thread, are built so that gradients follow `rule`."""
    if rule not in RULES:
        raise ValueError(unknown("rule", rule, list(RULES)))
    tower = choose_stack(model.stacks, stack, model.name)
    if "cross" in model.stacks:
        raise ValueError(
            f"{model.name} mixes two streams by cross-attention, and relevance is followed in one. "
            "Use relevance.chefer_cross on its patterns and their gradients."
        )
    if model.hf.training:
        raise ValueError(
            f"{model.name} is in training mode, where dropout cuts. Call model.hf.eval()."
        )
    found = Propagation(rule, tower.name)
    hooks = [Hook("resid_pre", found._begin, layers=[min(tower.layers)], stack=tower.name)]
    hooks += [Hook(site, fn, stack=tower.name) for site, fn in _ATTENTION[rule].items()]
    token = _ACTIVE.set(True)
    try:
        with torch.enable_grad(), shadowed(_composed(model.hf)), model.using(*hooks), _Rules():
            yield found
    finally:
        _ACTIVE.reset(token)


class _Identity(torch.autograd.Function):
    """f(x) forward, f(x) / x backward."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, result: Tensor) -> Tensor:
        small = value.abs() < _TINY  # only there: elsewhere sums of relevance are exact
        ctx.save_for_backward(result / torch.where(small, _TINY, value))
        ctx.passed = "activation"
        return result.view_as(result)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] * ctx.saved_tensors[0], None


class _Passed(torch.autograd.Function):
    """The value as it is; of its gradient a part. `name` says to whoever walks the graph what it is."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, part: float, name: str) -> Tensor:
        ctx.part, ctx.passed = part, name
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] * ctx.part, None, None


def _passing(part: float, name: str) -> Callable[[Tensor, Any], Any]:
    def passed(value: Tensor, at: Any) -> Any:
        return _Passed.apply(value, part, name)

    return passed


def _constant(value: Tensor, at: Any) -> Tensor:
    return value.detach()


# What stands at the sites of every attention. A pattern that is asked for is computed in the open.
_ATTENTION: dict[str, dict[str, Callable[[Tensor, Any], Any]]] = {
    "cp": {"pattern": _constant},
    "attn": {
        "q": _passing(0.25, "query"),
        "k": _passing(0.25, "key"),
        "v": _passing(0.5, "value"),
        "pattern": _passing(1.0, "pattern"),
    },
}


class _Rules(TorchFunctionMode):
    """Puts the rules in the place of norms, activations and products, in this thread alone."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.layer_norm or func is functional.rms_norm:
            return _normed(func is functional.layer_norm, *args, **kwargs)
        if func in _CASTS and _rounds(func, args, kwargs):
            # Families compute norms in float32; what is asked in float64 stays there.
            return args[0]
        if func in _ROOTS or (func in _POWERS and args[1:] == (-0.5,)):
            return func(*args, **kwargs).detach()  # one over the size of something: a norm's scale
        if func in _ACTIVATIONS and args[0].requires_grad:
            options = {key: value for key, value in kwargs.items() if key != "inplace"}
            return _Identity.apply(args[0], func(args[0].detach(), *args[1:], **options))
        if func in _PRODUCTS and _both_carry(*args[:2]):
            halves = [_Passed.apply(factor, 0.5, "factor") for factor in args[:2]]
            return func(*halves, *args[2:], **kwargs)
        return func(*args, **kwargs)


def _normed(
    centred: bool, value: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: Any = None
) -> Tensor:
    axes = tuple(range(-len(shape), 0))
    if eps is None:
        eps = 1e-5 if centred else torch.finfo(value.dtype).eps
    precise = value.to(torch.promote_types(value.dtype, torch.float32))
    if centred:
        precise = precise - precise.mean(axes, keepdim=True)
    scale = torch.rsqrt(precise.detach().square().mean(axes, keepdim=True) + eps)
    result = (precise * scale).to(value.dtype)
    result = result if weight is None else result * weight
    return result if bias is None else result + bias


def _rounds(func: Callable, args: tuple, kwargs: dict) -> bool:
    """Whether this casts an activation from float64 to float32."""
    single = func is Tensor.float or torch.float32 in (*args[1:2], kwargs.get("dtype"))
    return single and args[0].requires_grad and args[0].dtype == torch.float64


def _both_carry(left: Any, right: Any) -> bool:
    """Whether this may be a product of two activations; check_rules finds out if it was not."""
    return all(
        isinstance(factor, Tensor) and factor.requires_grad and not isinstance(factor, nn.Parameter)
        for factor in (left, right)
    ) and (left.shape == right.shape)


def _composed(hf: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    """Activations that a family composes of several functions, to be taken as one."""
    for module in hf.modules():
        if type(module).__module__ == "transformers.activations":
            yield module, "forward", _around_activation


def _around_activation(
    original: Callable[..., Any], module: nn.Module, args: tuple, kwargs: dict
) -> Any:
    """f(x) / x is a rule only where f(0) is 0; any other activation is left, and found out."""
    if not _ACTIVE.get() or len(args) != 1 or kwargs or not args[0].requires_grad:
        return original(*args, **kwargs)
    with torch.no_grad():
        if bool(original(torch.zeros_like(args[0])).any()):
            return original(*args)
        result = original(args[0].detach())
    return _Identity.apply(args[0], result)
