"""What each demo model was asked to reach, before any was trained: (lowest, highest) by name."""

Bounds = dict[str, tuple[float, float]]

_SENTENCES = {
    f"open book, {kind}, {n} sentences": (0.95, 1.0)
    for kind in ("where", "who")
    for n in (2, 4, 6, 8)
}
_LONGER = {
    f"open book, {kind}, {n} sentences": (0.5, 0.85) for kind in ("where", "who") for n in (10, 12)
}

WANTED: dict[str, Bounds] = {
    "demo-lm": {
        "IOI": (0.97, 1.0),
        "induction": (0.95, 1.0),
        "facts": (0.98, 1.0),
        "Colored Objects, 0 shots": (0.95, 1.0),
        "Colored Objects, 1 shots": (0.95, 1.0),
        "Colored Objects, 2 shots": (0.9, 1.0),
        **_SENTENCES,
        **_LONGER,
        "open book, 10 to 12 sentences": (0.5, 0.85),
        "two statements": (0.4, 0.8),
        "context against memory": (0.4, 0.8),
        "sentiment": (0.85, 1.0),
        "greater-than, probability difference": (0.8, 1.0),
        "evidence written, 8 sentences": (0.8, 1.0),
        "sink heads with a drained value, facts": (4, float("inf")),
        "best previous-token head": (0.7, 1.0),
        "best induction head": (0.7, 1.0),
        "tracing: best residual at the last subject token, share restored": (0.7, float("inf")),
        "tracing: best MLP window there, share restored": (0.4, float("inf")),
    },
    "demo-lm-before-induction": {"induction": (0.0, 0.1)},
    "demo-lm-after-induction": {"induction": (0.7, 1.0)},
    "demo-vlm": {
        "existence, random": (0.93, 1.0),
        "colour": (0.95, 1.0),
        "where": (0.93, 1.0),
        "count": (0.8, 1.0),
        "existence, adversarial": (0.7, 0.85),
        "existence, adversarial, lost without the image": (0.3, 1.0),
        "captions, rare scenes, chair_s": (0.2, 0.6),
        "captions, rare scenes, recall": (0.7, 1.0),
        "small objects, gained when zoomed 2.5 times": (0.15, 1.0),
        "projector, norm against words": (0.33, 3.0),
    },
    "demo-vit": {"accuracy, test": (0.97, 1.0)},
}


def verdict(model: str, name: str, value: float) -> str:
    """ "reached", "short", "over" (easier than was asked for), or nothing where nothing was asked."""
    if name not in WANTED[model]:
        return ""
    low, high = WANTED[model][name]
    if round(value, 3) < low:
        return "short"
    return "over" if round(value, 3) > high else "reached"


def standard_error(share: float, count: int) -> float:
    return (share * (1 - share) / count) ** 0.5


def agrees(measured: float, card: float, count: int) -> bool:
    """Whether a share measured again over `count` is within sampling error of what a card says."""
    return abs(measured - card) <= 3.5 * max(standard_error(card, count), 0.1 / count**0.5)
