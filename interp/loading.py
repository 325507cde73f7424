"""Opening a model by hub id or folder, safely, or saying what stands in the way."""

from pathlib import Path
from typing import Any

from interp import backends
from interp.faults import fault_for
from interp.model import Model
from interp.parallel import check_weights, placement, told_without_plan
from interp.processors import open_processor
from interp.shipped import find
from interp.wrapping import wrap

_AUTO = (
    "AutoModelForImageTextToText",
    "AutoModelForCausalLM",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSpeechSeq2Seq",
    "AutoModelForMaskedLM",
    "AutoModelForImageClassification",
    "AutoModel",
)
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


def load(
    name: str | Path,
    *,
    backend: str = "hf",
    processor: Any = None,
    dtype: Any = None,
    device: Any = None,
    device_map: Any = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    fault: str | None = None,
    **more: Any,
) -> Model:
    """The model of a shipped name, at a hub id or in a folder, with its processor, in eval mode.

    Weights are read from safetensors only, and code that a repository brings is not run unless
    `trust_remote_code=True`. `fault` damages a shipped model in a known way (`interp.faults`).
    `backend`: "hf", or "lens" (TransformerLens) or "nnsight", whose own settings go along.
    `device_map` spreads the layers over devices, `tp_plan="auto"` the heads over the processes that
    torchrun started. Further keywords go to `from_pretrained`. A folder here comes before a shipped name like
    "demo-lm", and that before the hub.
    """
    backends.refuse_settings(backend, more)
    if backend != "hf":
        given = {"dtype": dtype, "device": device, "device_map": device_map, "fault": fault, **more}
        given |= {"revision": revision, "trust_remote_code": trust_remote_code}
        return backends.backend(backend).open_model(name, processor=processor, **given)
    shipped = find(name)
    damage = fault_for(fault, name, shipped is not None) if fault is not None else None
    name = _checked_folder(shipped or name)
    hub = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = _config(name, hub)
    given = {"dtype": _dtype(dtype), **placement(device, device_map, more), **more}
    given = {key: value for key, value in given.items() if value is not None}
    hf = _weights(name, config, hub, given)
    if device is not None:
        hf = hf.to(device)
    model = wrap(hf.eval(), processor if processor is not None else _processor(name, config, hub))
    if damage is not None:
        check_weights(hf, f"fault={fault!r}")
        damage.damage(model)
    return model


def _checked_folder(name: str | Path) -> str:
    """A folder must hold a config and safetensors; a path that is none must at least be a hub id."""
    folder = Path(name)
    if not folder.exists():
        text = str(name)
        if isinstance(name, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1:
            raise FileNotFoundError(f"there is no folder {text!r}.")
        return text
    if not folder.is_dir():
        raise NotADirectoryError(
            f"{str(name)!r} is a file; give the folder that holds config.json."
        )
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"the folder {str(name)!r} holds no config.json, so no model.")
    if not any(folder.glob("*.safetensors")):
        pickles = [file.name for pattern in _PICKLES for file in folder.glob(pattern)]
        if pickles:
            raise ValueError(
                f"the folder {str(name)!r} holds its weights as a pickle ({pickles[0]}), which can run "
                "any code when opened. Convert it: open it once where you trust it, and call "
                "save_pretrained, which writes safetensors."
            )
        raise FileNotFoundError(
            f"the folder {str(name)!r} holds a config.json and no weights (*.safetensors)."
        )
    return str(folder)


def _config(name: str, hub: dict[str, Any]) -> Any:
    from transformers import AutoConfig, PretrainedConfig

    try:
        raw, _ = PretrainedConfig.get_config_dict(name, revision=hub["revision"])
    except OSError as problem:
        raise _unreachable(name, problem) from problem
    if raw.get("auto_map") and not hub["trust_remote_code"]:
        raise ValueError(
            f"{name!r} brings Python code of its own ({next(iter(raw['auto_map'].values()))}), which "
            "is not run. Read it, and pass trust_remote_code=True if you trust it."
        )
    return AutoConfig.from_pretrained(name, **hub)


def _weights(name: str, config: Any, hub: dict[str, Any], given: dict[str, Any]) -> Any:
    opener = _opener(config)
    try:
        return opener.from_pretrained(name, config=config, use_safetensors=True, **hub, **given)
    except OSError as problem:
        if "safetensors" in str(problem):
            raise ValueError(
                f"{name!r} has no safetensors weights, and pickled ones are not opened: "
                "they can run any code. Convert them with save_pretrained where you trust them."
            ) from problem
        raise _unreachable(name, problem) from problem
    except ValueError as problem:
        raise told_without_plan(problem, name) from problem


def _opener(config: Any) -> Any:
    """The class that the checkpoint names, else the first Auto class that knows its config."""
    import transformers

    for architecture in getattr(config, "architectures", None) or []:
        cls = getattr(transformers, architecture, None)
        if cls is not None:
            return cls
    for name in _AUTO:
        auto = getattr(transformers, name)
        if type(config) in auto._model_mapping or type(config).__name__ in getattr(
            config, "auto_map", {}
        ).get(name, ""):
            return auto
    return transformers.AutoModel


def _unreachable(name: str, problem: OSError) -> OSError:
    """A hub id that could not be had, told apart from a folder that is broken."""
    if Path(name).exists():
        return problem
    return OSError(
        f"{name!r} is no folder here, and the hub gave nothing: no network (or HF_HUB_OFFLINE is set) "
        "and not in the local cache, or no such repository. Download it once where there is a "
        "network, or give a folder."
    )


def _dtype(dtype: Any) -> Any:
    import torch

    if isinstance(dtype, str) and dtype != "auto":
        found = getattr(torch, dtype, None)
        if not isinstance(found, torch.dtype):
            raise ValueError(
                f"no dtype {dtype!r}. There are: float32, bfloat16, float16, and auto."
            )
        dtype = found
    if isinstance(dtype, torch.dtype) and not dtype.is_floating_point:
        raise ValueError(f"weights cannot be {dtype}; use float32, bfloat16 or float16.")
    return dtype


def _processor(name: str, config: Any, hub: dict[str, Any]) -> Any:
    """Processor, tokenizer or image processor, whichever is there; None where there is none."""
    import transformers

    try:
        return open_processor(name, config, **hub)
    except (OSError, ValueError, ImportError, KeyError, AttributeError):
        pass  # no processor of its own: it may still have one of its parts
    for auto in ("AutoTokenizer", "AutoImageProcessor"):
        try:
            return getattr(transformers, auto).from_pretrained(name, **hub)
        except (OSError, ValueError, ImportError, KeyError, AttributeError):
            continue
    return None
