"""`python -m analyses NAME ...` is `interp run NAME ...`: ask a question, save what was found.

python -m analyses sinks --model demo-lm --task facts --count 40 --epsilon 0.2
python -m analyses compare --model demo-vlm --task existence --count 200 --negatives adversarial
       --interventions VHR "VAR(keep=0.2)" --out runs/compare
"""

import sys


def main(arguments: list[str] | None = None) -> int:
    """The exit code of `interp run` with these words. Only this door of the folder knows the shell."""
    from app.command import main as command

    given = sys.argv[1:] if arguments is None else arguments
    return command(["run", *given])


if __name__ == "__main__":
    sys.exit(main())
