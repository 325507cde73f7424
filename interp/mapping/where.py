"""Where this context's sweeps and batches go, and the loop that sends them there."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

from interp.live import LIVE
from interp.mapping.team import Team
from interp.progress import bar, counted

if TYPE_CHECKING:
    from interp.model import Model

Item = TypeVar("Item")
Found = TypeVar("Found")

HERE = "here"
_TEAM: ContextVar[Team | None] = ContextVar("interp_team", default=None)


@contextmanager
def on(where: str | None) -> Iterator[Team | None]:
    """Sweeps and analyses inside go to Ray: "ray", "ray:4" (with four workers), "ray://host:port".

    "ray" is the cluster that is connected or that RAY_ADDRESS names, else one started here and stopped
    at the end; "auto" is a cluster that runs already. "here" is this process, and None changes nothing.
    """
    outer = _TEAM.get()
    if where is None or (outer is not None and where in ("ray", outer.where)):
        yield outer
        return
    if where == HERE:
        token = _TEAM.set(None)
        try:
            yield None
        finally:
            _TEAM.reset(token)
        return
    team = Team(where)
    _check_nothing_live(team.where)
    token = _TEAM.set(team)
    try:
        yield team
    finally:
        _TEAM.reset(token)
        team.close()


def current(model: "Model") -> Team | None:
    """The workers that this context's work goes to; None where it is done here."""
    team = _TEAM.get()
    if team is not None:
        _check_nothing_live(team.where)
        team.check(model)
    return team


def over(
    model: "Model",
    items: Sequence[Item],
    function: Callable[[Item], Found],
    what: str,
    progress: bool | None = None,
) -> Iterator[Found]:
    """What a function makes of each item, in their order, under a bar; here or on the workers.

    Nothing else of what the function does comes back: it may read what it closes over, not fill it.
    """
    team = current(model) if len(items) > 1 else None
    if team is None:
        for item in counted(items, what, progress):
            yield function(item)
        return
    waiting: dict[int, Found] = {}
    following = 0
    with bar(len(items), what, progress) as shown:
        for number, found in team.map(model, function, list(items)):
            waiting[number] = found
            shown.update()
            while following in waiting:
                yield waiting.pop(following)
                following += 1


def _check_nothing_live(where: str) -> None:
    """A block around the call belongs to this context, and would be missing on the workers."""
    live = [name for session in LIVE.get() if not session.closed for name in session.named()]
    if live:
        raise ValueError(
            f"model.using(...) is open here ({', '.join(live)}), and a block does not travel to the workers "
            f"of on={where!r}: give what is in it to the call itself (hooks= or using=), or leave on= out."
        )
