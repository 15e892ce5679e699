"""Progress of a running job: a live screen on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autopeft.naming import counted
from autopeft.records import RETENTION, TrialState, TrialStatus
from autopeft.results.correlation import answer_metric
from autopeft.results.hypervolume import front_hypervolume
from autopeft.results.report import bytes_text, count_text, front_of, metric_value

if TYPE_CHECKING:
    from autopeft.results.job_log import JobLog

NUM_RECENT_LINES = 5
#: Plain lines tell how far something slow is no more often than this, in seconds.
PROGRESS_SECONDS = 10.0

STATUS_STYLES = {
    TrialStatus.COMPLETED: "green",
    TrialStatus.RUNNING: "cyan",
    TrialStatus.PAUSED: "blue",
    TrialStatus.STOPPED: "yellow",
    TrialStatus.INFEASIBLE: "magenta",
    TrialStatus.DIVERGED: "magenta",
    TrialStatus.FAILED: "red",
}


def create_progress(console: Console) -> Screen | Lines:
    """Return a live screen where ``console`` is a terminal, else plain lines."""
    return Screen(console) if console.is_terminal else Lines(console)


class Lines:
    """One line for each phase, finished segment and decision."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._started = clock()
        self._num_measured: dict[int, int] | None = None
        self._last_printed = self._started

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave nothing behind: every line is out already."""

    def on_phase(self, text: str) -> None:
        """Print the phase."""
        self._print(text)

    def on_progress(self, text: str) -> None:
        """Print how far it is where nothing was printed for a while."""
        if self._clock() - self._last_printed >= PROGRESS_SECONDS:
            self._print(text)

    def on_log(self, log: JobLog, message: str | None) -> None:
        """Print each new measurement, then the message."""
        # What earlier runs measured is no news, and nothing is measured before something is
        # submitted, so the first log of a run shows where it starts.
        if self._num_measured is None:
            self._num_measured = {n: len(state.curve) for n, state in log.states.items()}
        for number, state in log.states.items():
            if len(state.curve) > self._num_measured.get(number, 0):
                self._num_measured[number] = len(state.curve)
                # Only a search has a scale; retrainings tell of themselves in their messages.
                if log.scale is not None:
                    self._print(measurement_line(log, state))
        if message is not None:
            self._print(message)

    def _print(self, text: str) -> None:
        self._last_printed = self._clock()
        elapsed = int(self._last_printed - self._started)
        line = f"[{elapsed // 60:3d}:{elapsed % 60:02d}] {' '.join(text.split())}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class Screen:
    """Trials by status, what runs, the best so far, the hypervolume and the time left.

    Drawn four times a second by a thread of rich's, from the last log it was told of.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._phase = "starting"
        self._progress = ""
        self._log: JobLog | None = None
        self._recent: deque[str] = deque(maxlen=NUM_RECENT_LINES)
        self._time_left = TimeLeft(clock)
        self._hypervolume: tuple[tuple[int, ...], float] = ((), 0.0)
        self._live = Live(
            console=console, get_renderable=self.render, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> Screen:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def on_phase(self, text: str) -> None:
        """Show the phase."""
        self._phase, self._progress = text, ""

    def on_progress(self, text: str) -> None:
        """Show how far it is, in place of the phase."""
        self._progress = text

    def on_log(self, log: JobLog, message: str | None) -> None:
        """Show the log from now on."""
        self._log, self._progress = log, ""
        self._time_left.observe(log)
        if message is not None:
            self._recent.append(" ".join(message.split()))

    def render(self) -> RenderableType:
        """Return the screen as it stands."""
        log = self._log
        head = Text.assemble(
            (log.name if log is not None and log.name else "job", "bold"),
            f"  {self._progress or self._phase}  {duration_text(self._clock() - self._started)}",
        )
        recent = [
            Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in self._recent
        ]
        if log is None or log.scale is None:
            return Group(head, *recent) if recent else head
        parts: list[RenderableType] = [head, self._budget(log), _counts(log)]
        parts += [_running(log, state) for state in log.trials if _is_running(state)]
        parts.append(self._best(log))
        return Group(*parts, *recent)

    def _budget(self, log: JobLog) -> RenderableType:
        fraction = spent_fraction(log)
        row = Table.grid(padding=(0, 1))
        left = self._time_left.seconds()
        row.add_row(
            ProgressBar(total=1.0, completed=fraction, width=40),
            f"{100 * fraction:.0f} % of the budget",
            f"about {duration_text(left)} left" if left is not None else "",
        )
        return row

    def _best(self, log: JobLog) -> Text:
        front = front_of(log)
        if not front or log.scale is None:
            return Text("no trial completed yet", style="dim")
        numbers = tuple(state.trial.number for state in front)
        if self._hypervolume[0] != numbers:
            self._hypervolume = (numbers, front_hypervolume(front, log.scale))
        best = front[0]
        costs = best.trial.costs
        size = count_text(costs.num_trainable_parameters)
        return Text.assemble(
            "best ",
            (f"{log.scale.metric} {metric_value(best, log.scale.metric):.4f}", "bold green"),
            f" (trial {best.trial.number}, {size} parameters, "
            f"{bytes_text(costs.train_memory_bytes)}); front of {len(front)}, "
            f"hypervolume {self._hypervolume[1]:.4f}",
        )


class TimeLeft:
    """Estimate the time a job still takes from how fast this run spends the budget."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[float, float] | None = None
        self._last: tuple[float, float] | None = None

    def observe(self, log: JobLog) -> None:
        """Take note of the budget spent, once trials run."""
        if not log.states:
            return
        self._last = (self._clock(), spent_fraction(log))
        if self._first is None:
            self._first = self._last

    def seconds(self) -> float | None:
        """Return the seconds left, None before there is anything to judge by."""
        if self._first is None or self._last is None:
            return None
        elapsed, gained = (
            last - first for last, first in zip(self._last, self._first, strict=True)
        )
        if gained <= 0 or elapsed <= 0:
            return None
        since = self._clock() - self._last[0]
        return max(0.0, elapsed / gained * (1.0 - self._last[1]) - since)


def spent_fraction(log: JobLog) -> float:
    """Return the part of the budget that is spent, in [0, 1], by the limit nearest its end."""
    limits: Mapping[str, Any] = {**(log.spec or {}).get("budget", {}), **log.budget}
    settled = sum(
        state.status.is_final or state.status is TrialStatus.PAUSED for state in log.states.values()
    )
    gpus = ((log.spec or {}).get("workers") or {}).get("gpus") or 1.0
    spent = {
        "trials": settled,
        "steps": log.total_steps,
        "minutes": log.spent_seconds / 60,
        "gpu_hours": gpus * log.busy_seconds / 3600,
    }
    fractions = [used / limits[name] for name, used in spent.items() if limits.get(name)]
    return min(1.0, max(fractions, default=0.0))


def measurement_line(log: JobLog, state: TrialState) -> str:
    """Describe a trial's latest measurement in one line."""
    last = state.curve[-1]
    metric = "score" if log.scale is None else log.scale.metric
    steps = ((log.spec or {}).get("training") or {}).get("steps", "?")
    values = f"{metric} {last.metrics.get(metric, last.score):.4f}"
    for name in (answer_metric(log), RETENTION):
        if name is not None and name in last.metrics:
            values += f", {name} {last.metrics[name]:.4f}"
    seconds = f" in {last.seconds:.1f} s" if math.isfinite(last.seconds) else ""
    return f"trial {state.trial.number}: step {last.step} of {steps}: {values}{seconds}"


def duration_text(seconds: float) -> str:
    """Write a duration for people: ``42 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _is_running(state: TrialState) -> bool:
    return state.status in (TrialStatus.RUNNING, TrialStatus.PROPOSED)


def _counts(log: JobLog) -> Text:
    counts = Counter(state.status for state in log.states.values())
    text = Text(counted(len(log.states), "trial"))
    for status, style in STATUS_STYLES.items():
        if counts[status]:
            text.append(f"  {counts[status]} {status.value}", style=style)
    return text


def _running(log: JobLog, state: TrialState) -> Text:
    rungs = {segment.trial.number: segment.to_step for segment in log.unfinished}
    steps = ((log.spec or {}).get("training") or {}).get("steps", "?")
    rung = rungs.get(state.trial.number, state.step)
    score = ""
    if log.scale is not None and not math.isnan(state.score):
        score = f", {log.scale.score_text(state, '.4f')} at step {state.step}"
    return Text(
        f"  trial {state.trial.number} to step {rung} of {steps}{score}: "
        f"{state.trial.configuration}",
        no_wrap=True,
        overflow="ellipsis",
        style="cyan",
    )
