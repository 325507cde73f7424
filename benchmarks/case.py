"""One way at one shape, in a process of its own. Prints one line of JSON.

python -m benchmarks.case '{"way": "interp", "family": "gpt2", "length": 512, "layers": 12}'
"""

import argparse
import json
from dataclasses import asdict, dataclass

import torch

from benchmarks.dense import Statistics
from benchmarks.measure import cpu_seconds, peak_megabytes
from benchmarks.shapes import Shape, token_ids
from benchmarks.ways import WAYS, Run

# Enough to import, allocate and look up whatever a first call does.
WARM_UP = 64


@dataclass(frozen=True)
class Case:
    way: str
    family: str
    length: int
    layers: int = 12
    again: int = 0  # timed runs after the run that memory is read from; 0: time that run

    @property
    def shape(self) -> Shape:
        return Shape(self.family, self.length, self.layers)


@torch.no_grad()
def measure(case: Case) -> tuple[dict, Statistics]:
    """CPU seconds of each timed run, peak megabytes of the first, and what it computed."""
    run: Run = WAYS[case.way].prepare(case.shape)
    run(token_ids(case.shape, WARM_UP))
    ids = token_ids(case.shape)
    megabytes, (first, answers) = peak_megabytes(lambda: cpu_seconds(lambda: run(ids)))
    answers = {name: value.clone() for name, value in answers.items()}
    seconds = [cpu_seconds(lambda: run(ids))[0] for _ in range(case.again)] or [first]
    return {**asdict(case), "seconds": seconds, "megabytes": megabytes}, answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", help="a Case as JSON")
    parser.add_argument("--answers", help="file for the statistics themselves")
    options = parser.parse_args()
    torch.set_num_threads(1)
    record, answers = measure(Case(**json.loads(options.case)))
    if options.answers:
        torch.save(answers, options.answers)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
