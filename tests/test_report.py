"""The report of a run: numbers held against slow loops over what the hooks saw, and sentences."""

import math
import threading
import time
import warnings
from dataclasses import dataclass

import pytest
import torch

import interp
from interp import Hook
from interp.families import FAMILIES
from interp.interventions import PAI, VAR, VCD, VHR, Report
from interp.live import plainly
from interp.sites import LogitsHook
from interp.steering.intervention import Intervention
from tests.test_padding import pad

GREEDY = {"max_new_tokens": 3, "do_sample": False}


def opened(name, lengths=(12, 7, 9)):
    family = FAMILIES[name]
    hf = family.model()
    hf.generation_config.eos_token_id = None
    image = getattr(hf.config, "image_token_id", None)
    if image is not None:
        hf.generation_config.suppress_tokens = [image]
    model = interp.wrap(hf)
    rows = [family.inputs(hf, length=length, seed=length) for length in lengths]
    return model, interp.Prompt.from_inputs(model, pad(rows, 0))


@pytest.fixture(scope="module")
def llama():
    return opened("llama")


@pytest.fixture(scope="module")
def llava():
    return opened("llava")


@pytest.fixture(autouse=True)
def conflicts_are_meant_here():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(.|\n)*both (rewrite|change)")
        yield


class Planted(Intervention):
    """Plans what it is given, and keeps no state."""

    def __init__(self, *hooks, before=lambda model, prompt: prompt):
        object.__setattr__(self, "given", hooks)
        object.__setattr__(self, "before", before)

    def plan(self, model, prompt):
        return self.before(model, prompt), list(self.given)


class Watcher:
    """A hook's function that notes each call: what it was given, what it gave back, and where."""

    def __init__(self, change):
        self.change, self.seen = change, []

    def __call__(self, value, at):
        given = value.clone()
        after = self.change(value, at)
        self.seen.append(
            (given, given if after is None else after.clone(), at.first, at.first_key, at.layer)
        )
        return after


def real(prompt, batch, position):
    """Whether a position of a row of the batch stands for a token: new ones do."""
    row = batch % len(prompt)
    return position >= prompt.length or bool(prompt.mask[row, position])


def by_loops(site, seen, prompt, heads):
    """Rows, changed rows, heads and mean move, one row at a time."""
    rows = changed = 0
    moved, which = [], set()
    for given, after, first, first_key, _ in seen:
        start = first_key if site in ("k", "v") else first
        axes = {"scores": (0, 2, 1), "pattern": (0, 2, 1)}.get(site)
        given, after = (one.permute(*axes, 3) if axes else one for one in (given, after))
        for batch in range(given.shape[0]):
            for place in range(given.shape[1]):
                if not real(prompt, batch, start + place):
                    continue
                for head in range(given.shape[2]) if given.ndim == 4 else [None]:
                    own = (batch, place) if head is None else (batch, place, head)
                    one, two = given[own].tolist(), after[own].tolist()
                    far = distance(site, one, two)
                    rows += 1
                    if far is not None:
                        changed += 1
                        moved.append(far)
                        which |= set() if head is None else {heads[head]}
    return rows, changed, tuple(sorted(which)), sum(moved) / max(1, len(moved))


def distance(site, one, two):
    """How far a row has moved; None where it has not."""
    if site == "scores":
        two = [-1e38 if a < -1e37 else b for a, b in zip(one, two, strict=True)]
        one = [max(a, -1e38) for a in one]
    if one == two:
        return None
    if site in ("scores", "logits"):
        one, two = weights(one), weights(two)
    if site in ("scores", "pattern", "logits"):
        return sum(abs(a - b) for a, b in zip(one, two, strict=True)) / 2
    size = math.sqrt(sum(a * a for a in one))
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(one, two, strict=True))) / size


def weights(row):
    top = max(row)
    powers = [math.exp(max(-700.0, a - top)) for a in row]
    return [a / sum(powers) for a in powers]


def shifted(value, at):
    """Every third row is changed, by its absolute position; keys are pulled at unevenly."""
    axis = 2 if at.site in ("scores", "pattern") else 1
    start = at.first_key if at.site in ("k", "v") else at.first
    place = torch.arange(start, start + value.shape[axis])
    own = (place % 3 == 0).view([-1 if n == axis else 1 for n in range(value.ndim)])
    wave = torch.linspace(0.5, 1.5, value.shape[-1])
    return torch.where(own, value * wave, value)


SITES = ["scores", "pattern", "z", "q", "k", "v", "attn_out", "mlp_out", "resid_pre", "resid_post"]


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("way", ["forward", "cached", "uncached", "beams"])
def test_the_numbers_are_those_of_slow_loops(llama, site, way):
    model, prompt = llama
    heads = [1, 0] if site in ("k", "v") else [3, 1] if site in SITES[:4] else None
    watcher = Watcher(shifted)
    more = {"within": (5, None), "rows": True} if site in ("scores", "pattern") else {}
    hook = Hook(site, watcher, [1, 2], heads=heads, **more)
    report = Report(Planted(hook))
    with torch.no_grad():
        if way == "forward":
            model.logits(prompt, using=report)
        else:
            given = {"cached": {}, "uncached": {"use_cache": False}, "beams": {"num_beams": 2}}
            model.generate(prompt, using=report, **GREEDY, **given[way])
    owner = prompt
    if way == "beams":  # each prompt stands twice, side by side
        owner = interp.Prompt.from_inputs(
            model, {name: value.repeat_interleave(2, 0) for name, value in prompt.inputs.items()}
        )
    table = report.table[report.table["site"] == site].set_index("layer")
    assert list(table.index) == [1, 2] and set(table["stack"]) == {"text"}
    for layer in (1, 2):
        seen = [call for call in watcher.seen if call[-1] == layer]
        rows, changed, which, moved = by_loops(site, seen, owner, heads)
        own = table.loc[layer]
        assert (own["calls"], own["rows"], own["changed"]) == (len(seen), rows, changed)
        assert own["heads"] == which
        assert own["moved"] == pytest.approx(moved, rel=1e-4)
        assert 0 < changed < rows
    assert report.changed


def test_logits_are_counted_at_every_step(llama):
    model, prompt = llama
    seen = []

    def turned(ids, logits, at):
        after = torch.where(torch.arange(logits.shape[-1]) % 2 == 0, logits * 1.5, logits)
        seen.append((logits.clone(), after, ids.shape[1] - logits.shape[1], 0, -1))
        return after

    for run, expected in ((model.logits, 1), (model.generate, 3)):
        seen.clear()
        report = Report(Planted(LogitsHook(turned)))
        with torch.no_grad():
            run(prompt, using=report, **(GREEDY if expected == 3 else {}))
        rows, changed, _, moved = by_loops("logits", seen, prompt, None)
        own = report.table[report.table["site"] == "logits"].iloc[0]
        assert (own["calls"], own["rows"], own["changed"]) == (expected, rows, changed)
        assert own["moved"] == pytest.approx(moved, rel=1e-3) and own["heads"] == ()
        assert "rows of logits changed, " in str(report) and "of their probability moved" in str(
            report
        )


def test_what_the_seam_hides_again_is_no_change(llama):
    model, prompt = llama
    hook = Hook("scores", lambda scores, at: scores.clamp_min(-1e30), [2])
    report = Report(Planted(hook))
    model.logits(prompt, using=report)
    own = report.table.set_index("site").loc["scores"]
    assert own["changed"] == 0 and own["moved"] == 0 and own["rows"] == int(prompt.mask.sum()) * 4
    assert not report.changed
    assert str(report).startswith("Planted changed nothing: 0 of 112 rows of scores;")


def test_sentences(llama):
    model, prompt = llama
    silent, strong = (
        Planted(Hook("z", lambda z, at: None, [1])),
        Planted(Hook("z", lambda z, at: z * 2, [1, 3])),
    )
    report = Report(silent, strong, Planted(), Hook("mlp_out", lambda value, at: value * 3, [0]))
    assert str(report).splitlines() == [
        "Planted: nothing has run yet.",
        "Planted (2): nothing has run yet.",
        "Planted (3): nothing has run yet.",
        "<lambda>: nothing has run yet.",
    ]
    assert (
        not report.changed and report.table.empty and report.conflicts.empty and report.counts.empty
    )
    model.logits(prompt, using=report)
    said = [line.rpartition("; ")[0] for line in str(report).splitlines()]
    assert said == [
        "Planted changed nothing: 0 of 112 rows of z",
        "Planted (2): 224 of 224 rows of z changed, in 2 of 2 layers, by 1 of their size",
        "Planted (3) changed nothing: its plan has no hooks and leaves the prompt",
        "<lambda>: 28 of 28 rows of mlp_out changed, in 1 of 1 layers, by 2 of their size",
    ]
    assert all(line.endswith(" ms.") for line in str(report).splitlines())
    html = report._repr_html_()
    assert "&lt;lambda&gt;: 28 of 28" in html and "<table" in html
    assert repr(report) == "Report(Planted, Planted (2), Planted (3), <lambda>)"


def test_runs_add_up_until_they_are_forgotten(llama):
    model, prompt = llama
    report = Report(Planted(Hook("z", lambda z, at: z * 2, [1])))
    totals = []
    for _ in range(3):
        model.logits(prompt, using=report)
        totals.append(
            report.table.set_index("site").loc["z", ["calls", "rows", "changed"]].tolist()
        )
    assert totals == [[1, 112, 112], [2, 224, 224], [3, 336, 336]]
    assert report.table.set_index("site").loc["prompt", "rows"] == 9
    report.clear()
    assert report.table.empty and not report.changed and "nothing has run yet" in str(report)


def test_threads_share_a_report(llama):
    model, prompt = llama
    report = Report(Planted(Hook("z", shifted, [1, 2])), Planted(Hook("z", shifted, [2])))
    model.logits(prompt, using=report)
    once, met = report.table["changed"].tolist(), report.conflicts["rows"].tolist()
    workers = [
        threading.Thread(target=lambda: [model.logits(prompt, using=report) for _ in range(5)])
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert report.table["changed"].tolist() == [21 * count for count in once]
    assert report.conflicts["rows"].tolist() == [21 * count for count in met] and met


WAYS = {
    "logits": lambda model, prompt, using: model.logits(prompt, using=using),
    "list": lambda model, prompt, using: model.logits(prompt, using=[using, []]),
    "trace": lambda model, prompt, using: (
        model.trace(prompt, "pattern", keep=["received"], using=using).logits
    ),
    "generate": lambda model, prompt, using: model.generate(prompt, using=using, **GREEDY),
    "uncached": lambda model, prompt, using: model.generate(
        prompt, using=using, use_cache=False, **GREEDY
    ),
    "beams": lambda model, prompt, using: model.generate(
        prompt, using=using, num_beams=2, **GREEDY
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("methods", [(VAR, PAI), (VHR,), (VCD, VAR), (PAI, VAR, VHR, VCD)])
def test_what_the_model_says_is_the_same_to_the_bit(llava, way, methods):
    model, prompt = llava
    items = [method.strong() for method in methods]
    report = Report(*items)
    with torch.no_grad():
        expected = WAYS[way](model, prompt, items)
        given = WAYS[way](model, prompt, report)
        assert torch.equal(given, expected)
        assert torch.equal(WAYS[way](model, prompt, Report(report)), expected)
        if way == "generate":
            with model.using(report):
                inside = model.hf.generate(**prompt.inputs, **GREEDY)
            assert torch.equal(inside, expected)
    said = str(report)
    assert all(method.__name__ in said for method in methods) and "changed nothing" not in said
    assert set(report.table["intervention"]) == {method.__name__ for method in methods}


@torch.no_grad()
def test_a_sweep_takes_a_report(llava):
    model, prompt = llava
    metric = interp.metrics.logit_diff([20] * 3, [30] * 3)
    report = Report(PAI.strong())
    grids = [
        model.sweep(prompt, "z", using=using, over=("layer",), metric=metric)
        for using in (PAI.strong(), report)
    ]
    assert torch.equal(torch.as_tensor(grids[0]), torch.as_tensor(grids[1])) and report.changed


@dataclass(frozen=True)
class Scales(Intervention):
    """z of some heads at some rows, times a factor."""

    heads: tuple
    rows: tuple
    layers: tuple = (1, 2)
    site: str = "z"

    def plan(self, model, prompt):
        def scaled(value, at):
            place = torch.arange(at.first, at.first + value.shape[1])
            own = (place >= self.rows[0]) & (place < self.rows[1])
            return torch.where(own.view(-1, *[1] * (value.ndim - 2)), value * 1.1, value)

        heads = self.heads if self.site == "z" else None
        return prompt, [Hook(self.site, scaled, self.layers, heads=heads)]


@pytest.mark.parametrize("cache", [True, False])
def test_rows_that_two_have_changed_are_counted_once_each(llama, cache):
    model, prompt = llama
    report = Report(
        Scales((0, 1, 3), (2, 14)),
        Scales((3, 1), (6, 99), (2, 3)),
        Scales((2,), (0, 99)),
        Scales((), (0, 99), site="attn_out"),
    )
    model.generate(prompt, using=report, use_cache=cache, **GREEDY)
    # Behind the prompt of 12 two positions more pass; row 0 has no padding, row 1 five, row 2 three.
    both = [position for position in range(14) if 6 <= position < 14]
    rows = sum(position >= start for position in both for start in (0, 5, 3))
    table = report.conflicts
    assert table.values.tolist() == [
        ["Scales", "Scales (2)", "z", "text", 2, 1, rows],
        ["Scales", "Scales (2)", "z", "text", 2, 3, rows],
    ]
    assert (
        f"Scales and Scales (2) both changed {2 * rows} rows of z in layers [2] of the text stack."
        in str(report)
    )


def test_scores_and_pattern_are_one_attention(llama):
    model, prompt = llama
    press = Planted(
        Hook(
            "scores",
            lambda scores, at: scores * 1.5,
            [1],
            heads=[0, 2],
            within=(8, None),
            rows=True,
        )
    )
    move = Planted(
        Hook("pattern", lambda pattern, at: pattern.flip(-1), [1], heads=[2, 3], within=(10, 11))
    )
    report = Report(move, press)
    model.logits(prompt, using=report)
    assert report.conflicts.values.tolist() == [
        ["Planted", "Planted (2)", "attention", "text", 1, 2, 3]
    ]


def test_what_methods_count(llama):
    model, prompt = llama
    asked = []

    def counting(z, at):
        asked.append(at.memo.get("counting"))
        if at.memo.get("counting"):
            counts = at.memo.setdefault("counts", {}).setdefault(at.layer, {})
            counts["heads"] = counts.get("heads", 0) + torch.tensor(z.shape[2])

    def flat(z, at):
        at.memo.setdefault("counts", {}).setdefault("calls", 0)
        at.memo["counts"]["calls"] += 1

    report = Report(Planted(Hook("z", counting, [1, 2])), Planted(Hook("z", flat, [0])))
    for _ in range(2):
        model.generate(prompt, using=report, **GREEDY)
    assert report.counts.fillna(-1).values.tolist() == [
        ["Planted", 1, "heads", 24.0],
        ["Planted", 2, "heads", 24.0],
        ["Planted (2)", -1, "calls", 6.0],
    ]
    assert asked == [True] * 12
    assert "Planted changed nothing: 0 of 544 rows of z; heads 48; " in str(report)
    model.logits(prompt, using=Planted(Hook("z", counting, [1])))
    assert asked[-1] is None


def test_each_keeps_a_memo_of_its_own(llama):
    model, prompt = llama

    def notes(z, at):
        assert "mine" not in at.memo or at.memo["mine"] is notes
        at.memo["mine"] = notes

    def others(z, at):
        assert "mine" not in at.memo or at.memo["mine"] is others
        at.memo["mine"] = others

    report = Report(Planted(Hook("z", notes, [1, 2])), Planted(Hook("z", others, [1, 2])))
    model.logits(prompt, using=report)
    model.logits(prompt, using=Wraps(report))


@dataclass(frozen=True)
class Wraps(Intervention):
    """One that plans by another, as a user's own may."""

    inner: object

    def plan(self, model, prompt):
        return self.inner.plan(model, prompt)


def test_forwards_and_prompts_of_a_plan(llama):
    model, prompt = llama

    def longer(model, prompt):
        with plainly(), torch.no_grad():
            model.hf(**prompt.inputs)
            model.logits(prompt)
            model.generate(prompt, **GREEDY)
        return model.encode(torch.cat([prompt.ids, prompt.ids[:, :2]], 1))

    def again(z, at):
        with plainly(), torch.no_grad():
            model.logits(prompt)

    report = Report(Planted(before=longer), Planted(Hook("z", again, [1])))
    for run in (model.logits, model.generate):
        report.clear()
        with torch.no_grad():
            run(prompt, using=report, **(GREEDY if run == model.generate else {}))
        steps = 3 if run == model.generate else 1
        table = report.table.set_index(["intervention", "site"])
        assert table.loc[("Planted", "prompt"), ["rows", "changed", "forwards"]].tolist() == [
            3,
            3,
            5,
        ]
        assert table.loc[("Planted (2)", "prompt"), ["rows", "changed", "forwards"]].tolist() == [
            3,
            0,
            steps,
        ]
        assert str(report).startswith("Planted: 3 of 3 prompts changed; 5 forwards of its own; ")
        assert report.changed
    with model.using(report):
        report.clear()
        model.hf(**prompt.inputs)
    assert report.table["forwards"].tolist() == [5, 1, 0]


def test_a_second_run_that_goes_in_step_is_counted(llava):
    model, prompt = llava
    report = Report(VHR.strong(), VCD.strong())
    model.generate(prompt, using=report, **GREEDY)
    forwards = report.table.groupby("intervention")["forwards"].sum()
    assert forwards["VHR"] == 1 and forwards["VCD"] >= 3


def test_seconds_are_those_of_the_intervention(llama):
    model, prompt = llama

    def slow(model, prompt):
        time.sleep(0.05)
        return prompt

    def slower(z, at):
        time.sleep(0.02)

    report = Report(
        Planted(Hook("z", slower, [1]), before=slow), Planted(Hook("z", lambda z, at: z * 2))
    )
    begun = time.perf_counter()
    model.logits(prompt, using=report)
    whole = time.perf_counter() - begun
    table = report.table.set_index(["intervention", "site"])["seconds"]
    assert table["Planted", "prompt"].item() >= 0.05 and table["Planted", "z"].item() >= 0.02
    assert table["Planted (2)"].sum() < whole - 0.07


def test_changes_in_place_are_seen(llama):
    model, prompt = llama
    report = Report(Hook("z", lambda z, at: z.mul_(2), [1], heads=[-1]))
    with torch.no_grad():
        model.logits(prompt, using=report)
    own = report.table.iloc[0]
    assert own["changed"] == own["rows"] == 28 and own["heads"] == (3,)
    assert own["moved"] == pytest.approx(1.0)


def test_gradients_flow_as_they_did(llama):
    model, prompt = llama
    weight = model.hf.model.layers[0].self_attn.v_proj.weight
    slopes = [
        torch.autograd.grad(model.logits(prompt, using=using).sum(), weight)[0]
        for using in (
            Planted(Hook("pattern", shifted, [1])),
            Report(Planted(Hook("pattern", shifted, [1]))),
        )
    ]
    assert torch.equal(*slopes)


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        ((), ValueError, "watches nothing"),
        (([],), ValueError, "watches nothing"),
        ((None,), ValueError, "watches nothing"),
        ((3,), TypeError, "interventions .* not 3"),
        (("VAR",), TypeError, "interventions .* not 'VAR'"),
        ((VAR,), TypeError, r"VAR is the class; give one with settings: VAR\(\)"),
    ],
)
def test_what_it_does_not_take(items, error, message):
    with pytest.raises(error, match=message):
        Report(*items)


BAD = {
    "shape": (Hook("z", lambda z, at: z[:1], [1]), ValueError, "the shape must stay"),
    "type": (Hook("z", lambda z, at: 3, [1]), TypeError, "gave back int"),
    "head": (Hook("z", lambda z, at: z, [1], heads=[9]), IndexError, "head 9 is out of range"),
    "site": (Hook("zz", lambda z, at: z, [1]), LookupError, "no site 'zz'"),
    "never": (Hook("scores", lambda z, at: z, [1], within=(90, None)), LookupError, "never ran"),
    "touched": (Hook("z", lambda z, at: z.mul_(2) is None or None, [1]), RuntimeError, "in place"),
    "no hook": ("z", TypeError, "takes interp.Hook objects"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_refusals_pass_through_it(llama, case):
    model, prompt = llama
    hook, error, message = BAD[case]
    for using in (Planted(hook), Report(Planted(hook))):
        with torch.no_grad(), pytest.raises(error, match=message):
            model.logits(prompt, using=using)
    assert interp.live.LIVE.get() == ()


def test_methods_tell_what_they_did():
    from PIL import Image

    model = interp.load("demo-vlm")
    image = Image.new("RGB", (64, 64), (200, 30, 30))
    prompt = model.encode("What colour is the square?", images=image)
    report = Report(PAI.strong(), PAI.inert())
    model.generate(prompt, using=report, **GREEDY)
    first, second = str(report).splitlines()
    assert first.startswith("PAI: ") and " rows of scores changed, in " in first
    assert second.startswith("PAI (2) changed nothing: its plan has no hooks")
