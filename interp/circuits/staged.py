"""Path patching in stages, from the logits back: what feeds what was found before.

The stages of Merullo et al. 2024 (arXiv 2310.08744), as their text tells them: heads with a path to the
logits (movers), to the queries of those (inhibition heads, content gatherers), to the values and keys of
those (induction and duplicate-token heads), and to the keys of those (previous-token heads). In the
circuit are, at each stage, the 2 % of all heads with the largest effects either way.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from interp.asking import choose_stack
from interp.circuits.graph import Node
from interp.circuits.paths import PathEffects, path_effects
from interp.mapping import over
from interp.pairs import Pair, pairs
from interp.statistics import NORMAL

if TYPE_CHECKING:
    from interp.model import Model

LEAST = 0.01  # the least share of the way from clean to corrupted that is an effect


@dataclass(frozen=True)
class Stage:
    """Which inputs (`parts`: letters of q, k, v) of the heads of stage `of` receive; neither: the logits.

    `position` is where senders are corrupted, and where receivers change.
    """

    name: str
    of: str = ""
    parts: str = ""
    position: Any = "last"


STAGES = (
    Stage("logits"),
    Stage("queries", of="logits", parts="q"),
    Stage("values and keys", of="queries", parts="vk", position="all"),
    Stage("keys", of="values and keys", parts="k", position="all"),
)


@dataclass(frozen=True, eq=False)
class StageEffects:
    """What each head does by way of one stage's receivers; `heads` are those it adds to the circuit."""

    stage: Stage
    receivers: tuple[tuple[int, int, str], ...]  # none: the logits
    effects: PathEffects | None  # None: nothing was there to receive
    heads: tuple[Node, ...]
    why: str = ""  # it has none
    least: float = LEAST

    def rows(self) -> list[tuple[Node, float, float]]:
        """Each sender with its support (above 0: corrupting the path hurts) and its standard error."""
        if self.effects is None:
            return []
        share, error = self.effects.share.tolist(), self.effects.share_error.tolist()
        return list(zip(self.effects.senders, share, error, strict=True))

    def largest(self, count: int) -> tuple[Node, ...]:
        """The `count` largest of those that are told from chance."""
        rows = [row for row in self.rows() if abs(row[1]) >= self.least]
        sure = [row for row in rows if abs(row[1]) > NORMAL * row[2]]
        return tuple(row[0] for row in sorted(sure, key=lambda row: -abs(row[1])))[:count]


def task_effects(
    model: "Model",
    task: Any,
    receivers: Any = "logits",
    operator: str = "circuit_reuse",
    position: Any = "last",
    freeze_mlps: bool = False,
    metric: str = "logit_diff",
    first: bool = False,
    stack: str | None = None,
    batch: int = 16,
    who: str = "path patching",
) -> PathEffects:
    """`path_effects` of every head over all pairs of a task, rows in the order of the task."""

    def of_pair(pair: Pair) -> PathEffects:
        judge = pair.metric(model, metric, first)
        return path_effects(
            model, pair.clean, pair.corrupted, judge, None, receivers, operator, position,
            freeze_mlps, stack, rows=4 * batch,
        )  # fmt: skip

    given = list(pairs(model, task, who, batch))
    found = over(model, given, of_pair, who)
    return PathEffects.joined([(one.numbers, own) for one, own in zip(given, found, strict=True)])


def in_stages(
    model: "Model",
    task: Any,
    stages: Sequence[Stage] = STAGES,
    share: float = 0.02,
    count: int | None = None,
    least: float = LEAST,
    stack: str | None = None,
    **settings: Any,
) -> list[StageEffects]:
    """Each stage's effects, and the heads that it adds: `share` of all heads, at least one; or `count`.

    Heads whose effect is less than `least`, or whose 95 % interval over records holds 0, are left out.
    Where a stage has no heads, those that it would have fed receive in its place. `settings` go to
    `task_effects` (operator, metric, freeze_mlps, batch, ...).
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: of all heads, above 0 and at most 1.")
    tower = choose_stack(model.stacks, stack, model.name)
    attending = [at for at, one in tower.layers.items() if one.attention is not None]
    count = count or max(1, round(share * len(attending) * tower.heads))
    found: dict[str, StageEffects] = {}
    for stage in stages:
        receivers, why = _receivers(stage, found)
        if why:
            found[stage.name] = StageEffects(stage, (), None, (), why)
            continue
        effects = task_effects(
            model, task, receivers or "logits", position=stage.position, stack=stack, **settings
        )
        whole = StageEffects(stage, receivers, effects, (), least=least)
        heads = whole.largest(count)
        why = "" if heads else f"no head has an effect of {least:.0%} that is told from chance."
        found[stage.name] = replace(whole, heads=heads, why=why)
    return list(found.values())


def _receivers(
    stage: Stage, found: dict[str, StageEffects]
) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """The inputs that receive, or why there are none."""
    if not stage.of:
        return (), ""
    if stage.of not in found:
        raise LookupError(f"stage {stage.name!r} feeds {stage.of!r}, which no earlier stage is.")
    before = found[stage.of]
    while not before.heads and before.stage.of:
        before = found[before.stage.of]
    heads = [one for one in before.heads if one.layer > 0]
    if not heads:
        return (), f"no head of a layer after the first was found before ({before.stage.name})."
    return tuple((one.layer, one.head, part) for one in heads for part in stage.parts), ""
