"""What users of TransformerLens and of nnsight run for the same grids."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.sweep_work import Cell, Prompts, Sweeper, Work, decoder_layers, difference


def lens(work: Work) -> Sweeper:
    """transformer_lens.patching for patches, and a loop of run_with_hooks for ablation."""
    import pandas
    from transformer_lens import patching
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    model = work.model("eager")
    bridge = build_bridge_from_module(model, type(model).__name__, hf_config=model.config)

    def first(work: Work, prompts: Prompts) -> Any:
        if work.grid == "ablation":
            return None
        name = "hook_resid_pre" if work.grid == "resid_pre" else "hook_z"
        return bridge.run_with_cache(prompts.clean, names_filter=lambda own: own.endswith(name))[1]

    def cells(work: Work, prompts: Prompts, cache: Any, cells: Sequence[Cell]) -> Tensor:
        metric = partial(difference, prompts=prompts)
        if work.grid == "ablation":
            return torch.stack([_zeroed(bridge, prompts, cell) for cell in cells], 1)
        patch, column = patching.get_act_patch_resid_pre, "pos"
        if work.grid == "heads":
            patch, column = patching.get_act_patch_attn_head_out_all_pos, "head"
        index = pandas.DataFrame(cells, columns=["layer", column])
        settings = {"index_axis_names": None, "index_df": index, "reduce": "none"}
        return patch(bridge, prompts.corrupted, cache, metric, **settings).values.T

    return Sweeper(first, cells)


def _zeroed(bridge: Any, prompts: Prompts, cell: Cell) -> Tensor:
    def silence(z: Tensor, hook: Any) -> Tensor:
        z[:, :, cell[1]] = 0
        return z

    hooks = [(f"blocks.{cell[0]}.attn.hook_z", silence)]
    return difference(bridge.run_with_hooks(prompts.corrupted, fwd_hooks=hooks), prompts)


def nnsight(work: Work, **settings: Any) -> Sweeper:
    """One trace a layer, one invoke a position: the invokes of a trace run as one batch."""
    model = _batching(work.model("sdpa"))
    layers = decoder_layers(model, work)

    def first(work: Work, prompts: Prompts) -> list[Tensor]:
        with model.trace(prompts.clean, use_cache=False, logits_to_keep=1):
            kept = [].save()  # type: ignore[attr-defined]
            for layer in layers:
                kept.append(layer.input.clone())
        return kept

    def cells(work: Work, prompts: Prompts, kept: list[Tensor], cells: Sequence[Cell]) -> Tensor:
        found: list[Tensor] = []
        for layer in sorted({layer for layer, _ in cells}):
            clean, columns = kept[layer], [own for at, own in cells if at == layer]
            with model.trace(use_cache=False, **settings) as tracer:
                values = [].save()  # type: ignore[attr-defined]
                for column in columns:
                    with tracer.invoke(prompts.corrupted):
                        layers[layer].input[:, column] = clean[:, column]
                        values.append(difference(model.output.logits, prompts))
            found += values
        return torch.stack(found, 1)

    return Sweeper(first, cells)


def _batching(model: Any) -> Any:
    """A local module takes one invoke only, until it is told how several become one batch."""
    from nnsight import NNsight

    class Batching(NNsight):
        def _batch_size(self, *inputs: Any, **settings: Any) -> int:
            return len(inputs[0]) if inputs else 0

        def _batch(self, invokes: list, run: Any) -> tuple:
            settings = {name: value for _, own in invokes for name, value in own.items()}
            ids = [inputs[0] for inputs, _ in invokes]
            return (torch.cat(ids),) if ids else (), settings

    return Batching(model)
