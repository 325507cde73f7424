"""A sweep of about a minute on one and on two Ray workers, and with one of two killed in the middle.

GPT-2 small's shape with random weights, resid_pre of every layer and position, one thread a process. Each
case runs in a process of its own with a cluster of its own, cases by turns; what is timed, by the clock,
is the sweep alone, once the workers hold the model. Beside it stand the CPU seconds of the busiest worker, on
which other work on the machine has little hold, and what the machine gave at that time: how much more two
processes of plain matrix products did than one.

python -m benchmarks.workers --rounds 3
"""

import argparse
import hashlib
import json
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy
import torch

import interp
from benchmarks.children import child
from interp.mapping import on
from interp.readouts import logit_diff
from interp.sweep import sweep

CASES = ("here", "ray:1", "ray:2", "ray:2 killed")
BATCH, LENGTH, WORDS, LAYERS = 2, 64, 500, 12
GOAL = 1.7  # times the throughput of one worker
KILLED_AFTER = 12  # parts, then a worker is killed


def build() -> tuple[Any, Any]:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=WORDS, n_layer=LAYERS, bos_token_id=0, eos_token_id=0)
    model = interp.wrap(GPT2LMHeadModel(config).eval().requires_grad_(False))
    ids = torch.randint(WORDS, (BATCH, LENGTH), generator=torch.Generator().manual_seed(1))
    return model, model.encode(ids)


def run(model: Any, prompt: Any, **more: Any) -> Any:
    metric = logit_diff(list(range(BATCH)), list(range(BATCH, 2 * BATCH)))
    return sweep(model, prompt, "resid_pre", metric=metric, progress=False, **more)


def killing(team: Any) -> threading.Thread:
    """Ends the first worker's process once some parts are done."""
    target = team.hands[0].process
    goal = team.shared + KILLED_AFTER

    def wait() -> None:
        while team.shared < goal:
            time.sleep(0.02)
        os.kill(target, signal.SIGKILL)

    return threading.Thread(target=wait, daemon=True)


def case(name: str) -> dict[str, Any]:
    """One case: seconds by the clock, what came out, and what it took."""
    torch.set_num_threads(1)
    model, prompt = build()
    where, _, killed = name.partition(" ")
    with on(where) as team:
        run(model, prompt, layers=[LAYERS - 1])  # workers open the model; the code is warm
        if killed and team is not None:
            killing(team).start()
        before = 0 if team is None else team.shared
        workers = [os.getpid()] if team is None else [hand.process for hand in team.hands]
        used = [cpu_of(one) for one in workers]
        started = time.perf_counter()
        grid = run(model, prompt)
        seconds = time.perf_counter() - started
        busiest = None  # a killed one cannot be asked
        if not killed:
            pairs = zip(workers, used, strict=True)
            busiest = max(cpu_of(one) - earlier for one, earlier in pairs)
        parts = 0 if team is None else team.shared - before
        lost = 0 if team is None else team.lost
    digest = hashlib.sha256(numpy.asarray(grid).tobytes()).hexdigest()[:12]
    return {"case": name, "seconds": seconds, "cpu": busiest, "digest": digest, "parts": parts,
            "lost": lost}  # fmt: skip


def cpu_of(process: int) -> float:
    """CPU seconds that a process has had."""
    import psutil

    times = psutil.Process(process).cpu_times()
    return times.user + times.system


def products(seconds: float) -> float:
    """Plain matrix products a second, of the sizes of an MLP."""
    torch.set_num_threads(1)
    left, right = torch.randn(1024, 768), torch.randn(768, 3072)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        torch.mm(left, right)
        count += 1
    return count / seconds


def machine() -> float:
    """How many times the products of one process two of them do now."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(products, [1.0, 1.0]))  # they are up and warm
        alone = pool.submit(products, 4.0).result()
        return sum(pool.map(products, [4.0, 4.0])) / alone


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    lines = [
        "| case | seconds, best (all) | x one worker | CPU s of the busiest | parts | lost | bytes |"
    ]
    lines += ["|---|--:|--:|--:|--:|--:|---|"]
    best = {name: min(one["seconds"] for one in runs) for name, runs in found.items()}
    for name, runs in found.items():
        each = ", ".join(f"{one['seconds']:.1f}" for one in runs)
        busiest = ", ".join(f"{one['cpu']:.1f}" for one in runs if one["cpu"] is not None)
        last = runs[-1]
        lines.append(
            f"| {name} | {best[name]:.1f} ({each}) | {best['ray:1'] / best[name]:.2f} "
            f"| {busiest} | {last['parts']} | {last['lost']} | {' '.join({one['digest'] for one in runs})} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=CASES, help="run this case alone, and print it as JSON")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(case(given.one)))
        return 0
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CASES}
    gave = []
    for _ in range(given.rounds):
        gave.append(machine())
        print(f"the machine: two processes do {gave[-1]:.2f} x one", flush=True)
        for name in CASES:
            busy = os.getloadavg()[0]
            one = child("workers", ["--one", name])
            if one is None:
                return 1
            found[name].append(one)
            print(f"{name}: {one['seconds']:.1f} s; load before it {busy:.1f}", flush=True)
    print(table(found))
    alike = len({one["digest"] for runs in found.values() for one in runs}) == 1
    ratio = min(one["seconds"] for one in found["ray:1"]) / min(
        one["seconds"] for one in found["ray:2"]
    )
    print(f"The machine gave two processes {', '.join(f'{one:.2f}' for one in gave)} x one.")
    print(
        f"Two workers: {ratio:.2f} x one (goal {GOAL:g}); bytes {'equal' if alike else 'DIFFER'}."
    )
    return 0 if alike and ratio >= GOAL else 1


if __name__ == "__main__":
    raise SystemExit(main())
