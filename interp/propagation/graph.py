"""Walking the graph of an answer: is every step from the positions to it linear, or ruled?"""

from typing import Any

from torch import Tensor

# What autograd calls the steps that only move numbers about.
_MOVES = {
    "Alias", "AsStrided", "Chunk", "Clone", "Contiguous", "Expand", "Index", "IndexSelect", "Narrow",
    "Permute", "Repeat", "ReshapeAlias", "Select", "Slice", "Split", "SplitWithSizes", "Squeeze", "T",
    "ToCopy", "Transpose", "Unbind", "Unfold", "UnsafeSplit", "UnsafeView", "Unsqueeze", "View",
}  # fmt: skip
_SUMS = {
    "Add", "Cat", "ConstantPadNd", "Copy", "CopySlices", "Cumsum", "Flip", "Gather", "IndexAdd",
    "IndexCopy", "IndexPut", "MaskedFill", "MaskedScatter", "Mean", "Neg", "Roll", "Scatter", "Stack",
    "Sub", "Sum", "Tril", "Triu", "Where",
}  # fmt: skip
_BILINEAR = {"Addmm", "Baddbmm", "Bmm", "Convolution", "Div", "Dot", "Linear", "Mm", "Mul", "Mv"}


def check_rules(target: Tensor, source: Tensor, rule: str) -> None:
    """Refuses a graph in which anything from `source` to `target` is not linear and has no rule."""
    carrying = _carrying(target, source)
    if target.grad_fn not in carrying:
        raise ValueError(
            "the target does not come from the last forward in this block; take it from the logits of "
            "that one (and outside torch.no_grad and torch.inference_mode)."
        )
    inside: set[Any] = set()  # of a softmax, from the pattern down to queries and keys
    for node in carrying:
        if getattr(node, "passed", "") == "pattern":
            inside |= _down_to_marks(node, carrying)
    if _called(target.grad_fn) == "Max":
        inside.add(target.grad_fn)  # logits.max() as the target picks one of them
    steps = {node: _inputs(node, carrying) for node in carrying - inside}
    lost = sorted(
        f"{_called(node)} of {len(own)} inputs that depend on the positions"
        for node, own in steps.items()
        if not _has_rule(node, own, carrying)
    )
    if lost:
        raise ValueError(
            f"the answer goes through {lost[0]} (autograd's name for it), for which rule {rule!r} has no "
            "way back. For such a model use gradient x input, integrated gradients or leave-one-out."
        )


def _carrying(target: Tensor, source: Tensor) -> set[Any]:
    """The steps between the source and the target."""
    known: dict[Any, bool] = {}
    waiting: list[tuple[Any, bool]] = [(target.grad_fn, False)]
    while waiting:
        node, below_known = waiting.pop()
        if node is None or (node in known and not below_known):
            continue
        below = [each for each, _ in node.next_functions if each is not None]
        if below_known:
            known[node] = any(known.get(each, False) for each in below)
        elif hasattr(node, "variable"):
            known[node] = node.variable is source
        else:
            known[node] = False
            waiting.append((node, True))
            waiting += [(each, False) for each in below]
    return {node for node, carries in known.items() if carries}


def _has_rule(node: Any, own: list[Any], carrying: set[Any]) -> bool:
    """Whether a step is linear in what it carries, or a product that was halved as one."""
    name = _called(node)
    if hasattr(node, "variable") or hasattr(node, "passed") or name in _MOVES | _SUMS:
        return True
    marks = [_mark_below(each, carrying) for each in own]
    if len(own) == 2:
        return marks == ["factor", "factor"] or set(marks) == {"pattern", "value"}
    over = node.next_functions[-1][0] in carrying and name == "Div"  # what is divided by
    return name in _BILINEAR and len(own) == 1 and marks != ["factor"] and not over


def _mark_below(node: Any, carrying: set[Any]) -> str | None:
    """The name of the mark that a value comes from, if it has only been moved about since."""
    while node is not None and not hasattr(node, "passed"):
        below = _inputs(node, carrying)
        node = below[0] if _called(node) in _MOVES and len(below) == 1 else None
    return node.passed if node is not None else None


def _down_to_marks(pattern: Any, carrying: set[Any]) -> set[Any]:
    """The softmax below a pattern and all that leads to it, its queries and keys left out."""
    found: set[Any] = set()
    waiting = [pattern]
    while waiting:
        for below, _ in waiting.pop().next_functions:
            marked = getattr(below, "passed", "") in ("query", "key")
            if below in carrying and below not in found and not marked:
                found.add(below)
                waiting.append(below)
    past_marks = any(
        hasattr(node, "variable") for node in found
    )  # scores made of more than q and k
    return set() if past_marks else found


def _inputs(node: Any, carrying: set[Any]) -> list[Any]:
    return [below for below, _ in node.next_functions if below in carrying]


def _called(node: Any) -> str:
    """What autograd calls a step, without its ending and number."""
    return node.name().rpartition("::")[2].partition("Backward")[0]
