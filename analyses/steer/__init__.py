"""One answer under interventions: what is said, what comes next, where heads look, and what it costs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from analyses import analysis
from analyses.steer.asked import Asked, checked
from analyses.steer.asked import offered as offered
from analyses.steer.notes import notes
from analyses.steer.runs import ran
from analyses.steer.tables import tables
from interp.result import Result

if TYPE_CHECKING:
    from interp.model import Model


@analysis(alone="it times each answer, and workers beside each other would change what it tells")
def steer(
    model: "Model",
    task: Any,
    *,
    interventions: Any = None,
    records: int = 4,
    max_new_tokens: int = 16,
    top: int = 10,
    span: str | Sequence[str] | None = None,
) -> Result:
    """What interventions do to an answer, one by one and, where there are several, all together.

    `task` is a Task, a Record or a text; its first `records` are answered greedily. `interventions` is a name
    or a line such as "VAR(keep=0.2)", an instance or hooks, a list of these, or a mapping from names to them.
    "together" has all of them, left to right. One that refuses a record is a row with its sentence in
    `refused`; where nothing can be run at all the sentence is raised.

    The table has a row for each record and name, "plain" first: `answer`, and whether it begins with one of
    the record's (`right`); the `first` token with its `probability`, and that of the right answers' first
    tokens (`expected`); `token_moved`, how much of the next token's probability is elsewhere than in the
    plain run, and `look_moved`, the same of attention, as a mean over heads; the report's `rows` and how
    many of them were `changed`, `inert` where none was, and its sentences (`report`). `seconds` are one
    timing of `generate`, CPU time of the process or wall time on an accelerator, and `times` its ratio to
    plain.

    Next tokens and attention are read where the first token is written, at the prompt's last row. Tables:
    `tokens`, the `top` likeliest of each run, with their probability in all (after all that changes logits);
    `heads`, how much of each head's row `moved`, and its share on the `image`, the `first` token and the
    `span`, before and after; `looks`, the tokens that the most moved heads look at less or more; `touched`,
    the report by site and layer; `records`, what was asked. `span` is a span's name or an exact text; without
    it what the first intervention highlights. Exact: answers are `model.generate(prompt, using=...)`'s.
    """
    asked = checked(Asked(model, task, interventions, records, max_new_tokens, top, span))
    found = ran(asked)
    made = tables(asked, found)
    own = {"steered": asked.said, "told": {"span": asked.shown}}
    said = notes(asked, found, made)
    return Result("steer", made.pop("table"), made, notes=said, made=own)
