"""What heads have to do with a task's answers: looking there, copying, writing them out, seeing them."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from analyses.heads.asked import Asked, Means
from interp.batches import Batch, as_task
from interp.metrics import METRICS
from interp.prompt import Prompt, Said
from interp.registry import unknown
from interp.responses import SPAN, respond
from interp.scoring import answer_ids
from interp.sites import At, Hook
from interp.spelling import places
from interp.task import Record
from interp.weights import name_copy

if TYPE_CHECKING:
    from interp.model import Model

HAYSTACK = 200  # tokens below which a text hides nothing
RECALL = 0.5  # how much of the needle an answer must say before it counts (Wu et al. 2024)


def answers(asked: Asked) -> None:
    """Attention from the last position to the right answer, and whether heads copy such tokens."""
    looks, copies = Means(), Means()
    why = "no record has a right answer whose first token stands in its prompt."
    for part in asked.batches():
        right, names, unread = _answer_places(asked.model, part)
        for problem in unread:
            asked.leave_out("answer of a record", problem)
            why = problem
        some = right.any(-1)
        if not bool(some.any()):
            continue
        part.prompt.spans["answer"] = right
        share = {"answer": METRICS["visual_share"](span="answer")}
        looks.add({"answer": asked.keep(part.prompt, share)["answer"][some.cpu(), ..., -1]})
        if asked.looks_at_weights and not {"ov", "unembed"} & set(asked.weights.refused):
            shares = name_copy(asked.model, asked.weights, part.prompt, names)
            each = int(names.sum())
            copies.add({"name_copy": shares[0].expand(each, -1, -1)})
            copies.add({"negative_copy": shares[1].expand(each, -1, -1)})
    asked.columns |= looks.means() | copies.means()
    if not looks.parts:
        asked.leave_out("answer (and with it movers)", why)
    elif not copies.parts and asked.looks_at_weights:
        asked.by_weights(
            "name_copy (and with it movers)", lambda found: found.need("ov", "unembed") or {}
        )


def _answer_places(model: "Model", part: Batch) -> tuple[Tensor, Tensor, list[str]]:
    """Where a right answer's first token stands, [batch, position]; any answer's, in those rows; and why
    records' answers could not be read."""
    prompt, unread = part.prompt, []
    right, names = torch.zeros_like(prompt.mask), torch.zeros_like(prompt.mask)
    assert prompt.ids is not None
    for row, record in enumerate(part.records):
        if not record.answers:
            continue
        try:
            good = answer_ids(model, prompt, row, record.answers)
            known = good + answer_ids(model, prompt, row, record.wrong)
        except ValueError as problem:
            unread.append(str(problem))
            continue
        right[row] = torch.isin(prompt.ids[row], torch.tensor(good).to(prompt.ids))
        names[row] = torch.isin(prompt.ids[row], torch.tensor(known).to(prompt.ids))
    right[:, -1] = names[:, -1] = False
    return right, names & right.any(-1, keepdim=True), unread


def images(asked: Asked) -> None:
    """Attention to the image at the last position, and how far its absence moves each head there."""
    means = Means()
    for part in asked.batches():
        prompt = part.prompt
        if "image" not in prompt.names or prompt.ids is None:
            asked.leave_out("image (and vhd)", "the prompts hold no image tokens.")
            return
        share = {"image": METRICS["visual_share"]()}
        means.add({"image": asked.keep(prompt, share)["image"][..., -1]})
        means.add(_moved(asked, prompt))
        part_of = float(prompt.where("image").float().mean())
        means.add({"share": torch.full((len(prompt),), part_of)})
    columns = means.means()
    even = columns.pop("share")
    asked.notes.append(
        f"{float(even):.0%} of the tokens are the image's: of an even head, `image` is that. `seeing` is how "
        "far above it a head is, as a share of what is left; 0 below it."
    )
    above = (columns["image"] - even).clamp_min(0)
    columns["seeing"] = above / (1 - even).clamp_min(1e-6)
    asked.columns |= columns


def _moved(asked: Asked, prompt: Prompt) -> dict[str, Tensor]:
    """Vision-aware head divergence, and the same without heads that a missing image upsets."""
    whole, blind = _last_z(asked, prompt), _blind_z(asked, prompt)
    moved, size = (whole - blind).norm(dim=-1), blind.norm(dim=-1).square()
    upset = _stands_out(moved) & _stands_out(size)
    return {"vhd": moved, "vhd_kept": moved * ~upset}


def _stands_out(values: Tensor) -> Tensor:
    return values > values.mean(-1, keepdim=True) + values.std(-1, keepdim=True)


def _blind_z(asked: Asked, prompt: Prompt) -> Tensor:
    """z of the same text without its image tokens, and without pixels."""
    assert prompt.ids is not None
    words = ~prompt.where("image")
    counts = words.sum(-1).tolist()
    rows = [prompt.ids[row][kept] for row, kept in enumerate(words)]
    groups = [torch.stack(rows)] if len(set(counts)) == 1 else [row[None] for row in rows]
    blind = [Prompt.from_inputs(asked.model, {"input_ids": ids}) for ids in groups]
    return torch.cat([_last_z(asked, each) for each in blind])


def _last_z(asked: Asked, prompt: Prompt) -> Tensor:
    """z at the last position: [example, layer, head, d_head]."""
    found: dict[int, Tensor] = {}

    def read(value: Tensor, at: At) -> None:
        found[at.layer] = value[:, -1].detach().float().cpu()

    with torch.no_grad():
        asked.model.logits(prompt, hooks=Hook("z", read, asked.layers, asked.stack.name))
    return torch.stack([found[layer] for layer in asked.layers], 1)


def retrieval(asked: Asked, needle: str | None, tokens: int) -> None:
    """How often a head looks at the token of the needle that is just being written."""
    model = asked.model
    if not (asked.stack.causal and model.hf.can_generate() and model.tokenizer is not None):
        asked.leave_out("retrieval", f"{model.name} does not write answers in words.")
        return
    if isinstance(asked.task, Prompt):
        asked.leave_out("retrieval", "a Prompt has no records that say what is to be found.")
        return
    task = as_task(asked.task, "heads")
    known = [(record, found) for record in task if (found := _needle(record, needle)) is not None]
    if not known:
        asked.leave_out(
            "retrieval", "no prompt holds its answer, so there is nothing to find again."
        )
        return
    said = {id(record): found for record, found in known}
    means, counted, longest = Means(), 0, 0
    for part in asked.batches(replace(task, records=tuple(record for record, _ in known))):
        prompt = part.prompt
        longest = max(longest, prompt.length)
        own = prompt.said or [[] for _ in part.records]
        prompt.said = [
            [*old, said[id(record)]] for old, record in zip(own, part.records, strict=True)
        ]
        whole = _first_line(respond(model, prompt, max_new_tokens=tokens))
        told = _told(whole, [said[id(record)].text for record in part.records])
        counted += int(told.sum())
        found = asked.keep(whole, {"retrieval": METRICS["retrieval"]()})["retrieval"]
        means.add({"retrieval": found[told]})
    asked.columns |= means.means()
    asked.notes.append(
        f"Retrieval is over the {counted} of {len(known)} answers that say what was to be found"
        + ("." if counted else ", so there is no score.")
    )
    if counted and longest < HAYSTACK:
        asked.notes.append(
            f"Texts of {longest} tokens are no haystack: a head that looks at all names is credited too."
        )


def _needle(record: Record, name: str | None) -> Said | None:
    """What is to be found: the named span, or the answer in the shortest span or place that holds it."""
    if name is not None:
        if name not in record.spans:
            raise LookupError(unknown("span", name, list(record.spans)))
        start, end = record.spans[name]
        return _said(record.prompt, start, end)
    spans = sorted(record.spans.values(), key=lambda span: span[1] - span[0])
    for answer in (each.strip() for each in record.answers):
        for start, end in [*spans, (0, len(record.prompt))]:
            at = record.prompt.find(answer, start, end) if answer else -1
            if at >= 0:
                return _said(record.prompt, at, at + len(answer))
    return None


def _said(prompt: str, start: int, end: int) -> Said:
    part = prompt[start:end]
    return Said(("needle",), part, places(prompt, part).index(start))


def _first_line(whole: Prompt) -> Prompt:
    """The response ends at its first line break."""
    written = whole.where(SPAN)
    for row, tokens in enumerate(whole.tokens):
        breaks = [place for place in written[row].nonzero()[:, 0].tolist() if "\n" in tokens[place]]
        if breaks:
            written[row, breaks[0] :] = False
    whole.spans[SPAN] = written
    return whole


def _told(whole: Prompt, needles: list[str]) -> Tensor:
    """Whether each response says more than half of its needle's words (ROUGE-1 recall)."""
    told = []
    for row, needle in enumerate(needles):
        places_of = whole.where(SPAN)[row].nonzero()[:, 0].tolist()
        words = _words("".join(whole.tokens[row][place] for place in places_of))
        wanted = _words(needle)
        told.append(sum(word in words for word in wanted) > RECALL * len(wanted))
    return torch.tensor(told)


def _words(text: str) -> list[str]:
    spaced = "".join(letter if letter.isalnum() else " " for letter in text.lower())
    return spaced.split()
