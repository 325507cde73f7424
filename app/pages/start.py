"""Start: a model and a prompt or image, what the model answers, and what can be looked at."""

import streamlit as st

from app.explorer import beside, shelf, subject
from app.explorer.said import as_text, kept_up, problem
from app.pages import PAGES, Page, menu, ordered

TOKENS = 16  # of an answer


def draw() -> None:
    st.markdown(
        "See where a transformer looks, what each head does for an answer, and what changes when attention "
        "is steered. Choose a model and a prompt here, or open a saved result."
    )
    with kept_up():
        one = subject.pick()
        _answered(one)
    _pages()
    _broken()
    with st.expander("What this model offers", icon=":material/checklist:"), kept_up():
        _points(one)


def _answered(one: subject.Subject) -> None:
    """The model's answer, as text."""
    answer, says = _answer(one)
    with st.container(border=True, key="answer"):
        st.caption(says)
        st.text(answer)
    beside.code(*one.code(), *_lines(one))


def _lines(one: subject.Subject) -> list[str]:
    if one.model().kind == "vision":
        return ["model.logits(task.encode(model)).softmax(-1)"]
    return [
        f"model.decode(model.generate(task.encode(model), max_new_tokens={TOKENS}, do_sample=False))"
    ]


@st.cache_resource(max_entries=256, show_spinner="asking the model")
def _answer(one: subject.Subject) -> tuple[str, str]:
    model = one.model()
    prompt = one.prompt_of(model)
    if model.kind == "vision":
        shares = model.logits(prompt)[0].softmax(-1)
        best = int(shares.argmax())
        return str(
            model.config.id2label[best]
        ), f"{one.model_name} sees (probability {float(shares[best]):.3f})"
    if not hasattr(model.hf, "generate") or not model.hf.can_generate():
        return "(this model does not write)", one.model_name
    written = model.generate(prompt, max_new_tokens=TOKENS, do_sample=False)
    first = float(model.logits(prompt)[0, -1].softmax(-1).max())
    says = f"{one.model_name} answers (its first token has probability {first:.3g})"
    return model.decode(written, prompt)[0].strip(), says


def _pages() -> None:
    """A way to every page, with how many saved results it shows."""
    from collections import Counter

    counted = Counter(run.analysis for run in shelf.runs() if not run.broken)
    columns = st.columns(4)
    shown = [name for name in ordered() if name not in ("start", "runs")]
    for number, name in enumerate(shown):
        page = PAGES[name]
        saved = sum(counted[analysis] for analysis in page.analyses)
        with columns[number % len(columns)].container(border=True):
            st.page_link(menu()[name], label=f"**{page.title}**", icon=page.icon)
            st.caption(f"{saved} saved")


def _broken() -> None:
    broken = [run for run in shelf.runs() if run.broken]
    for run in broken[:5]:
        problem(f"The run {run.name} cannot be opened: {run.broken}")


def _points(one: subject.Subject) -> None:
    """Which sites of which stacks can be read and changed: proved by a probe."""
    if st.button("Try every site", key="points"):
        with st.spinner("reading and changing every site", show_time=True):
            st.dataframe(_probed(one.model_name, one.fault), hide_index=True)
    else:
        st.caption(
            as_text(
                "Each site of each stack and layer is read and changed once, to see that it works."
            )
        )


@st.cache_resource(max_entries=16, show_spinner=False)
def _probed(name: str, fault: str | None) -> object:
    from app.explorer import loaded

    return loaded.model(name, fault).points()


PAGES.add("start", Page("Start", ":material/home:", draw))
