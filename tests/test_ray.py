"""Work shared out to two local workers gives the bytes of one process, whatever happens to the workers."""

import contextlib
import copy
import os
import signal
import sys
import time

import numpy
import pytest
import torch
from typer.testing import CliRunner

import interp
from analyses import ANALYSES
from interp import mapping
from interp.mapping import on, over
from interp.mapping.team import Team
from interp.metrics import logit_diff
from interp.sites import Hook
from interp.sweep import sweep
from tests.documented import ROOT, snippets

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.xdist_group("ray"),  # one cluster for all of them
    # Ray's own: sockets and log files that its processes hold when a cluster is left.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def model():
    return interp.load("demo-lm")


@pytest.fixture(scope="module")
def cluster():
    """Room for two workers, for the whole file."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    quiet = {"log_to_driver": False, "configure_logging": False, "include_dashboard": False}
    ray.init(address="local", num_cpus=2, **quiet)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def team(cluster):
    """Two workers for the whole file; a context variable holds only within a test."""
    workers = Team("ray:2")
    yield workers
    workers.close()


@pytest.fixture
def shared(team):
    """What is done inside goes to the workers."""

    @contextlib.contextmanager
    def entered():
        token = mapping.where._TEAM.set(team)
        try:
            yield team
        finally:
            mapping.where._TEAM.reset(token)

    return entered


@pytest.fixture(scope="module")
def prompt(model):
    ids = torch.randint(5, 60, (3, 40), generator=torch.Generator().manual_seed(0))
    return model.encode(ids)


METRIC = logit_diff([[5]] * 3, [[6]] * 3)


def swept(model, prompt, **more):
    given = {"site": "resid_pre", "over": ("layer", "position"), "metric": METRIC} | more
    return sweep(model, prompt, given.pop("site"), **given)


def same(one, other):  # grids
    assert one.path == other.path and one.labels == other.labels
    assert numpy.asarray(one).tobytes() == numpy.asarray(other).tobytes()


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"path": "whole", "layers": [1, 2], "positions": [3, 4, 5, 6, 7, 8]},
        {"site": "pattern", "over": ("layer", "head")},
        {"site": "z", "over": ("layer", "head"), "take": "mean_all"},
        {"take": "noise", "window": 2, "layers": [1, 2], "positions": [3, 4, 5, 6, 7, 8]},
        {"metric": lambda logits: logits[:, -1].logsumexp(-1), "layers": [1, 2]},
    ],
)
def test_the_same_bytes_as_without(model, prompt, shared, more):
    here = swept(model, prompt, **more)
    with shared() as team:
        before = team.shared
        there = swept(model, prompt, **more)
        assert team.shared > before + 1
    same(here, there)


def test_hooks_and_interventions_travel(model, prompt, shared):
    weight = model.hf.get_output_embeddings().weight  # the model's own: it is not sent

    def change(value, at):
        return value + 0.01 * weight[: value.shape[1], : value.shape[2]]

    hook = Hook("resid_pre", change, layers=[0])
    here = swept(model, prompt, hooks=hook)
    with shared():
        there = swept(model, prompt, hooks=hook)
    same(here, there)
    assert numpy.asarray(swept(model, prompt)).tobytes() != numpy.asarray(there).tobytes()


@pytest.mark.parametrize("how", ["edited", "scaled", "hooked"])
def test_what_was_done_to_a_model_is_not_lost(prompt, shared, how):
    hurt = interp.load("demo-lm")
    if how == "edited":
        hurt.hf.get_input_embeddings().weight.data[7:40] *= 1.5
    if how == "scaled":
        for layer in hurt.stacks["text"].layers.values():
            layer.attention.scaling *= 2
    if how == "hooked":
        hurt.stacks["text"].layers[1].mlp.register_forward_hook(_halved)
    here = swept(hurt, prompt)
    with shared() as team:
        there = swept(hurt, prompt)
        assert team.opened(hurt).whole  # the live model went there
    same(here, there)
    plain = swept(interp.load("demo-lm"), prompt)
    assert numpy.asarray(plain).tobytes() != numpy.asarray(there).tobytes()


def _halved(module, args, output):
    return output / 2


def test_a_killed_worker_changes_nothing(model, prompt, shared, tmp_path):
    marks = [tmp_path / "first", tmp_path / "second"]

    def dies_twice(number):
        for mark in marks:
            if number in (3, 5) and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return number, torch.full((2,), float(number))

    here = [(number, torch.full((2,), float(number))) for number in range(9)]
    with shared() as team:
        lost = team.lost
        there = list(over(model, range(9), dies_twice, "items"))
        assert team.lost >= lost + 1
    assert [number for number, _ in there] == list(range(9))
    assert all(torch.equal(one[1], other[1]) for one, other in zip(here, there, strict=True))


def test_a_sweep_survives_the_loss_of_a_worker(model, prompt, shared, tmp_path):
    mark = tmp_path / "killed"

    def metric(logits):
        if "ray" in sys.modules and not mark.exists() and _works():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return logits[:, -1, 5] - logits[:, -1, 6]

    mark.touch()
    here = swept(model, prompt, metric=metric, layers=[1, 2])
    mark.unlink()
    with shared() as team:
        lost = team.lost
        there = swept(model, prompt, metric=metric, layers=[1, 2])
        assert team.lost == lost + 1
    same(here, there)


def _works():
    import ray

    return ray.get_runtime_context().worker.mode == ray.WORKER_MODE


def test_work_that_kills_every_worker_says_so(model, shared):
    def dies(number):
        if number == 1:
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    with shared(), pytest.raises(RuntimeError, match="part 1 of 3 ended the process of 3 workers"):
        list(over(model, range(3), dies, "items"))


def test_an_exception_comes_back_as_it_was(model, prompt, shared):
    def metric(logits):
        if float(logits.flatten()[0]) != plain:
            raise LookupError("no such token in this run")
        return logits[:, -1, 5]

    plain = float(model.logits(prompt).detach().flatten()[0])
    with shared(), pytest.raises(LookupError, match="no such token in this run") as raised:
        swept(model, prompt, metric=metric, layers=[0], path="whole")
    assert "raised on a worker" in "".join(raised.value.__notes__)


def test_the_first_in_order_is_the_one_that_is_told(model, shared):
    def fails(number):
        if number == 1:
            time.sleep(0.5)
        if number in (1, 2):
            raise KeyError(f"item {number}")
        return number

    with shared(), pytest.raises(KeyError, match="item 1"):
        list(over(model, range(4), fails, "items"))


def test_warnings_come_back(model, shared):
    def warns(number):
        import warnings

        warnings.warn(f"careful with {number}", UserWarning, stacklevel=1)
        return number

    with shared(), pytest.warns(UserWarning, match="careful with"):
        assert list(over(model, range(2), warns, "items")) == [0, 1]


def test_finished_chunks_are_kept_and_gone_on_with(model, prompt, shared, tmp_path):
    whole = swept(model, prompt, save=tmp_path / "here")
    with shared() as team:
        there = swept(model, prompt, save=tmp_path / "there")
        same(whole, there)
        kept = sorted((tmp_path / "there").glob("chunk-*"))
        assert len(kept) > 3
        for name in ("here", "there"):  # written by either, gone on with by the other
            for path in sorted((tmp_path / name).glob("chunk-*"))[1:4]:
                path.unlink()
        before = team.shared
        same(whole, swept(model, prompt, save=tmp_path / "here"))
        assert team.shared == before + 3
    same(whole, swept(model, prompt, save=tmp_path / "there"))
    for one, other in zip(sorted((tmp_path / "here").iterdir()), kept, strict=False):
        assert one.read_bytes() == (tmp_path / "there" / one.name).read_bytes(), other


@pytest.mark.parametrize(
    ("name", "count", "settings"),
    [
        ("activation_patching", 24, {"sites": ["resid_pre"], "batch": 24}),
        ("attribution", 6, {"methods": ["atp", "eap_ig_inputs"], "steps": 2, "batch": 2}),
        ("path_patching", 6, {"batch": 2}),
        ("sinks", 6, {"ablate": "all", "batch": 2}),
        ("head_importance", 6, {"batch": 2}),
        (
            "flow",
            3,
            {"count": 3, "methods": ["attention_gradient", "leave_one_out"], "resamples": 20},
        ),
        ("rhythm", 3, {"count": 3, "max_new_tokens": 20, "min_new_tokens": 20, "horizon": (2, 10)}),
    ],
)
def test_analyses_give_the_same_tables(model, shared, name, count, settings):
    from interp.runs import differences, same

    task = interp.Task.load("ioi", count=count)
    here = ANALYSES[name](model, task, **settings)
    with shared() as team:
        before = team.shared
        there = ANALYSES[name](model, task, on=team.where, **settings)
        assert team.shared > before
    found = differences(here, there)
    assert same(found), found
    assert list(found["name"]) == ["on"] and there.made["on"] == "ray:2"


def test_an_analysis_without_work_to_share_refuses(model):
    with pytest.raises(ValueError, match="attention shares no work out.*it reads one text"):
        ANALYSES["attention"](model, "The cat", on="ray")


def test_work_in_one_part_is_done_here_and_said(model):
    task = interp.Task.load("ioi", count=2)
    found = ANALYSES["sinks"](model, task, ablate="none", on="ray:2")
    assert any("found no work in several parts" in note for note in found.notes)


def test_a_block_around_it_is_refused(model, prompt):
    hook = Hook("z", lambda value, at: value * 0, layers=[1])
    with (
        model.using(hook),
        pytest.raises(ValueError, match="does not travel to the workers"),
        on("ray:2"),
    ):
        pass
    with on("ray:2"), model.using(hook), pytest.raises(ValueError, match="does not travel"):
        swept(model, prompt)
    model.logits(prompt)


@pytest.mark.parametrize("where", ["dask", "ray:0", "ray:two", "ray://", 3])
def test_unknown_places_are_refused(where):
    with pytest.raises(ValueError, match="give 'ray'"), on(where):
        pass


def test_without_ray_its_extra_is_named(model, prompt, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'interp\[ray\]'"):
        swept(model, prompt, on="ray")


def test_without_its_client_the_extra_is_named(model, prompt, monkeypatch):
    monkeypatch.setattr("interp.mapping.team.find_spec", lambda name: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ImportError, match=r"Ray's client .*pip install 'interp\[ray\]'"):
        swept(model, prompt, on="ray://127.0.0.1:10001")


def test_what_cannot_travel_says_so(model, prompt, shared):
    from threading import Lock

    lock = Lock()

    def metric(logits):
        with lock:
            return logits[:, -1, 5]

    with shared(), pytest.raises(TypeError, match="cannot be sent to a worker"):
        swept(model, prompt, metric=metric)


def test_a_copy_of_a_wrapped_model_travels(model, prompt, shared):
    other = interp.wrap(copy.deepcopy(model.hf))
    with shared():
        same(swept(other, prompt), swept(model, prompt, on="here"))


def test_a_model_of_a_folder_is_opened_from_there(model, prompt, shared):
    with shared() as team:
        swept(model, prompt)
        assert team.opened(model).folder and not team.opened(model).whole


def test_two_models_of_one_team(model, shared):
    from interp.circuits import estimated

    task = interp.Task.load("ioi", count=4)
    other = interp.load("demo-lm")
    other.hf.get_input_embeddings().weight.data *= 1.1
    here = [estimated(one, task, steps=2, batch=2) for one in (model, other)]
    with shared():
        there = [estimated(one, task, steps=2, batch=2) for one in (model, other)]
    assert [one.scores for one in here] == [one.scores for one in there]
    assert here[0].scores != here[1].scores


def test_a_line_takes_on(shared, tmp_path, monkeypatch):
    from app.command import app

    monkeypatch.chdir(tmp_path)
    line = [
        "run",
        "sinks",
        "--model",
        "demo-lm",
        "--task",
        "ioi",
        "--count",
        "4",
        "--ablate",
        "all",
    ]
    ask = CliRunner().invoke
    assert ask(app, [*line, "--out", "here"], catch_exceptions=False).exit_code == 0
    with shared() as team:
        before = team.shared
        assert ask(app, [*line, "--out", "there", "--on", "ray:2"]).exit_code == 0
        assert team.shared > before
    found = ask(app, ["runs", "compare", "here", "there"], catch_exceptions=False)
    assert found.exit_code == 0 and "where on: absent | ray:2" in found.stdout
    assert ask(app, ["run", "sinks", "--help"]).stdout.count("--on ") == 1


def test_the_page_runs(shared):
    names = {}
    with shared():
        for snippet in snippets((ROOT / "docs" / "many_machines.md").read_text(encoding="utf-8")):
            exec(snippet, names)
    assert names["result"].made["on"] == "ray:2"
    assert names["heads"].shape == (1, 4, 8)


def test_a_cluster_of_its_own_is_stopped_again(model, prompt, team):
    """Last, for it ends the cluster of the others."""
    team.close()
    assert ray.is_initialized()  # it was there before
    ray.shutdown()
    there = model.sweep(prompt, "resid_pre", metric=METRIC, on="ray:1")
    assert not ray.is_initialized()
    same(there, swept(model, prompt))
