"""What a token is to the subject of its prompt: ROME's rows (arXiv 2202.05262)."""

from torch import Tensor

BEFORE = "before the subject"
FIRST, MIDDLE, LAST = "first subject token", "middle subject tokens", "last subject token"
AFTER, FURTHER, END = "first token after", "further tokens", "last token"
ROLES = (BEFORE, FIRST, MIDDLE, LAST, AFTER, FURTHER, END)


def roles(subject: Tensor) -> list[str]:
    """The role of each position of one row, from where its subject is [position].

    A subject of one token is its last. What a subject in several pieces leaves between them is
    further; a subject that ends the prompt leaves no last token.
    """
    places = subject.nonzero().flatten().tolist()
    if not places:
        raise ValueError("a row has no subject, so its tokens have no roles.")
    return [_role(place, places, len(subject)) for place in range(len(subject))]


def _role(place: int, places: list[int], length: int) -> str:
    first, last = places[0], places[-1]
    if place in places:
        return LAST if place == last else FIRST if place == first else MIDDLE
    if place < first:
        return BEFORE
    if place == length - 1:
        return END
    return AFTER if place == last + 1 else FURTHER
