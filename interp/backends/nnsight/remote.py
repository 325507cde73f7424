"""An nnsight model on a server (NDIF): one forward is sent with its hooks, and what was asked for comes back.

Hooks that change something run on the server. What they write into lists or `at.memo` of this process
stays there, so a hook that changed nothing is called here too, with what it saw there: one that reads
works as anywhere else.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch._guards import detect_fake_mode

from interp.backends.nnsight.luggage import tensors_of
from interp.backends.nnsight.model import NnsightModel
from interp.backends.nnsight.order import Order
from interp.backends.nnsight.walking import walk
from interp.forward import single_pass
from interp.live import LIVE, RUN, Placed, Run
from interp.processors import open_processor
from interp.prompt import Prompt
from interp.speaking import said

if TYPE_CHECKING:
    import pandas

# Of the run that is asked for in this context: hooks that only record, and stay here.
_READERS: ContextVar[tuple[Placed, ...]] = ContextVar("interp_readers", default=())


def open_remote(
    name: str | Path, processor: Any, remote: bool | str, **settings: Any
) -> "RemoteModel":
    """A model that a server holds: here are its config, its processor and modules without weights."""
    import nnsight

    from interp.shipped import find

    if settings.pop("fault", None) is not None:
        raise ValueError("a fault damages weights, and these are on a server: leave remote= out.")
    for option in ("device", "device_map"):
        if settings.pop(option, None) is not None:
            raise ValueError(f"{option}= is the server's to choose; leave it out with remote=.")
    if not settings.pop("trust_remote_code", False):
        settings["trust_remote_code"] = False
    place = str(find(name) or name)
    hub = {key: settings[key] for key in ("revision", "trust_remote_code") if key in settings}
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(place, **hub)
    processor = processor if processor is not None else _processor(place, config, hub)
    if Path(place).is_dir():  # of a hub id nnsight asks the hub
        settings.setdefault("task", _task(config))
    settings |= {_kind(processor): processor} if processor is not None else {}
    theirs: Any = nnsight.TransformersModel(place, dispatch=remote == "local", **settings)
    theirs._module.eval()  # modules made from a config are in training mode
    return RemoteModel(theirs, processor, remote)


def _processor(name: str, config: Any, hub: dict[str, Any]) -> Any:
    """The processor or tokenizer of a checkpoint; None where there is none."""
    from transformers import AutoTokenizer

    for opener in (
        lambda: open_processor(name, config, **hub),
        lambda: AutoTokenizer.from_pretrained(name, **hub),
    ):
        try:
            return opener()
        except (OSError, ValueError, ImportError, KeyError, AttributeError):
            continue
    return None


def _kind(processor: Any) -> str:
    """What nnsight calls it."""
    from transformers import ProcessorMixin

    if isinstance(processor, ProcessorMixin):
        return "processor"
    return "tokenizer" if hasattr(processor, "convert_ids_to_tokens") else "image_processor"


def _task(config: Any) -> str:
    """The pipeline of a checkpoint, which is a part of its name on a server."""
    return "image-text-to-text" if hasattr(config, "vision_config") else "text-generation"


class RemoteModel(NnsightModel):
    """`trace`, `logits`, hooks and `points()` on a model that a server holds; no gradients, no `generate`."""

    def __init__(self, nnsight_model: Any, processor: Any, remote: bool | str):
        super().__init__(nnsight_model, processor)
        self.remote = remote
        if remote != "local":
            self.hf.register_forward_pre_hook(_no_weights)

    @property
    def device(self) -> torch.device:
        """Where prompts are made; the weights lie on the server."""
        return torch.device("cpu")

    def generate(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: a server is sent one forward."""
        raise ValueError(
            "generate is not offered on a server: interp sends one forward at a time. "
            "model.nn.generate(..., remote=True) writes there without hooks; opened without remote=, a "
            "model writes here with them."
        )

    def using(self, *_: Any) -> NoReturn:
        """Refused: there are no weights here for plain code to run on."""
        raise ValueError(
            "using(...) changes what plain code on model.hf does, and its weights are on a server: give "
            "hooks to trace or logits instead."
        )

    def points(self, prompt: Any = None) -> "pandas.DataFrame":
        """As elsewhere, with fewer requests: a change is tried in the first layer that shows the site."""
        from interp.backends.nnsight.trying import tried

        return tried(self, prompt)

    def _taps(self, wanted: Any) -> Any:
        return ()

    @contextmanager
    def _asked(
        self,
        prompt: Prompt,
        using: Any,
        hooks: Any,
        readers: Sequence[Placed] = (),
        metrics: Sequence[Any] = (),
    ) -> Iterator[Run]:
        token = _READERS.set(tuple(readers))
        try:
            with super()._asked(prompt, using, hooks, readers, metrics) as run:
                yield run
        finally:
            _READERS.reset(token)

    def _once(self, prompt: Prompt) -> Any:
        run = RUN.get()
        assert run is not None
        run.enter(0, prompt.length)
        sessions = [one for one in LIVE.get() if self.hf in one.places and not one.closed]
        for session in sessions:
            session.used = True
        order = Order(self, sessions, _READERS.get())
        with self.turns.taken():
            try:
                answer, kept = _sent(self.nn, self.remote, single_pass(self, prompt), order, prompt)
            except Exception as problem:
                if type(problem).__name__ != "RemoteError":
                    raise
                told = str(problem).strip().rpartition("\n")[2]
                raise RuntimeError(f"the server could not do it: {told}") from problem
        order.unpack(kept, run)
        return said(self.hf, run, prompt.ids, SimpleNamespace(**answer))


def _no_weights(module: torch.nn.Module, args: Any) -> None:
    """Plain code on a model without weights; shapes alone may pass (`model.nn.scan`)."""
    if detect_fake_mode() is None:
        raise ValueError(
            f"the weights of this {type(module).__name__} are on a server, so it cannot run here: trace and "
            "logits send for it. An intervention that runs the model by itself needs one opened without "
            "remote=."
        )


def _sent(
    nnsight_model: Any, remote: bool | str, given: dict[str, Any], order: Order, prompt: Prompt
) -> tuple[dict[str, Any], list[tuple]]:
    """The forward in one trace on the server: the tensors it put out, and what was kept on the way."""
    import nnsight

    nnsight.register("interp")  # what hooks use of it is sent along
    luggage, stops, save = order.luggage(prompt, remote), order.stops, nnsight.save
    answer: Any = None
    kept: Any = None
    with nnsight_model.trace(remote=remote) as tracer:
        with tracer.invoke(**given):
            answer = save(tensors_of(tracer.result))
            kept = save(luggage.kept)
        for stop in stops:
            with tracer.invoke():
                walk(tracer, stop, luggage)
    return answer, kept
