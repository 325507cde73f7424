"""Shipped models open by name, without a network, from a checkout and from a wheel; faults too."""

import socket
import tomllib
from pathlib import Path

import pytest
import torch

import interp
from interp import shipped
from interp.faults import FAULTS, Fault

ROOT = Path(__file__).parents[1]


@pytest.fixture
def calls(monkeypatch):
    """What tried to reach the network, with nothing that tells libraries to stay off it."""
    tried = []

    def refuse(*given, **named):
        tried.append(given)
        raise OSError("no network here")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tried


def double(model):
    model.hf.classifier.weight *= 2


@pytest.fixture
def fault(monkeypatch):
    made = Fault("loud", "demo-vit", ("none",), "Logits are twice.", double, ("digits", {}))
    len(FAULTS)  # its folder is read first
    monkeypatch.setitem(FAULTS._entries, "loud", made)
    return made


def said(model):
    with torch.no_grad():
        return model.logits(interp.Task.load("digits", count=4).encode(model))


def test_it_opens_and_runs_with_no_network(calls):
    model = interp.load("demo-vit")
    assert type(model.hf).__name__ == "ViTForImageClassification" and model.kind == "vision"
    assert said(model).shape == (4, 10)
    assert [model.config.id2label[digit] for digit in range(10)] == list("0123456789")
    assert not calls


def test_every_folder_is_found_by_its_name():
    models = ROOT / "data" / "models"
    assert "demo-vit" in shipped.names()
    for name in shipped.names():
        assert shipped.find(name) == models / name
        assert shipped.find(models / name) is None  # a path means the folder, as any other
    assert (models / "demo-vit" / "model.safetensors").stat().st_size < 1.5e6


def test_an_unknown_name_is_not_looked_for_elsewhere(calls):
    with pytest.raises(LookupError, match="no shipped model 'demo-vi'. Did you mean 'demo-vit'"):
        interp.load("demo-vi")
    assert not calls


def test_a_folder_here_goes_first(tmp_path, monkeypatch, fault):
    monkeypatch.chdir(tmp_path)
    own = interp.families.FAMILIES["vit"].model()
    Path("demo-vit").mkdir()
    assert interp.load("demo-vit").config.num_hidden_layers == 4  # an empty folder is no model
    own.save_pretrained("demo-vit")
    for name in ("demo-vit", "./demo-vit", Path("demo-vit")):
        opened = interp.load(name)
        assert opened.config.hidden_size == own.config.hidden_size
    with pytest.raises(ValueError, match="a folder 'demo-vit' here goes before the shipped model"):
        interp.load("demo-vit", fault="loud")
    monkeypatch.chdir(shipped.folder())
    assert shipped.find("demo-vit") is not None


def test_installed_from_a_wheel(tmp_path, monkeypatch):
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    wheel = built["targets"]["wheel"]
    placed = {"data/models": "interp/shipped_models", "data/runs": "interp/shipped_runs"}
    assert wheel["sources"] == placed and set(placed) <= set(wheel["only-include"])
    for name, place in placed.items():
        (tmp_path / Path(place).name).symlink_to(ROOT / name)
    monkeypatch.setattr(shipped, "HERE", tmp_path)
    assert shipped.find("demo-vit") == tmp_path / "shipped_models" / "demo-vit"
    assert shipped.runs() == tmp_path / "shipped_runs"
    assert interp.load("demo-vit").kind == "vision"


def test_a_fault_changes_one_opened_model_alone(fault):
    before = (shipped.folder() / "demo-vit" / "model.safetensors").read_bytes()
    whole = interp.load("demo-vit")
    broken = interp.load("demo-vit", fault="loud")
    bias = whole.hf.classifier.bias
    assert torch.allclose(said(broken) - bias, (said(whole) - bias) * 2, atol=1e-5)
    assert torch.equal(said(interp.load("demo-vit")), said(whole))
    assert torch.equal(said(interp.load("demo-vit", fault="loud")), said(broken))
    assert (shipped.folder() / "demo-vit" / "model.safetensors").read_bytes() == before


def test_a_fault_goes_where_it_is_made_for(fault, tmp_path, monkeypatch):
    with pytest.raises(LookupError, match="no fault 'lout'. Did you mean 'loud'"):
        interp.load("demo-vit", fault="lout")
    with pytest.raises(
        ValueError, match="'loud' is made for 'demo-vit', and '.*' is not a shipped"
    ):
        interp.load(tmp_path, fault="loud")
    monkeypatch.setitem(
        FAULTS._entries, "loud", Fault("loud", "demo-lm", (), "", double, ("digits", {}))
    )
    message = r"made for 'demo-lm', not for 'demo-vit': interp.load\('demo-lm', fault='loud'\)"
    with pytest.raises(ValueError, match=message):
        interp.load("demo-vit", fault="loud")
