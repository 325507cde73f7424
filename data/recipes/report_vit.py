"""What demo-vit can do on digits it has not seen, what its heads are worth, and where they look.

`python -m data.recipes.report_vit [FOLDER ...]`, a column each.
"""

import sys

import torch

import interp
from data.recipes.bounds import standard_error
from interp import Hook, Model
from interp.scoring import score
from interp.task import Task
from interp.tasks import TASKS
from interp.tasks.digits import indices, scans


def measure(model: Model) -> dict[str, float]:
    """Every number of the card, by name."""
    found: dict[str, float] = {}
    for split in ("test", "validation"):
        task = whole(split)
        table = score(model, task)
        right = float(table["right"].mean())
        found[f"accuracy, {split}"] = right
        found[f"accuracy, {split}, standard error"] = standard_error(right, len(task))
    found["images, test"] = len(whole("test"))
    test = whole("test")
    found["logit difference, test"] = float(score(model, test)["difference"].mean())
    found["accuracy, test, the other image shown"] = float(
        score(model, test, counterfactual=True)["right"].mean()
    )
    return found | looks(model, test) | silenced(model, test)


def whole(split: str) -> Task:
    """Every digit of a split."""
    return TASKS["digits"](len(indices(split)), split)


def looks(model: Model, task: Task) -> dict[str, float]:
    """How much of the class token's attention lies on ink, of each head, and on itself.

    A patch is one pixel of the scan; it counts as ink where that is more than half white.
    """
    prompt = task.encode(model)
    with torch.no_grad():
        trace = model.trace(prompt, "pattern")
    patches = scans()[0][[record.notes["scan"] for record in task]]
    ink = torch.from_numpy(patches > 127).flatten(1).float()
    found = {"share of patches with ink": float(ink.mean())}
    for layer in range(model.stacks["vision"].size):
        row = trace["pattern", layer][:, :, 0]
        on_ink = (row[:, :, 1:] * ink[:, None]).sum(-1).mean(0)
        for head, (share, itself) in enumerate(
            zip(on_ink.tolist(), row[:, :, 0].mean(0).tolist(), strict=True)
        ):
            found[f"L{layer}H{head}, attention on ink"] = share
            found[f"L{layer}H{head}, attention on the class token"] = itself
    return found


def silenced(model: Model, task: Task) -> dict[str, float]:
    """Accuracy without a head, and what is lost of the logit difference."""
    whole_difference = float(score(model, task)["difference"].mean())
    found: dict[str, float] = {}
    stack = model.stacks["vision"]
    for layer in range(stack.size):
        for head in range(stack.heads):
            silence = Hook("z", lambda z, at: z * 0, layers=[layer], heads=[head])
            table = score(model, task, hooks=silence)
            name = f"L{layer}H{head} silenced"
            found[f"{name}, accuracy"] = float(table["right"].mean())
            found[f"{name}, logit difference lost"] = whole_difference - float(
                table["difference"].mean()
            )
    return found


def main() -> None:
    torch.set_num_threads(1)
    columns = [measure(interp.load(folder)) for folder in sys.argv[1:] or ["demo-vit"]]
    for name in columns[0]:
        print("".join(f"{column[name]:8.3f}" for column in columns), f" {name}")


if __name__ == "__main__":
    main()
