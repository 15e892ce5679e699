"""Every error a user can meet, in one tree.

AutopeftError                what went wrong, and the next thing to type
├── InvalidJobError          a job file, or a flag that stands for one of its keys
├── InvalidSpaceError        a search space, a preset or a configuration outside its space
├── DataError                a data set cannot be read, or does not fit the task
├── ModelError               a model cannot be found, loaded or understood
├── WorkerError              a worker could not be started, or every one of them is gone
├── JobFolderError           a job folder is missing, foreign, damaged or owned by another driver
└── ExportError              a trial cannot be written for the asked training tool

The CLI prints ``message`` and ``hint`` and exits with code 2. A traceback is shown only
under ``--debug``. Broken invariants of our own are ``AssertionError`` and never caught.
"""

from __future__ import annotations

from collections.abc import Sequence


class AutopeftError(Exception):
    """Say what is wrong, with the value received and what was expected.

    Args:
        message: What happened: the thing, the value received, what was expected.
        hint: The next thing to do or type.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nhint: {self.hint}"


class InvalidJobError(AutopeftError):
    """A job file is wrong; ``problems`` lists every finding, one line each."""

    def __init__(
        self, message: str, *, problems: Sequence[str] = (), hint: str | None = None
    ) -> None:
        text = "\n".join([message, *(f"  - {problem}" for problem in problems)])
        super().__init__(text, hint=hint)
        self.problems = tuple(problems)


class InvalidSpaceError(AutopeftError):
    """A search space cannot be built, or a configuration lies outside it."""


class DataError(AutopeftError):
    """A data set cannot be read, or does not fit the task."""


class ModelError(AutopeftError):
    """A model cannot be found, loaded or understood."""


class WorkerError(AutopeftError):
    """Workers could not be started, or none of them is left."""


class JobFolderError(AutopeftError):
    """A job folder is missing, foreign, damaged or owned by another driver."""


class ExportError(AutopeftError):
    """A trial cannot be written for the asked training tool."""
