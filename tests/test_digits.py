"""The digits task is real, split for good, and demo-vit reads what it was not trained on."""

import numpy
import pytest
import torch

import interp
from data.recipes import demo_vit
from data.recipes.report_vit import whole
from data.recipes.training import Training
from interp import Task
from interp.scoring import score
from interp.tasks.digits import LABELS, indices, scans


def test_splits_share_no_image():
    assert [len(indices(split)) for split in ("train", "validation", "test")] == [1470, 149, 178]
    found = {split: set(indices(split)) for split in ("train", "validation", "test")}
    assert len(set().union(*found.values())) == len(scans()[1]) == 1797
    pixels = {scan.tobytes() for scan in scans()[0]}
    assert len(pixels) == 1797  # so that other numbers are other images
    for split, own in found.items():
        task = Task.load("digits", count=40, split=split, seed=5)
        shown = {record.notes[key] for record in task for key in ("scan", "counterfactual_scan")}
        assert shown <= own


def test_a_record_is_the_scan_and_its_label():
    task = Task.load("digits", count=20)
    assert task.digest == Task.load("digits", count=20).digest
    assert task.digest != Task.load("digits", count=20, seed=1).digest
    for record in task:
        pixels, labels = scans()
        number, other = record.notes["scan"], record.notes["counterfactual_scan"]
        assert record.answers == (str(labels[number]),)
        assert {*record.answers, *record.wrong} == set(LABELS)
        assert record.counterfactual_answers == (str(labels[other]),) != record.answers
        assert record.image.size == (32, 32) and record.image.mode == "L"
        small = numpy.asarray(record.image).reshape(8, 4, 8, 4).mean((1, 3))
        assert numpy.corrcoef(small.flat, pixels[number].flat)[0, 1] > 0.95


def test_the_task_ends_where_its_images_do(monkeypatch):
    monkeypatch.setattr("interp.tasks._PATIENCE", 2000)
    assert len(whole("test")) == 178
    with pytest.raises(ValueError, match="digits has about 178 items .* and 179 were asked for"):
        Task.load("digits", count=179)


def test_records_travel(tmp_path):
    task = Task.load("digits", count=3)
    back = Task.load(task.save(tmp_path / "digits.jsonl"))
    assert back.records == task.records and back.digest == task.digest


def test_demo_vit_reads_digits_it_has_not_seen():
    model = interp.load("demo-vit")
    assert score(model, whole("test"))["right"].mean() >= 0.97


def test_training_shows_what_the_processor_gives():
    prompt = Task.load("digits", count=6, split="train").encode(interp.load("demo-vit"))
    numbers = [record.notes["scan"] for record in Task.load("digits", count=6, split="train")]
    ink, digits = demo_vit.images("train")
    places = [indices("train").index(number) for number in numbers]
    pixels = demo_vit.shown(ink[places])["pixel_values"]
    assert torch.allclose(pixels, prompt.inputs["pixel_values"], atol=1e-6)
    assert digits[places].tolist() == [int(scans()[1][number]) for number in numbers]


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path):
    """The whole run, and one that dies after its fifth step and is started again."""

    def training(folder, dies=None):
        torch.manual_seed(3)
        phase = demo_vit.schedule(model := demo_vit.network().train(), steps=6)
        plain = phase.losses

        def losses(step, chance):
            if step == dies:
                raise KeyboardInterrupt
            return plain(step, chance)

        phase.losses, phase.watch_every = losses, 0
        return Training(model, [phase], tmp_path / folder, seed=3, keep_every=2)

    (straight := training("straight")).run()
    with pytest.raises(KeyboardInterrupt):
        training("killed", dies=5).run()
    (resumed := training("killed")).run()
    for name, weight in straight.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
