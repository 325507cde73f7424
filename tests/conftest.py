"""What the whole suite shares: no network, one thread a process, a tokenizer made of words."""

import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

torch.set_num_threads(1)


def pytest_terminal_summary(terminalreporter):
    """What tests report in numbers; and loudly, what could not be tested here."""
    from browser import CHROMIUM

    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")
    if CHROMIUM is None:
        terminalreporter.write_sep(
            "!", "NO CHROMIUM: the explorer was not tested in a browser", red=True
        )
        terminalreporter.write_line("apt-get install chromium, and run the tests again.")


@pytest.fixture
def explorer_folder(tmp_path, monkeypatch):
    """A folder that the explorer was started with, beside the shipped runs."""
    from app.explorer import opened, shelf

    given = tmp_path / "mine"
    given.mkdir()
    monkeypatch.setattr(sys, "argv", ["script.py", str(given)])
    for kept in (opened.opened.cache_clear, shelf._found.clear):
        kept()
    yield given
    for kept in (opened.opened.cache_clear, shelf._found.clear):
        kept()


@pytest.fixture
def open_boxes(monkeypatch):
    """The explorer's closed boxes, whose content travels once they are open, all opened."""
    from contextlib import contextmanager

    from app.explorer import beside

    @contextmanager
    def opened(label, icon, key):
        import streamlit as st

        with st.expander(label, expanded=True):
            yield True

    monkeypatch.setattr(beside, "opened_box", opened)


@pytest.fixture(scope="session")
def word_tokenizer():
    """Word i is `wi`, for models with 128 words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(128)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0", pad_token="w0")
