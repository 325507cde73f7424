"""IRI: what middle layers say at the last token is said again in later ones (arXiv 2511.05923)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from interp.edits import inject
from interp.interventions import INTERVENTIONS
from interp.making import weights_digest
from interp.prompt import Prompt
from interp.result import Result
from interp.sites import At, Hook
from interp.steering.found import Found, taken
from interp.steering.intervention import Intervention, Settings
from interp.steering.needs import (
    check_at_least,
    check_flag,
    image_span,
    layers_of,
    share,
    writing_stack,
)
from interp.steering.spans import first_of, from_last, over_rows

if TYPE_CHECKING:
    from interp.model import Model
    from interp.structure import Stack

SITES = ("attn_out", "mlp_out")
FROM, TO, OF = 14, 15, 32  # where sources and targets begin without rates, in a model of 32 layers


@dataclass(frozen=True)
class IRI(Intervention):
    """Attention and MLP outputs of middle layers at the last token, added to those of later layers.

    Intermediate representation injection, AAAI 2026. In the rows that write the answer, for attention
    and MLP apart: out_l += strength * (sum over sources k < l of rate_k out_k), brought back to the norm
    of out_l (`normalise=False`: not). out_k is as the source layer made it, before any injection into it.

    `rates` say how much of the answer restoring each layer recovers: `rates(model, fcct_result)`, the
    file of such a finding, or {"attn_out": {layer: rate}, "mlp_out": {...}}. `sources` and `targets` are
    the layers of the largest rates, that many of each, or layers by number. Without rates all count 1,
    and sources are layers 14 to 16 of 32, targets 15 to 24, at the same depth of another model (the
    paper lost 0.8 points by that). Strengths of attention and MLP in the paper: LLaVA-1.5 0.26 and 0.16,
    Qwen-VL-Chat 0.20 and 0.10, LLaVA-NeXT 0.15 and 0.08. There is no released code.
    """

    rates: Any = None
    attn_strength: float = 0.26
    mlp_strength: float = 0.16
    sources: int | Sequence[int] = 3
    targets: int | Sequence[int] = 10
    normalise: bool = True

    inert: ClassVar[Settings] = Settings(attn_strength=0.0, mlp_strength=0.0)
    strong: ClassVar[Settings] = Settings(attn_strength=4.0, mlp_strength=4.0)
    of: ClassVar[str] = "image"
    paper: ClassVar[str] = "arXiv 2511.05923, AAAI 2026"

    def __post_init__(self) -> None:
        check_at_least("IRI", "attn_strength", self.attn_strength, 0)
        check_at_least("IRI", "mlp_strength", self.mlp_strength, 0)
        check_flag("IRI", "normalise", self.normalise)
        for name in ("sources", "targets"):
            value = getattr(self, name)
            if isinstance(value, (str, bool, float)) or (isinstance(value, int) and value < 1):
                raise ValueError(
                    f"IRI({name}={value!r}): how many layers, from 1, or their numbers as a list."
                )

    def plan(self, model: "Model", prompt: Prompt) -> tuple[Prompt, list[Hook]]:
        image_span(model, prompt, "IRI")
        stack = writing_stack(model, "IRI")
        given = taken(model, self.rates, "rates", "IRI")
        hooks = [
            self._carrying(stack, site, strength, _read(given, stack, site), prompt)
            for site, strength in zip(SITES, (self.attn_strength, self.mlp_strength), strict=True)
            if strength
        ]
        return prompt, hooks

    def _carrying(
        self, stack: "Stack", site: str, strength: float, rates: dict[int, float], prompt: Prompt
    ) -> Hook:
        sources, targets = self._layers(stack, site, rates)
        rows = from_last(prompt)
        since = first_of(rows) or 0

        def carried(value: Tensor, at: At) -> Tensor | None:
            start = at.run.start or 0
            top = max(0, since + start - at.first)
            if top >= value.shape[1]:
                return None
            own, said = value[:, top:], None
            if at.layer in targets:
                added = at.memo[site].to(own)  # another device, where layers lie on several
                said = inject(own, added, strength) if self.normalise else own + strength * added
                if at.first < start + prompt.length:
                    own_rows = over_rows(rows, value, at)[:, top:, None].to(own.device)
                    said = torch.where(own_rows, said, own)
            if at.layer in sources:
                rated = own * rates.get(at.layer, 1.0)
                # The lowest source comes first in every forward, so that sums are of one step.
                begun = at.layer != sources[0]
                at.memo[site] = at.memo[site].to(rated) + rated if begun else rated
            return said if said is None or not top else torch.cat([value[:, :top], said], 1)

        return Hook(site, carried, sorted({*sources, *targets}), stack.name)

    def _layers(
        self, stack: "Stack", site: str, rates: dict[int, float]
    ) -> tuple[list[int], list[int]]:
        """Sources below the last target, and targets above the first source."""
        sources = _chosen(stack, site, self.sources, rates, FROM)
        targets = _chosen(stack, site, self.targets, rates, TO)
        if not rates and isinstance(self.sources, int) and stack.size < OF:
            # In a shallow model both depths may be one layer: the next below the top, and that above.
            every = layers_of(stack, None, range(stack.size), site)
            sources = [layer for layer in sources if layer < every[-1]] or every[:-1][-1:]
            if isinstance(self.targets, int) and max(targets, default=0) <= min(sources, default=0):
                targets = [layer for layer in every if layer > min(sources, default=0)][:1]
        if unrated := [layer for layer in sources if rates and layer not in rates]:
            raise ValueError(f"IRI: sources {unrated} have no rate at {site}; give one to each.")
        if not sources or not targets or min(sources) >= max(targets):
            raise ValueError(
                f"IRI has no target above a source at {site}: sources {sources}, targets {targets}. Name "
                "them: IRI(sources=[...], targets=[...])."
            )
        return (
            [layer for layer in sources if layer < max(targets)],
            [layer for layer in targets if layer > min(sources)],
        )


def _chosen(
    stack: "Stack", site: str, asked: Any, rates: dict[int, float], begin: int
) -> list[int]:
    if not isinstance(asked, int):
        return layers_of(stack, asked, (), site)
    if not rates:
        return layers_of(stack, None, share(stack, begin, begin + asked - 1, OF), site)
    return sorted(sorted(rates, key=lambda layer: (-rates[layer], layer))[:asked])


def _read(given: Any, stack: "Stack", site: str) -> dict[int, float]:
    """Rates of one site by layer; empty where none are given at all."""
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not set(given) <= set(SITES):
        raise ValueError(
            'IRI\'s rates are {"attn_out": {layer: rate}, "mlp_out": {layer: rate}}, a finding or its '
            f"file, not {given!r}."
        )
    if not isinstance(given.get(site), Mapping) or not given[site]:
        setting = f"{site.split('_')[0]}_strength"
        raise ValueError(f"IRI's rates hold none for {site}: give them, or IRI({setting}=0).")
    found: dict[int, float] = {}
    for key, rate in given[site].items():  # JSON makes strings of numbers that are keys
        number = int(key) if isinstance(key, str) and key.lstrip("-").isdigit() else key
        (layer,) = layers_of(stack, [number], (), site)
        wrong = isinstance(rate, bool) or not isinstance(rate, (int, float))
        if wrong or not math.isfinite(rate):
            raise ValueError(f"IRI: the rate of layer {layer} at {site} is {rate!r}, no number.")
        found[layer] = float(rate)
    return found


def rates(model: "Model", result: Result) -> Found:
    """Recovery rates of the last token by layer, from what the analysis `fcct` found on this model.

    rates(model, ANALYSES["fcct"](model, task)).save("rates.json"); IRI(rates="rates.json")
    """
    if not isinstance(result, Result) or result.analysis != "fcct":
        raise TypeError(f'rates are read off a result of ANALYSES["fcct"], not {result!r}.')
    own = weights_digest(model.plain)
    if result.made.get("weights") != own:
        raise ValueError(
            f"this fcct was made on {result.made.get('model')} ({result.made.get('weights')}), and this is "
            f"{model.name} ({own}): make it again on this one."
        )
    table: Any = result.table
    last = table[(table["group"] == "last token") & table["rate"].notna()]
    parts = {site: last[last["component"] == site] for site in SITES}
    value = {
        site: dict(zip(part["layer"].astype(int), part["rate"].astype(float), strict=True))
        for site, part in parts.items()
        if len(part)
    }
    if not value:
        raise ValueError(
            "this fcct restored neither attn_out nor mlp_out at the last token: leave components= out."
        )
    return Found.on(model, "rates", value, task=result.made.get("task"), by="fcct")


INTERVENTIONS.add("IRI", IRI)
