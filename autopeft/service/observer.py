"""Who is told of a job's progress while it runs: a screen, a log, or nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from autopeft.results.job_log import JobLog


class Observer(Protocol):
    """Be told what a driver does.

    Contract: all methods are called from the driver's thread, return quickly and never
    raise. They only show: nothing a driver decides depends on them.
    """

    def on_phase(self, text: str) -> None:
        """Take note of what happens before and between trials, e.g. ``loading data``."""

    def on_progress(self, text: str) -> None:
        """Take note of how far something slow is, e.g. ``predicting memory: method 3 of 60``.

        It may come many times a second, and holds until any other method is called.
        """

    def on_log(self, log: JobLog, message: str | None) -> None:
        """Take note of the job's log after it changed.

        Args:
            log: The job as it stands now.
            message: One line for people about the change, or None where it says nothing new.
        """


class SilentObserver:
    """Show nothing; what library code uses."""

    def on_phase(self, text: str) -> None:
        """Ignore the phase."""

    def on_progress(self, text: str) -> None:
        """Ignore how far it is."""

    def on_log(self, log: JobLog, message: str | None) -> None:
        """Ignore the change."""


def wants_log(observer: Observer) -> bool:
    """Tell whether an observer looks at the log; a snapshot of a large job takes its time."""
    return getattr(type(observer), "on_log", None) is not SilentObserver.on_log


class PrintingObserver:
    """Print a line for each phase, message and measurement; for notebooks and scripts."""

    def __init__(self) -> None:
        self._num_measured: dict[int, int] | None = None

    def on_phase(self, text: str) -> None:
        """Print the phase."""
        print(text, flush=True)

    def on_progress(self, text: str) -> None:
        """Print nothing: it may come many times a second."""

    def on_log(self, log: JobLog, message: str | None) -> None:
        """Print what was measured since the last call, then the message."""
        counts = {number: len(state.curve) for number, state in log.states.items()}
        if self._num_measured is not None and log.scale is not None:
            for number, count in counts.items():
                if count > self._num_measured.get(number, 0):
                    state = log.states[number]
                    told = log.scale.score_text(state)
                    print(f"trial {number}: step {state.step}: {told}", flush=True)
        self._num_measured = counts
        if message is not None:
            print(message, flush=True)
