"""Metrics of generated answers: built in, or a function of the user's; no torch is imported.

A metric is given two lists of equal length, predictions and references, and returns one number;
more is better by convention, but nothing here depends on it. The user's function is named as
``file.py:function`` in the job file. Its file is one module that imports installed packages
only: it is read once, kept in the job's folder and run from that text, on every machine and
after every resume, so that all trials of a job are scored by the same code.
"""

from __future__ import annotations

import hashlib
import re
import types
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autopeft.errors import InvalidJobError
from autopeft.naming import did_you_mean, nearest, or_nearest
from autopeft.records import COST_NAMES
from autopeft.workers.tasks.metric_names import METRIC_NAMES

MetricFunction = Callable[[Sequence[str], Sequence[str]], float]

_FUNCTION = re.compile(r"(?P<file>.+):(?P<function>[^:/\\]+)")
#: What a user's function is tried with before a job begins.
_SAMPLE = (["Return the sum.", "something else"], ["Return the sum.", "Return the product."])


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the share of predictions that equal their reference.

    White space at the ends is left out, and any within counts as one space; nothing else is
    normalised: capitals and full stops matter.
    """
    pairs = zip(predictions, references, strict=True)
    return float(np.mean([one.split() == other.split() for one, other in pairs]))


def token_f1(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the mean F1 of the words that prediction and reference share, in lower case.

    As for SQuAD (arXiv 1606.05250), without leaving out articles; words are runs of letters,
    digits and underscores. Two texts without a word agree.
    """
    return float(np.mean([_f1(a, b) for a, b in zip(predictions, references, strict=True)]))


class MetricWarning(UserWarning):
    """A job goes on with another metric than the file that it names now holds."""


BUILT_IN: Mapping[str, MetricFunction] = {"exact_match": exact_match, "token_f1": token_f1}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerMetric:
    """A metric that can be sent to a worker.

    Attributes:
        name: Name of the value among the metrics of a measurement.
        source: Text of the user's file; None for a built-in metric.
        file: Name of the user's file, for messages.
    """

    name: str
    source: str | None = None
    file: str | None = None

    @property
    def digest(self) -> str | None:
        """SHA-256 of the user's file; None for a built-in metric."""
        return None if self.source is None else hashlib.sha256(self.source.encode()).hexdigest()

    def __call__(self, predictions: Sequence[str], references: Sequence[str]) -> float:
        """Return the metric's value.

        Raises:
            InvalidJobError: the user's function raises, or returns no finite number.
        """
        function = BUILT_IN[self.name] if self.source is None else self._load()
        try:
            value = function(list(predictions), list(references))
        except Exception as error:
            raise InvalidJobError(
                f"{self._where} raised {type(error).__name__}: {error}",
                hint="it is called with two lists of texts: predictions and references",
            ) from error
        is_number = isinstance(value, int | float | np.number | np.bool_)
        if not is_number or not np.isfinite(value):
            raise InvalidJobError(
                f"{self._where} returned {value!r} of type {type(value).__name__}; expected a "
                "finite number",
                hint="return a float",
            )
        return float(value)

    @property
    def _where(self) -> str:
        return self.name if self.file is None else f"metric {self.file}:{self.name}"

    def _load(self) -> Any:
        """Run the user's file and return its function."""
        assert self.source is not None
        module = types.ModuleType("autopeft_user_metric")
        module.__file__ = self.file
        try:
            code = compile(self.source, str(self.file), "exec")
            exec(code, module.__dict__)  # noqa: S102 - the user's own file, named in the job
        except Exception as error:
            raise InvalidJobError(
                f"metric: {self.file} cannot be run: {type(error).__name__}: {error}",
                hint="it is run by itself; it can import installed packages, but no file beside it",
            ) from error
        names = [name for name, value in vars(module).items() if callable(value)]
        function = getattr(module, self.name, None)
        if function is None:
            raise InvalidJobError(
                f"metric: {self.file} has no function {self.name!r}{did_you_mean(self.name, names)}"
            )
        if not callable(function):
            raise InvalidJobError(
                f"metric: {self.name!r} in {self.file} is a {type(function).__name__}; expected a "
                "function of predictions and references"
            )
        return function


def read_metric(text: str, base: Path, kept: Path | None = None) -> AnswerMetric:
    """Return the metric that a job file names, tried once.

    Args:
        text: ``exact_match``, another built-in name, or ``file.py:function``.
        base: Folder that a relative file starts from.
        kept: The copy that the job keeps of the file; it counts where it is there.

    Raises:
        InvalidJobError: no such name, file or function, or the function does not work.
    """
    if text in BUILT_IN:
        return AnswerMetric(name=text)
    match = _FUNCTION.fullmatch(text)
    if match is None or not match["file"].endswith(".py") or not match["function"].isidentifier():
        raise InvalidJobError(
            f"metric: {text!r} is neither a metric of generated answers nor file.py:function"
            f"{or_nearest(text, BUILT_IN)}",
            hint=f"built in: {', '.join(BUILT_IN)}",
        )
    name, path = match["function"], base / match["file"]
    own = {*METRIC_NAMES, *COST_NAMES, *BUILT_IN, "train_loss", "branch_steps"}
    if name in own:
        raise InvalidJobError(
            f"metric: the function's name {name!r} is taken by a score of AutoPEFT's own",
            hint="give it another name",
        )
    try:
        source = (path if kept is None or not kept.is_file() else kept).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidJobError(
            f"metric: {match['file']!r} below {base} cannot be read: "
            f"{getattr(error, 'strerror', None) or error}{_near(path)}",
            hint="name the file relative to the job file",
        ) from error
    metric = AnswerMetric(name=name, source=source, file=match["file"])
    metric(*_SAMPLE)
    return metric


def has_changed(text: str, base: Path, kept: Path) -> bool:
    """Return whether the user's file is another one than the copy that the job keeps."""
    match = _FUNCTION.fullmatch(text)
    if match is None or not kept.is_file():
        return False
    try:
        return (base / match["file"]).read_bytes() != kept.read_bytes()
    except OSError:
        return False


def _near(path: Path) -> str:
    try:
        close = nearest(path.name, [sibling.name for sibling in path.parent.iterdir()])
    except OSError:
        return ""
    return f"; did you mean {close!r}?" if close not in (None, path.name) else ""


def _f1(prediction: str, reference: str) -> float:
    one, other = (Counter(re.findall(r"\w+", text.casefold())) for text in (prediction, reference))
    if not one or not other:
        return float(one == other)
    shared = (one & other).total()
    return 2.0 * shared / (one.total() + other.total())
