"""What interventions do to the shipped models: each with settings chosen on validation, told on test.

A model under a planted fault is held against the same model without it. Controls spend the same
strength elsewhere; they are made of what was chosen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import interp
from analyses import ANALYSES
from docs import study_controls as control
from interp import Result, Task
from interp.interventions import (
    ACT,
    CARVE,
    IRI,
    PAI,
    PAINT,
    PASTA,
    VAF,
    VAR,
    VCD,
    VHR,
    AdaptVis,
    AutoPASTA,
    SpotLight,
)
from interp.steering.search import find_heads

BEHIND = [1, 2, 3]  # the layers in which the faults of demo-vlm lie
EVIDENCE = "Context: {context} Q: {question} Evidence:"  # as demo-lm learned to be asked
SIZES = (1, 2, 4, 6)  # heads that PASTA is given
Choices = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Study:
    """One model and one task, on one or more splits of it.

    `choices` (model, validation task) gives settings by name, `controls` what to put beside what was
    chosen of them.
    """

    model: str
    task: str
    choices: Callable[[Any, Task], Choices]
    controls: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    about: str
    fault: str | None = None
    tests: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"test": {}})
    validation: Mapping[str, Any] = field(default_factory=dict)
    count: int = 400
    chosen_on: int = 300
    yes_bias: bool = False
    measure: str = "accuracy"
    scoring: Mapping[str, Any] = field(default_factory=dict)

    def run(self, count: int | None = None, chosen_on: int | None = None) -> Result:
        """Choose on validation, then tell on test what was chosen, beside its controls."""
        plain = interp.load(self.model)
        model = plain if self.fault is None else interp.load(self.model, fault=self.fault)
        validation = Task.load(
            self.task, count=chosen_on or self.chosen_on, split="validation", **self.validation
        )
        tests = {
            name: Task.load(self.task, count=count or self.count, split="test", **settings)
            for name, settings in self.tests.items()
        }
        choices = self.choices(model, validation)
        best = {name: self._best(model, validation, own) for name, own in choices.items()}
        controls: Any = dict(self.controls(best))
        if self.yes_bias:
            controls = ["yes bias", *(_named(*one) for one in controls.items())]
        return ANALYSES["compare"](
            model, tests, interventions=best, controls=controls, validation=validation,
            whole=None if self.fault is None else plain, measure=self.measure, scoring=self.scoring,
        )  # fmt: skip

    def _best(self, model: Any, validation: Task, own: Sequence[Any]) -> Any:
        """The first of the best: by accuracy, of equals by the probability of the right answers."""

        def worth(item: Any) -> tuple[float, float]:
            scored = interp.score(model, validation, using=item)
            return float(scored["right"].mean()), float(scored["probability"].mean())

        return own[0] if len(own) == 1 else max(own, key=worth)


def _named(name: str, item: Any) -> Any:
    """Functions are called by their names; interventions by their settings."""
    if not hasattr(item, "plan"):
        item.__name__ = name
    return item


def _fixed(choices: Choices) -> Callable[[Any, Task], Choices]:
    return lambda model, validation: choices


def _heads(model: Any, validation: Task) -> list[list[tuple[int, int]]]:
    """The best heads of PASTA, one at a time on validation: as many as `SIZES` say."""
    method = PASTA(spare=())
    found = find_heads(model, validation, method, top=max(SIZES), progress=False)
    ranked = [(layer, head) for layer, head in found.value]
    return [ranked[:size] for size in SIZES]


def _highlighting(model: Any, validation: Task) -> Choices:
    sets = _heads(model, validation)
    return {
        "PASTA": [PASTA(heads=heads) for heads in sets],
        "AutoPASTA": [AutoPASTA(ask=EVIDENCE, heads=heads) for heads in sets],
        "SpotLight": [SpotLight(target=target) for target in (0.1, 0.2, 0.3, 0.5)],
    }


def _elsewhere(best: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "PASTA, another sentence": control.another_sentence(best["PASTA"]),
        "PASTA, the whole context": PASTA(highlight="context", heads=best["PASTA"].heads),
        "PASTA, random heads": control.heads_at_random(best["PASTA"]),
    }


def _damped(best: Mapping[str, Any]) -> Mapping[str, Any]:
    alpha = best["VHR"].alpha
    found: dict[str, Any] = {
        f"VHR, random heads {seed}": control.random_half(alpha, BEHIND, seed) for seed in (1, 2, 3)
    }
    return found | {"VHR, the other heads": control.other_heads(best["VHR"])}


def _parked(best: Mapping[str, Any]) -> Mapping[str, Any]:
    var = best["VAR"]
    return {"VAR, random tokens": control.random_tokens(var.kept, var.layers)}


def _stopped(best: Mapping[str, Any]) -> Mapping[str, Any]:
    act = best["ACT"]
    return {"ACT, random tokens": control.random_tokens(act.beta, act.layers, count=1)}


def _pressed(best: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "PAI, on words": control.louder_words(best["PAI"].alpha, best["PAI"].layers),
        "VAF, on words": control.scaled_words(best["VAF"].boost, best["VAF"].layers),
    }


def _injected(best: Mapping[str, Any]) -> Mapping[str, Any]:
    iri = best["IRI"]
    strengths = {"attn_strength": iri.attn_strength, "mlp_strength": iri.mlp_strength}
    return {"IRI, from layer 0": IRI(sources=[0], targets=iri.targets, **strengths)}


def _cropped(best: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"CARVE, a random crop": control.random_crop(best["CARVE"])}


PRESSED = {
    "PAI": [PAI(alpha=alpha, layers=BEHIND) for alpha in (0.2, 0.5, 0.8)],
    "VAF": [
        VAF(boost=boost, damp=damp, layers=BEHIND)
        for boost in (1.15, 1.5, 2.0, 3.0) for damp in (0.95, 0.5)
    ],
}  # fmt: skip
INJECTED = [
    IRI(sources=[1], targets=targets, attn_strength=attn, mlp_strength=mlp)
    for targets in ([2], [2, 3])
    for attn, mlp in ((0.26, 0.16), (1.0, 0.0), (2.0, 0.0), (4.0, 0.0), (4.0, 2.0))
]
FULL = {"small": True, "radius": (5.0, 6.8)}  # six objects, all of the usual size
CROPPED = [
    CARVE(keep=keep, layers=layers, regions=1, steps="first", tokens=1, floor=1.0, black=black)
    for keep in (0.15, 0.2, 0.25)
    for layers in ([2], [1, 2])
    for black in (True, False)
]
SEEING = {
    "VAR": [VAR(), VAR(layers=BEHIND), VAR(layers=BEHIND, tau=2.0, keep=0.2)],
    "VHR": [VHR(alpha=alpha) for alpha in (1.25, 1.5, 2.0)],
    "PAI": [PAI(alpha=alpha) for alpha in (0.2, 0.5)] + [PAI(alpha=0.2, layers=BEHIND)],
    "VAF": [VAF(), VAF(layers=BEHIND), VAF(boost=1.5, damp=0.8, layers=BEHIND)],
    "IRI": [IRI(), IRI(attn_strength=0.1, mlp_strength=0.05), IRI(sources=[1], targets=[2, 3])],
    "PAINT": [PAINT(), PAINT(alpha=0.5, beta=0.3, layers=BEHIND)],
    "AdaptVis": [AdaptVis(), AdaptVis(threshold=0.8)],
    "ACT": [ACT(), ACT(layers=BEHIND), ACT(threshold=0.1, layers=BEHIND)],
    "VCD": [
        VCD(),
        VCD(strength=0.5),
        VCD(noise="none"),
        *(VCD(noise="blank", strength=strength) for strength in (0.5, 1.0, 2.0)),
    ],
}

STUDIES: dict[str, Study] = {
    "parked-on-sinks": Study(
        "demo-vlm", "colour",
        _fixed({"VAR": [
            VAR(keep=keep, rho=rho, mass=mass, layers=BEHIND)
            for keep in (0.4, 0.1) for rho, mass in ((0.5, 0.2), (0.2, 0.05), (0.0, 0.0))
        ]}),
        _parked, "Attention parked on the first token and the first patch.", fault="parked-on-sinks",
    ),
    "parked-on-stops": Study(
        "demo-lm", "ioi",
        _fixed({"ACT": [
            ACT(beta=beta, alpha=alpha, layers=BEHIND) for beta in (0.4, 0.1) for alpha in (7.0, 5.0, 3.0)
        ]}),
        _stopped, "Attention parked on full stops.", fault="parked-on-stops",
    ),
    "damped-visual-heads": Study(
        "demo-vlm", "count",
        _fixed({"VHR": [VHR(alpha=alpha) for alpha in (1.5, 2.0, 2.5, 3.0)]}),
        _damped, "Heads that the image moves give out a third of what they should.",
        fault="damped-visual-heads",
    ),
    "image-outshouted": Study(
        "demo-vlm", "colour", _fixed(PRESSED), _pressed,
        "Words draw most of the attention that the image should have.", fault="image-outshouted",
    ),
    "image-suppressed": Study(
        "demo-vlm", "colour", _fixed(PRESSED), _pressed,
        "Scores of the image are pressed down by four nats.", fault="image-suppressed",
    ),
    "late-layers-blind": Study(
        "demo-vlm", "colour", _fixed({"IRI": INJECTED}), _injected,
        "The later half of the layers does not look at the image.", fault="late-layers-blind",
    ),
    "late-layers-blind, counting": Study(
        "demo-vlm", "count", _fixed({"IRI": INJECTED}), _injected,
        "The same fault, where all objects have to be seen.", fault="late-layers-blind",
    ),
    "scattered-looks": Study(
        "demo-vlm", "colour", _fixed({"CARVE": CROPPED}), _cropped,
        "Looks are spread over the image, so that other objects of a full scene speak up.",
        fault="scattered-looks", tests={"full scenes": FULL}, validation=FULL, count=300, chosen_on=150,
    ),
    "cluttered-scenes": Study(
        "demo-vlm", "colour",
        _fixed({"CARVE": [CARVE(), *CROPPED]}), _cropped,
        "The object that is asked about is tiny, and stands among many others.",
        tests={"tiny": {"small": True}}, validation={"small": True}, count=300, chosen_on=150,
    ),
    "drowned-at-the-end": Study(
        "demo-lm", "open_book", _highlighting, _elsewhere,
        "The last layer alone spreads its attention: the model still finds the key sentence.",
        fault="drowned-at-the-end", tests={"8 sentences": {"kind": "where", "sentences": 8}},
        validation={"kind": "where", "sentences": 8}, chosen_on=150,
    ),
    "shouted-down": Study(
        "demo-lm", "open_book", _highlighting, _elsewhere,
        "Later layers spread their attention, so that distractors drown the key sentence.",
        fault="shouted-down", tests={"8 sentences": {"kind": "where", "sentences": 8}},
        validation={"kind": "where", "sentences": 8}, chosen_on=150,
    ),
    "long contexts": Study(
        "demo-lm", "open_book", _highlighting, _elsewhere,
        "12 and 14 sentences, where the model has learned 2 to 8.",
        tests={
            "where, 12": {"kind": "where", "sentences": 12},
            "who, 12": {"kind": "who", "sentences": 12},
            "where, 14": {"kind": "where", "sentences": 14},
        },
        validation={"kind": "where", "sentences": 12}, chosen_on=150,
    ),
    "two statements": Study(
        "demo-lm", "open_book", _highlighting, _elsewhere,
        "Two sentences differ about what is asked; one is marked as the key.",
        tests={"two statements": {"conflict": "statements"}},
        validation={"conflict": "statements"}, chosen_on=150,
    ),
    "against memory": Study(
        "demo-lm", "open_book", _highlighting, _elsewhere,
        "The context says what is not the fact that the model learned.",
        tests={"against memory": {"conflict": "memory"}},
        validation={"conflict": "memory"}, chosen_on=150,
    ),
    "existence": Study(
        "demo-vlm", "existence", _fixed(SEEING), lambda best: {},
        "The plain model; settings chosen on adversarial questions.",
        tests={name: {"negatives": name} for name in ("random", "popular", "adversarial")},
        validation={"negatives": "adversarial"}, yes_bias=True, count=600,
    ),
}  # fmt: skip
