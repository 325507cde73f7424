"""What a page asks a model about: one's own prompt and image, or a record of a task; all in the link."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.explorer import loaded, state, uploads
from app.explorer.opened import CHARACTERS, LINK, MEGABYTES, MEGAPIXELS, TOKENS, opened
from app.explorer.said import hint, kept_up
from app.suited import LIKELY, records, tasks_for

if TYPE_CHECKING:
    from interp.model import Model
    from interp.prompt import Prompt
    from interp.task import Record

OWN, EXAMPLE = "your own", "an example"
KINDS = ("text", "vlm", "vision")
FORMATS = ["png", "jpg", "jpeg", "webp", "gif", "bmp"]


@dataclass(frozen=True)
class Subject:
    """A model and one prompt for it, as values that can be hashed and written into a link."""

    model_name: str
    fault: str | None
    prompt: str
    image: str | None = None  # the digest of an upload
    task: str | None = None
    record: int = 0

    def model(self) -> "Model":
        return loaded.model(self.model_name, self.fault)

    def as_record(self) -> "Record":
        """The task's record, or one of the prompt and image without answers."""
        from interp import Record

        if self.task is not None:
            return records(self.task, self.record + 1)[self.record]
        check_text(self.prompt, self.image)
        return Record(self.prompt, image=uploads.given(self.image) if self.image else None)

    def prompt_of(self, model: "Model") -> "Prompt":
        """Encoded, and refused where it is longer than a page can show."""
        from interp import Task

        prompt = Task("one", (self.as_record(),)).encode(model)
        if prompt.length > TOKENS:
            raise ValueError(
                f"the prompt has {prompt.length} tokens, and a page shows at most {TOKENS}; shorten it, or "
                "save model.trace(prompt, keep=[...]) from a script."
            )
        return prompt

    def code(self) -> list[str]:
        """The lines of Python that open the model and make the task of this one record."""
        fault = f", fault={self.fault!r}" if self.fault else ""
        also = ", PIL.Image" if self.image and self.task is None else ""
        opening = f"import interp{also}; model = interp.load({self.model_name!r}{fault})"
        if self.task is not None:
            one = f"[{self.record}:{self.record + 1}]"
            return [
                opening,
                f"task = interp.Task.load({self.task!r}, count={self.record + 1}){one}",
            ]
        image = ', image=PIL.Image.open("your.png").convert("RGB")' if self.image else ""
        return [opening, f'task = interp.Task("mine", (interp.Record({self.prompt!r}{image}),))']


def check_text(prompt: str, image: str | None) -> None:
    if not prompt.strip() and not image:
        raise ValueError("the prompt is empty: type one above, or choose an example.")
    if len(prompt) > CHARACTERS:
        raise ValueError(
            f"the prompt has {len(prompt):,} characters; a page takes at most {CHARACTERS:,}. Shorten it, or "
            "ask from a notebook: model.trace(prompt, keep=[...]) streams."
        )


def pick(kinds: Sequence[str] = KINDS, where: Any = st) -> Subject:
    """Boxes for it, bound to the link."""
    with where.container():
        first, second, third, fourth, last = st.columns([3, 3, 2, 3, 2])
        _told_missing()
        name = state.choose("model", "Model", list(opened().models), where=first)
        kind = loaded.model(name).kind
        if kind not in kinds:
            raise ValueError(f"{name} is a {kind} model, and this page takes {' or '.join(kinds)}.")
        fault = _fault(name, second)
        examples = tasks_for(kind)
        sources = [EXAMPLE, OWN] if examples else [OWN]
        typed = OWN if {"prompt", "image"} & state.view().keys() else EXAMPLE
        source = state.choose("of", "Prompt", sources, default=typed, where=third)
        if source == EXAMPLE:
            return _example(name, fault, examples, fourth, last)
        return _own(name, fault, kind)


def _told_missing() -> None:
    name = state.view().get("model")
    if name and name not in opened().models:
        hint(f"The link names the model {name}, which is not offered here: interp explore --model.")


def _fault(name: str, where: Any) -> str | None:
    known = loaded.faults(name)
    if not known:
        return None
    fault = state.choose("fault", "Planted fault", ["none", *known], where=where)
    return None if fault == "none" else fault


def _example(name: str, fault: str | None, examples: list[str], where: Any, last: Any) -> Subject:
    likely = next((name for name in LIKELY if name in examples), examples[0])
    task = state.choose("task", "Task", examples, likely, where=where)
    record = state.number("record", "Record", 0, 999, where=last)
    shown = records(task, record + 1)[record]
    text, picture = st.columns([5, 1])
    text.text(_shortened(shown.prompt) or "(an image, no text)")
    if shown.image is not None:
        picture.image(shown.image)
    return Subject(name, fault, shown.prompt, None, task, record)


def _own(name: str, fault: str | None, kind: str) -> Subject:
    image = _upload() if kind != "text" else None
    prompt = state.text("prompt", "Prompt", "") if kind != "vision" else ""
    if len(prompt) > LINK:
        st.caption("This prompt is too long for a link; a link to this page leaves it out.")
    one = Subject(name, fault, prompt, image)
    _told_unknown(one)
    return one


def _told_unknown(one: Subject) -> None:
    """Small vocabularies know few words; the model would be asked something else than what was typed."""
    tokenizer = one.model().tokenizer
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is None or not one.prompt or len(one.prompt) > CHARACTERS:
        return
    ids = tokenizer(one.prompt, add_special_tokens=False)["input_ids"]
    if unknown in ids:
        count = ids.count(unknown)
        hint(
            f"{count} of {len(ids)} tokens are not in the vocabulary of {one.model_name}, and reach it as "
            f"{tokenizer.unk_token}; the examples use words that it knows."
        )


def _upload() -> str | None:
    """A new upload, or the image that the link names."""
    most = f"at most {MEGABYTES} MB and {MEGAPIXELS} million pixels"
    given = st.file_uploader(f"Image ({most})", type=FORMATS, key="upload")
    if given is not None and st.session_state.get("uploaded") != given.file_id:
        with kept_up():
            state.put(image=uploads.take(given.name, given.getvalue()))
            st.session_state["uploaded"] = given.file_id
    digest = state.view().get("image")
    if digest:
        with kept_up():
            st.image(uploads.given(digest), width=160)
            return digest
    return None


def _shortened(text: str, most: int = 400) -> str:
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"
