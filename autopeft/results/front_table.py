"""The front of a job as a table for people, at any width of the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table

from autopeft.naming import counted
from autopeft.records import (
    ADAPTER_FILE_BYTES,
    INFERENCE_EXTRA_FLOPS,
    RETENTION,
    TRAIN_MEMORY_BYTES,
    TRAIN_SECONDS,
    ModelShape,
    TrialState,
)
from autopeft.results.calibration import expected_bytes, measured_bytes, memory_ratio
from autopeft.results.correlation import answer_metric
from autopeft.results.job_log import JobLog
from autopeft.results.report import (
    bytes_text,
    cost_text,
    count_text,
    front_of,
    is_baseline,
    metric_value,
)
from autopeft.search_spaces.targets import all_linear

if TYPE_CHECKING:
    from autopeft.results.query import Answer


def front_table(log: JobLog, answer: Answer | None = None) -> Table:
    """Return the front for a terminal; members of the ``lora-sweep`` portfolio carry a ``*``.

    With the answer to a query it is the front of what keeps its limits; ``counted``, where it asks
    for memory, is what was compared with them.
    ``memory`` is predicted; ``measured``, where some were, stands beside it with its ratio to it.
    """
    metric = "score" if log.scale is None else log.scale.metric
    front = front_of(log, answer)
    under = "" if answer is None else f" where {answer.text}"
    marked = any(is_baseline(state) for state in front)
    table = Table(
        title=f"Front of {log.name or 'the job'}{under}: {counted(len(front), 'trial')}",
        caption="* LoRA on all linear layers, learning rate swept (the baseline)"
        if marked
        else None,
        title_justify="left",
        caption_justify="left",
        # As little as possible between the columns: the last one needs the room.
        box=SIMPLE_HEAD,
        show_edge=False,
        collapse_padding=True,
        pad_edge=False,
    )
    more = _further_costs(log, answer)
    has_head = any(
        state.costs.num_trainable_parameters != state.costs.num_adapter_parameters
        for state in front
    )
    apart = ["adapter"] if has_head else []
    answers = answer_metric(log)
    scores = [metric] if answers is None else [metric, answers]
    measured = ["measured"] if any(measured_bytes(state) for state in front) else []
    asked = () if answer is None else answer.conditions
    counted_too = ["counted"] if any(each.name == TRAIN_MEMORY_BYTES for each in asked) else []
    memory = ("memory", *measured, *counted_too)
    for name in ("trial", *scores, "parameters", *apart, *memory, *more.values()):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("configuration")
    for state in front:
        costs = state.costs
        value = state.score if log.scale is None else metric_value(state, log.scale.metric)
        table.add_row(
            f"{state.trial.number}{'*' if is_baseline(state) else ' '}",
            f"{value:.4f}",
            *([] if answers is None else [f"{metric_value(state, answers):.4f}"]),
            count_text(costs.num_trainable_parameters),
            *([count_text(costs.num_adapter_parameters)] if has_head else []),
            bytes_text(costs.train_memory_bytes),
            *([_measured(state)] if measured else []),
            *(
                [bytes_text(expected_bytes(state, answer.calibration))]
                if answer and counted_too
                else []
            ),
            *(cost_text(name, getattr(costs, name)) for name in more),
            WholeWords(_described(log, state)),
        )
    return table


def _measured(state: TrialState) -> str:
    """Return measured memory and its ratio to the prediction beside it."""
    num_bytes, ratio = measured_bytes(state), memory_ratio(state)
    if num_bytes is None:
        return "-"
    return f"{bytes_text(num_bytes)} ({'-' if ratio is None else f'{ratio:.2f}'})"


class WholeWords:
    """A text in as many lines as it takes, broken at spaces, else after commas.

    Rich itself breaks a word that is too long for its column anywhere.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def lines(self, width: int) -> list[str]:
        """Return the text in lines of up to ``width`` characters."""
        lines = [""]
        for word in self._text.split():
            if len(f"{lines[-1]} {word}".strip()) <= width:
                lines[-1] = f"{lines[-1]} {word}".strip()
                continue
            if lines[-1]:
                lines.append("")
            for piece in _pieces(word, width):
                if len(lines[-1]) + len(piece) > width:
                    lines.append("")
                lines[-1] += piece
        return lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for line in self.lines(options.max_width):
            yield Segment(line)
            yield Segment.line()

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        narrowest = max((len(piece) for piece in _pieces(self._text, options.max_width)), default=0)
        return Measurement(min(narrowest, options.max_width), len(self._text))


def _pieces(text: str, width: int) -> list[str]:
    """Return what a text is made of where it may be broken; nothing is wider than ``width``."""
    pieces: list[str] = []
    for word in text.split():
        *parts, last = word.split(",")
        pieces += [*(f"{part}," for part in parts), last]
    return [piece[i : i + width] for piece in pieces for i in range(0, len(piece), width)]


def _described(log: JobLog, state: TrialState) -> str:
    """Describe a configuration; all linear layers of the model are called ``all``."""
    text = str(state.trial.configuration)
    if log.prepared is None or "shape" not in log.prepared:
        return text
    everywhere = all_linear(ModelShape.from_json(log.prepared["shape"]))
    return text.replace(f"sites={','.join(everywhere)}", "sites=all")


def _further_costs(log: JobLog, answer: Answer | None) -> dict[str, str]:
    """Return the costs a job or a query asks for that not every table shows, and their headings."""
    headings = {
        ADAPTER_FILE_BYTES: "file",
        INFERENCE_EXTRA_FLOPS: "extra FLOPs",
        TRAIN_SECONDS: "time",
        RETENTION: "retention",
    }
    if log.scale is None:
        return {}
    asked = {*log.scale.cost_names, *(constraint.name for constraint in log.scale.constraints)}
    if answer is not None:
        asked |= {condition.name for condition in answer.conditions}
    return {name: heading for name, heading in headings.items() if name in asked}
