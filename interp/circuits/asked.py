"""Senders and receivers of paths, from what a user names to what there is."""

from typing import Any

from interp.circuits.graph import PARTS, Node, node
from interp.registry import unknown
from interp.structure import Stack

Receiver = tuple[int, int, str]  # layer, head, q k or v


def check_receivers(stack: Stack, given: Any) -> list[Receiver]:
    """Receivers as (layer, head, part); none of them means the logits."""
    if isinstance(given, str):
        if given == "logits":
            return []
        raise LookupError(unknown("receiver", given, ["logits", "(layer, head, 'q'), 'k' or 'v'"]))
    found: list[Receiver] = []
    for one in given:
        whole = isinstance(one, (tuple, list)) and len(one) == 3
        if not whole or one[2] not in PARTS or not all(isinstance(n, int) for n in one[:2]):
            raise ValueError(
                f"a receiver is (layer, head, 'q', 'k' or 'v'), or all of them are 'logits', not {one!r}."
            )
        _check_node(stack, Node("head", one[0], one[1]))
        found.append((one[0], one[1], one[2]))
    if not found:
        raise ValueError("receivers= names none; 'logits', or [(layer, head, 'q'), ...].")
    return found


def check_senders(stack: Stack, given: Any, receivers: list[Receiver]) -> list[Node]:
    """The named senders, or all heads, as long as some receiver comes after them."""
    last = max((layer for layer, _, _ in receivers), default=stack.size)
    if given is None:
        heads = [layer for layer, one in stack.layers.items() if one.attention is not None]
        found = [Node("head", at, head) for at in heads for head in range(stack.heads) if at < last]
        if not found:
            raise ValueError(f"no head comes before receivers in layer {last}; name later ones.")
        return found
    found = [node(one) for one in given]
    for one in found:
        if one.kind not in ("head", "mlp"):
            raise ValueError(f"senders are heads and MLPs, not {one}.")
        _check_node(stack, one)
        if one.layer >= last:
            raise ValueError(
                f"sender {one} comes after every receiver (the last is in layer {last}), so that nothing of "
                "it can arrive; senders stand in earlier layers than receivers."
            )
    if not found:
        raise ValueError("senders= names none; leave it out for all heads.")
    return found


def _check_node(stack: Stack, one: Node) -> None:
    layer = stack.layers.get(one.layer)
    there = layer is not None and (
        layer.mlp is not None if one.kind == "mlp" else layer.attention is not None
    )
    if not there or not 0 <= one.head < stack.heads:
        raise IndexError(
            f"no {one.kind} {one} in the {stack.name} stack: it has layers 0 to {stack.size - 1} and heads 0 "
            f"to {stack.heads - 1}."
        )
