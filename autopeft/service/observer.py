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
