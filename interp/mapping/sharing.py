"""The items of one piece of work on their way to workers and back; those of a lost worker go to others."""

import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.mapping.team import Team
    from interp.model import Model

AHEAD = 2  # items that a worker is given at once, so that it does not wait for the next
STRIKES = 3  # workers that one item may cost
PATIENCE = 180.0  # seconds to wait for a first worker


class Hand:
    """One worker: its actor, whether it has said hello, and the items that it was given, oldest first."""

    def __init__(self, actor: Any):
        self.actor, self.ready = actor, False
        self.process: int | None = None  # on its machine
        self.given: list[Any] = []  # what Ray gives for a call


class Sharing:
    """One function and its items, while they are shared out."""

    def __init__(
        self, team: "Team", model: "Model", function: Callable[[Any], Any], items: Sequence[Any]
    ):
        self.team, self.model, self.items = team, model, items
        self.ray = team.ray
        self.opened = team.opened(model)
        self.job = team.job(model, function)
        self.waiting = deque(range(len(items)))
        self.strikes = [0] * len(items)
        self.flying: dict[Any, tuple[Hand, int | None]] = {}  # None: its hello
        self.raised: tuple[int, Exception] | None = None

    def found(self) -> Iterator[tuple[int, Any]]:
        """What comes back, as it comes. The first item in order that raises is the one that is told."""
        from interp.mapping.travel import unpacked

        for hand in self.team.hands:
            hand.given.clear()  # of a piece of work that was left in the middle
            if not hand.ready:
                self._greet(hand)
        while self.waiting or any(number is not None for _, number in self.flying.values()):
            self._give()
            number, content = self._back()
            if number is None:
                continue
            what, value = unpacked(content, self.model)
            if what == "found":
                self.team.shared += 1
                for category, text in value[1]:
                    warnings.warn(text, category, stacklevel=2)
                yield number, value[0]
            elif what == "wants":
                self.opened = self.team.whole(self.model, self.opened)
                self.waiting.appendleft(number)
            else:
                self._note(number, *value)
        if self.raised is not None:
            raise self.raised[1]

    def _back(self) -> tuple[int | None, bytes]:
        """The next item that comes back, and what with; none where it was a hello, or a worker was lost."""
        call = self._done()
        hand, number = self.flying[call]
        try:
            content = self.ray.get(call)
        except self.ray.exceptions.RayTaskError as problem:
            raise RuntimeError(
                f"a worker of on={self.team.where!r} could not take the work on: {problem}"
            ) from problem
        except self.ray.exceptions.RayError as problem:
            self._lost(hand, problem)
            return None, b""
        del self.flying[call]
        if number is None:
            self._welcome(hand, content)
        else:
            hand.given.remove(call)
        return number, content

    def _give(self) -> None:
        """Next items to workers that have few, each in turn; the last ones to whoever is free first."""
        for most in range(1, AHEAD + 1):
            for hand in self.team.hands:
                spare = most == 1 or len(self.waiting) > AHEAD * len(self.team.hands)
                if hand.ready and self.waiting and spare and len(hand.given) < most:
                    self._send(hand, self.waiting.popleft())

    def _send(self, hand: Hand, number: int) -> None:
        from interp.mapping.travel import packed

        item = packed(self.items[number], self.model)
        call = hand.actor.work.remote(self.opened, self.job, item)
        hand.given.append(call)
        self.flying[call] = (hand, number)

    def _done(self) -> Any:
        """A call that has come back; where there is no worker at all for long, an error."""
        idle = not any(hand.ready for hand in self.team.hands)
        patience = PATIENCE if idle else None
        done, _ = self.ray.wait(list(self.flying), num_returns=1, timeout=patience)
        if not done:
            free = self.ray.available_resources()
            raise RuntimeError(
                f"no worker of on={self.team.where!r} has started in {PATIENCE:.0f} seconds. The cluster has "
                f"{free.get('CPU', 0):g} free CPUs and {free.get('GPU', 0):g} free GPUs; a worker takes "
                f"{self.team.threads} CPUs (torch.set_num_threads){' and a GPU' if self.team.cuda else ''}."
            )
        return done[0]

    def _greet(self, hand: Hand) -> None:
        self.flying[hand.actor.hello.remote(sys.path)] = (hand, None)

    def _welcome(self, hand: Hand, told: dict[str, Any]) -> None:
        """Other versions may compute other numbers: that is said before they do."""
        from interp.mapping.worker import versions

        other = {
            name: (theirs, own)
            for name, own in versions().items()
            if (theirs := told["versions"].get(name)) != own
        }
        if other:
            named = ", ".join(
                f"{name} {one} there and {own} here" for name, (one, own) in other.items()
            )
            raise RuntimeError(
                f"the workers of on={self.team.where!r} have other versions: {named}. Install the same, "
                "so that numbers are the same."
            )
        hand.ready, hand.process = True, told["process"]

    def _lost(self, hand: Hand, problem: Exception) -> None:
        """Its items go to others; the one that it was at may cost only so many workers."""
        own = [call for call, (whose, _) in self.flying.items() if whose is hand]
        numbers = [number for call in own if (number := self.flying.pop(call)[1]) is not None]
        self.waiting.extendleft(reversed(numbers))
        if numbers:
            self.strikes[numbers[0]] += 1
            if self.strikes[numbers[0]] >= STRIKES:
                raise RuntimeError(
                    f"part {numbers[0]} of {len(self.items)} ended the process of {STRIKES} workers, one "
                    "after the other, most often for want of memory: give a smaller budget= or batch=, or "
                    f"fewer workers. Ray says of the last: {problem}"
                ) from problem
        index = self.team.hands.index(hand)
        self.team.replace(hand, problem)
        self._greet(self.team.hands[index])

    def _note(self, number: int, problem: Exception, told: str) -> None:
        """Work before it is still finished: here, too, the first in order would have been met."""
        problem.add_note(f"It was raised on a worker of on={self.team.where!r}:\n{told}")
        if self.raised is None or number < self.raised[0]:
            self.raised = (number, problem)
        self.waiting = deque(one for one in self.waiting if one < number)
