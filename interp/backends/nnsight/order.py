"""What is asked of one forward on a server: the hooks that travel, and what must come back for the others."""

from collections.abc import Collection, Sequence

from torch import Tensor

from interp.backends.nnsight.local import stops_of
from interp.backends.nnsight.luggage import Carried, Luggage, Told
from interp.backends.nnsight.model import NnsightModel
from interp.backends.nnsight.walking import Stop
from interp.live import RUN, Place, Placed, Run, Session, hooks_at
from interp.measured import measure
from interp.prompt import Prompt
from interp.sites import SITES, At, head_axis


class Order:
    """`stops` and `luggage` go, `unpack` takes what comes back. `readers` only record, and stay."""

    def __init__(
        self, model: NnsightModel, sessions: Sequence[Session], readers: Collection[Placed]
    ):
        self.sessions = sessions
        self.stay = set(map(id, readers))
        self.metrics = [one for session in sessions for one in session.metrics]
        self.keep: set[tuple[int, str]] = set()
        self.places: list[Place] = []
        planned = {} if (run := RUN.get()) is None else run.planned
        self.hooks: list[Placed] = [  # in the order in which they see a value
            placed
            for session in sessions
            for placed in [*planned.get(id(session), []), *session.hooks]
            if placed.hook.site in SITES
        ]
        self.kept_back: dict[int, str] = {}  # hooks that cannot travel, and why
        self.stops = [
            self._numbered(stop)
            for stop in stops_of(model.stacks, model.places, model.envoys, self._asks)
        ]

    def _asks(self, place: Place, site: str) -> bool:
        return bool(hooks_at(place, site, self.sessions)) or self._measured(place, site)

    def _measured(self, place: Place, site: str) -> bool:
        return site == "pattern" and any(
            one.stack == place.stack and place.layer in one.layers for one in self.metrics
        )

    def _number(self, place: Place) -> int:
        if place not in self.places:
            self.places.append(place)
        return self.places.index(place)

    def _numbered(self, stop: Stop) -> Stop:
        """The stop with numbers for its places, which belong to interp."""
        for place, site in [*stop.entering, *stop.leaving]:
            if self._measured(place, site):
                self.keep.add((self._number(place), site))
        pairs = [
            [(self._number(place), site) for place, site in listed]
            for listed in (stop.entering, stop.leaving)
        ]
        return Stop(stop.kind, stop.envoy, self._number(stop.place), *pairs)

    def luggage(self, prompt: Prompt, remote: bool | str) -> Luggage:
        """What is sent. A hook that cannot travel stays, and is called when its value has come back."""
        from nnsight.intervention.serialization import dumps, loads

        hooks = [
            Carried(number, placed, head_axis(placed.hook.site), id(placed) in self.stay)
            for number, placed in enumerate(self.hooks)
        ]
        for hook in hooks:
            try:
                dumps(hook)
            except Exception as problem:
                self.kept_back[hook.number] = str(problem)
                hook.fn = None
        sent = {hook.group for hook in hooks if hook.fn is not None}
        for number in self.kept_back:
            if self.hooks[number].group in sent:  # they share a memo
                raise self._refused(number)
        table = [(place.stack, place.layer, place.causal) for place in self.places]
        luggage = Luggage(hooks, self.keep, table, _told(prompt))
        # nnsight's own rehearsal packs and unpacks, and then runs what was packed: here it is what came out.
        return loads(dumps(luggage)) if remote == "local" else luggage

    def _refused(self, number: int) -> ValueError:
        hook = self.hooks[number].hook
        return ValueError(
            f"{hook.name} at {hook.site} cannot be sent to a server ({self.kept_back[number]}): give a "
            "function that holds nothing but tensors, numbers and functions, or leave remote= out."
        )

    def _see(self, number: int, value: Tensor, at: At) -> None:
        """A hook that could not travel may look at what came back, and nothing else."""
        try:
            changed = self.hooks[number].hook.fn(value, at) is not None
        except Exception as problem:
            raise self._refused(number) from problem
        if changed:
            raise self._refused(number)

    def unpack(self, kept: list[tuple], run: Run) -> None:
        """What came back, in the order of the run, for the hooks and metrics that stayed here."""
        for what, number, *rest in kept:
            placed = None if number is None else self.hooks[number]
            if placed is not None:
                placed.ran = True
            if what == "ran":
                continue
            place, site, first, first_key, value = self.places[rest[0]], *rest[1:]
            if placed is None:
                measure(self.metrics, value, place, run.prompt)
                continue
            memo = run.memos.setdefault(placed.group, {})
            at = At(site, place.stack, place.layer, first, first_key, True, memo, run)
            if number in self.kept_back:
                self._see(number, value, at)
                continue
            if placed.hook.fn(value, at) is None:
                continue
            raise RuntimeError(
                f"{placed.hook.name} at {at.site} of layer {at.layer} left its value as it was on the "
                "server, and changes it here, where that comes too late: what a hook does must not depend "
                "on what it did before."
            )


def _told(prompt: Prompt) -> Told:
    """What hooks may ask of the prompt: the spans that have names, of single images too."""
    spans = {name: prompt.where(name).cpu() for name in prompt.names}
    for image in range(max(map(len, prompt.images), default=0)):
        try:
            spans[f"image {image}"] = prompt.where("image", image).cpu()
        except LookupError:
            continue  # it has no tokens among these positions
    return Told(spans, None if prompt.ids is None else prompt.ids.cpu(), prompt.mask.cpu())
