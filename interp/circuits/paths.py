"""Path patching: what a head does to the answer by way of chosen receivers alone.

Two operators are published and both are here. "circuit_reuse" (Merullo et al. 2024, arXiv
2310.08744): the sender's z at the positions is that of the corrupted run, and there every other head's
z, in all layers, that of the clean run; what then arrives at the receivers there is put into a clean
run. "ioi" (Wang et al. 2022, arXiv 2211.00593): queries, keys and values of all heads are the clean
run's everywhere, so that no head passes anything on, and receivers are overwritten at all positions.
In both, MLPs run freely unless they are frozen.

Both let the sender's change reach the receivers through the residual stream and MLPs alone; they
differ in what receivers of several layers do at other positions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.asking import choose_stack
from interp.circuits.asked import Receiver, check_receivers, check_senders
from interp.circuits.graph import Node
from interp.circuits.places import check_prompts, places, repeated
from interp.circuits.replaced import read
from interp.circuits.writing import first_rows
from interp.prompt import Prompt
from interp.readouts import Readout
from interp.registry import unknown
from interp.replay import Change, Replay
from interp.sites import At, Hook
from interp.statistics import standard_error
from interp.structure import Stack

if TYPE_CHECKING:
    from interp.model import Model

OPERATORS = ("circuit_reuse", "ioi")


@dataclass(frozen=True, eq=False)
class PathEffects:
    """The metric of each row: clean, corrupted, and with each sender's path patched."""

    senders: tuple[Node, ...]
    clean: Tensor  # [row]
    corrupted: Tensor  # [row]
    patched: Tensor  # [sender, row]

    @property
    def raw(self) -> Tensor:
        """How much the metric moves, [sender, row]."""
        return self.patched - self.clean

    @property
    def share(self) -> Tensor:
        """Of the way from the clean to the corrupted mean, [sender]: 0 nothing, 1 all of it."""
        return self.raw.mean(1) / (self.corrupted - self.clean).mean()

    @property
    def share_error(self) -> Tensor:
        """The standard error of a share, a ratio of means, [sender]; not a number for one row."""
        way = self.corrupted - self.clean
        rest = self.raw - self.share[:, None] * way
        return standard_error(rest.T) / way.mean().abs()

    @classmethod
    def joined(cls, parts: Sequence[tuple[Sequence[int], "PathEffects"]]) -> "PathEffects":
        """Batches, each with its rows' numbers in the task, as one in the task's order."""
        order = torch.tensor([number for numbers, _ in parts for number in numbers]).argsort()
        each = [found for _, found in parts]
        clean, corrupted = (
            torch.cat([getattr(one, name) for one in each])[order]
            for name in ("clean", "corrupted")
        )
        return cls(
            each[0].senders, clean, corrupted, torch.cat([one.patched for one in each], 1)[:, order]
        )


def path_effects(
    model: "Model",
    clean: Prompt,
    corrupted: Prompt,
    metric: Readout | Callable[..., Tensor],
    senders: Sequence[Any] | None = None,
    receivers: str | Sequence[Any] = "logits",
    operator: str = "circuit_reuse",
    position: Any = "last",
    freeze_mlps: bool = False,
    stack: str | None = None,
    rows: int = 64,
) -> PathEffects:
    """Exact. Senders are heads "2.3" or (2, 3), or MLPs "mlp 2"; None: every head before the last receiver.

    Receivers are "logits", or (layer, head, "q" | "k" | "v"); heads that share their keys and values
    receive those together. `position` is a span, an index, several, "all" or a mask: where senders are
    corrupted. What arrives at heads is recorded with as many senders in a forward as fit into `rows` rows.
    """
    tower = choose_stack(model.stacks, stack, model.name)
    _check(model, clean, corrupted, operator)
    received = check_receivers(tower, receivers)
    chosen = check_senders(tower, senders, received)
    at = places(clean, position).to(model.device)
    run = _Runs(
        model, tower, clean, corrupted, metric, at, received, operator == "ioi", freeze_mlps
    )
    if not received:
        _check_read(run, position)
    patched = run.patched(chosen, rows)
    return PathEffects(tuple(chosen), run.plain[0].cpu(), run.plain[1].cpu(), patched.cpu())


class _Runs:
    """The clean and the corrupted run, and changed runs in which one sender's path is patched."""

    def __init__(
        self,
        model: "Model",
        stack: Stack,
        clean: Prompt,
        corrupted: Prompt,
        metric: Any,
        at: Tensor,
        receivers: list[Receiver],
        everywhere: bool,
        freeze_mlps: bool,
    ):
        self.model, self.stack, self.prompt, self.metric = model, stack, clean, metric
        self.receivers, self.freeze_mlps = receivers, freeze_mlps
        self.at = at  # [row, position]: where senders are corrupted
        self.held = torch.ones_like(at) if everywhere else at  # where heads are the clean run's
        self.attending = [at for at, layer in stack.layers.items() if layer.attention is not None]
        self.fed = [at for at, layer in stack.layers.items() if layer.mlp is not None]
        sites = ["z", "resid_post", *(["mlp_out"] if self.fed else [])]
        with torch.no_grad():
            self.clean = model.trace(clean, *sites, stack=stack.name)
            self.corrupted = model.trace(corrupted, *sites, stack=stack.name)
        _check_shapes(self.clean, at)
        self.replay = Replay(model, clean, stack.name)
        runs = ((self.clean, clean), (self.corrupted, corrupted))
        self.plain = [read(metric, run.logits, prompt) for run, prompt in runs]

    def patched(self, senders: Sequence[Node], rows: int) -> Tensor:
        """The metric with the path of each sender patched, [sender, row]."""
        if not self.receivers:
            # The final residual, put into a clean run, gives the logits of the run it came from.
            cells = [[*self._sending(one), *self._end()] for one in senders]
        else:
            size = max(1, rows // len(self.prompt))
            parts = [senders[start : start + size] for start in range(0, len(senders), size)]
            cells = [cell for part in parts for cell in self._receiving(part)]
        return self.replay.values(cells, self.metric).T

    def _sending(self, sender: Node) -> list[Change]:
        """From the sender on, heads as in the clean run, and the sender's own value corrupted."""
        held_at, sent_at = _where(self.held), _where(self.at)
        own = {"head": "z", "mlp": "mlp_out"}[sender.kind]
        changes = []
        for site, layers in (("z", self.attending), ("mlp_out", self.fed)):
            for layer in layers:
                sends = (site, layer) == (own, sender.layer)
                held = site == "z" or self.freeze_mlps
                if layer < sender.layer or not (held or sends):
                    continue
                value = self._clean(site, layer)
                if sends:
                    value = self._corrupt(site, sender)
                rows, places = held_at if held else sent_at
                changes.append(
                    Change(site, layer, rows, places, value[rows, places], None, self.stack.name)
                )
        return changes

    def _clean(self, site: str, layer: int) -> Tensor:
        return self.clean[site, layer, self.stack.name]

    def _corrupt(self, site: str, sender: Node) -> Tensor:
        """The clean value of the sender's layer, with the sender's own from the corrupted run."""
        value, other = self._clean(site, sender.layer).clone(), self.corrupted
        own = (slice(None), slice(None), sender.head) if sender.kind == "head" else (...,)
        new = other[site, sender.layer, self.stack.name][own]
        value[own] = torch.where(self.at[..., None], new, value[own])
        return value

    def _end(self) -> list[Change]:
        """The clean end of the stream at positions that receive nothing; a readout does not look there."""
        rows, places = _where(~self.held)
        if isinstance(self.metric, Readout) or not len(rows):
            return []
        last = max(self.stack.layers)
        end = self._clean("resid_post", last)[rows, places]
        return [Change("resid_post", last, rows, places, end, None, self.stack.name)]

    def _receiving(self, senders: Sequence[Node]) -> list[list[Change]]:
        """For each sender, what arrives at the receivers: one forward, a copy of the rows for each."""
        arrived: dict[tuple[str, int], Tensor] = {}
        batch, times = len(self.prompt), len(senders)

        def keep(value: Tensor, at: At) -> None:
            arrived[at.site, at.layer] = value.view(times, batch, *value.shape[1:])

        prompt = repeated(self.model, self.prompt, times)
        hooks = [*self._copies(senders)]
        for (part, layer), chosen in self._heads().items():
            hooks.append(Hook(part, keep, [layer], self.stack.name, chosen))
        with torch.no_grad(), first_rows(self.model, 1):
            self.model.logits(prompt, hooks=hooks)
        return [self._arrived(arrived, copy) for copy in range(times)]

    def _arrived(self, arrived: dict[tuple[str, int], Tensor], copy: int) -> list[Change]:
        """What one copy's sender made of the receivers, put into the clean run."""
        rows, places = _where(self.held)
        changes = []
        for (part, layer), chosen in self._heads().items():
            value = arrived[part, layer][copy][rows, places]
            heads = torch.tensor(chosen)
            changes.append(Change(part, layer, rows, places, value, heads, self.stack.name))
        return changes

    def _copies(self, senders: Sequence[Node]) -> Iterator[Hook]:
        """The changes of each sender, on its own copy of the rows."""
        batch = len(self.prompt)
        together: dict[tuple[str, int], list[Change]] = {}
        for copy, sender in enumerate(senders):
            for change in self._sending(sender):
                moved = replace(change, rows=change.rows + copy * batch)
                together.setdefault((change.site, change.layer), []).append(moved)
        for (site, layer), changes in sorted(together.items()):
            yield Hook(site, _each(changes), [layer], self.stack.name)

    def _heads(self) -> dict[tuple[str, int], list[int]]:
        """The receivers' heads (KV heads of keys and values) by part and layer."""
        found: dict[tuple[str, int], set[int]] = {}
        for layer, head, part in self.receivers:
            shared = 1 if part == "q" else self.stack.heads // self.stack.kv_heads
            found.setdefault((part, layer), set()).add(head // shared)
        return {key: sorted(heads) for key, heads in sorted(found.items())}


def _where(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and positions where it is True."""
    rows, places = mask.cpu().nonzero(as_tuple=True)
    return rows, places


def _each(changes: list[Change]) -> Callable[[Tensor, At], Tensor]:
    def put(value: Tensor, at: At) -> Tensor:
        for change in changes:
            value = change.put(value, at)
        return value

    return put


def _check(model: "Model", clean: Prompt, corrupted: Prompt, operator: str) -> None:
    if operator not in OPERATORS:
        raise LookupError(unknown("operator", operator, list(OPERATORS)))
    if clean.mask.shape != corrupted.mask.shape:
        raise ValueError(
            f"the clean prompt has {len(clean)} rows of {clean.length} positions, the corrupted one "
            f"{len(corrupted)} of {corrupted.length}; paths need pairs of equal length."
        )
    check_prompts(model, clean, corrupted)


def _check_read(run: _Runs, position: Any) -> None:
    """The logits receive what is at the positions; read elsewhere, every effect would be 0."""
    if not isinstance(run.metric, Readout):
        return
    rows = torch.arange(len(run.at), device=run.at.device)
    if not bool(run.at[rows, run.metric.places(run.prompt, run.clean.logits)].all()):
        raise ValueError(
            f"the logits are read at {run.metric.at!r}, and position={position!r} does not include that: no "
            "direct path leads there. Name heads as receivers, or include the position that is read."
        )


def _check_shapes(clean: Any, at: Tensor) -> None:
    if clean.logits.ndim != 3:
        raise ValueError("paths are patched in models that give logits at every position.")
    shape = clean["z", clean.layers("z")[0]].shape[:2]
    if shape != at.shape:
        raise ValueError(
            f"the stack has {tuple(shape)} rows and positions, and the prompt {tuple(at.shape)}; paths are "
            "patched in the stack that reads the prompt."
        )
