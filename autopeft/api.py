"""The public API: ``autopeft.search(...)`` and ``autopeft.open(folder)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autopeft.errors import AutopeftError, InvalidJobError, JobFolderError
from autopeft.results.job_log import JobLog
from autopeft.service.jobs import open_job

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from autopeft.service.confirmation import Confirmation
    from autopeft.service.exports import ExportReport
    from autopeft.service.observer import Observer

__all__ = ["Job", "open", "search"]


class Job:
    """A job, running or finished, as data frames and figures.

    Args:
        folder: The job's folder, ``output`` in the job file.

    Every property reads the log anew, so a job can be watched while it runs.

    Raises:
        JobFolderError: the folder is missing, foreign or damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        open_job(self.folder)

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {name}" for name, n in self.summary["trials"].items() if n)
        return f"<autopeft.Job {str(self.folder)!r}: {counts or 'no finished trial'}>"

    @property
    def log(self) -> JobLog:
        """Everything recorded so far."""
        return open_job(self.folder)

    @property
    def summary(self) -> dict[str, Any]:
        """What ``autopeft show --format json`` prints."""
        from autopeft.results.report import summary

        return summary(self.log)

    @property
    def trials(self) -> pd.DataFrame:
        """One row per trial: status, reason, origin, configuration, costs, score."""
        from autopeft.results.report import trials_frame

        return trials_frame(self.log)

    @property
    def front(self) -> pd.DataFrame:
        """One row per member of the Pareto front, best score first."""
        from autopeft.results.report import front_frame

        return front_frame(self.log)

    def front_where(self, *where: str) -> pd.DataFrame:
        """Return the front of the completed trials that keep limits, computed anew.

        Args:
            where: Limits such as ``"train_memory_bytes<=24GiB"`` or ``"accuracy>=0.8"``; costs and
                metrics by name, with <=, >=, < or >. Memory is the measured peak, else the
                calibrated prediction: the column ``expected_memory_source`` says which.

        Raises:
            AutopeftError: a limit cannot be read, or no trial keeps all of them.
        """
        from autopeft.results.query import ask
        from autopeft.results.report import front_frame

        log = self.log
        return front_frame(log, ask(log, where))

    def best(self, *where: str) -> dict[str, Any]:
        """Return the trial with the best score, among those that keep limits where some are given.

        Args:
            where: As for :meth:`front_where`.

        Returns:
            What ``summary["front"]`` holds of a trial: number, configuration, metrics, costs.

        Raises:
            AutopeftError: nothing completed, a limit cannot be read, or no trial keeps all.
        """
        from autopeft.results.query import pick_where
        from autopeft.results.report import front_point

        log = self.log
        if log.scale is None:
            raise AutopeftError(
                f"the job in {str(self.folder)!r} has no completed trial yet",
                hint=f"go on with `autopeft resume {self.folder}`",
            )
        return front_point(log, pick_where(log, "best", where))

    @property
    def curves(self) -> pd.DataFrame:
        """One row per measurement: ``trial``, ``step``, ``score``, every metric, ``seconds``."""
        from autopeft.results.report import curves_frame

        return curves_frame(self.log)

    def plot_front(self) -> go.Figure:
        """Draw score against trainable parameters, coloured by memory (Plotly)."""
        from autopeft.results.plots import plot_front

        return plot_front(self.log)

    def plot_curves(self) -> go.Figure:
        """Draw every learning curve, the stopped ones faint (Plotly)."""
        from autopeft.results.plots import plot_curves

        return plot_curves(self.log)

    def export(
        self,
        target: str | Path,
        *,
        pick: str | int | None = None,
        tool: str = "peft",
        where: str | Sequence[str] = (),
    ) -> ExportReport:
        """Write one trial for a training tool and check that it loads.

        Args:
            target: A folder that does not exist yet.
            pick: ``knee``, ``best``, ``smallest`` or a trial's number; where None, the knee, or
                with ``where`` the best.
            tool: Name of an exporter.
            where: Limits to keep, as for :meth:`front_where`.

        Raises:
            AutopeftError: a limit cannot be read, or no trial keeps all of them.
            ExportError: the trial has no checkpoint or cannot be expressed, or the exported
                files do not reproduce what was measured.
        """
        from autopeft.service.exports import export_trial

        if pick is None:
            pick = "best" if where else "knee"
        return export_trial(
            self.folder, pick=str(pick), tool=tool, target=Path(target), where=where
        )

    def confirm(
        self,
        *,
        pick: str | int = "best",
        against: str | Path | None = None,
        num_seeds: int = 3,
        where: str | Sequence[str] = (),
    ) -> Confirmation:
        """Retrain the winner and the best tuned LoRA, and compare them on the test split.

        Args:
            pick: ``best``, ``knee``, ``smallest`` or a trial's number.
            against: A job of the proposer ``lora-sweep`` on the same data; this job's own
                LoRA-sweep trials where None.
            num_seeds: Retrainings of each.
            where: Limits that the winner must keep, as for :meth:`front_where`; the LoRA it is
                compared with keeps them too, if one does.

        Raises:
            AutopeftError: a limit cannot be read, or no trial keeps all of them.
            JobFolderError: there is nothing to compare, or the jobs differ in data or training.
        """
        from autopeft.service.confirmation import confirm_job
        from autopeft.service.observer import SilentObserver

        return confirm_job(
            self.folder,
            which=str(pick),
            against=None if against is None else Path(against),
            num_seeds=num_seeds,
            observer=SilentObserver(),
            where=where,
        )


def open(folder: str | Path) -> Job:
    """Open a job's folder.

    Raises:
        JobFolderError: the folder is missing, foreign or damaged.
    """
    return Job(folder)


def search(
    job: str | Path | Mapping[str, Any],
    *,
    output: str | Path | None = None,
    observer: Observer | Literal["print"] | None = None,
    **overrides: Any,
) -> Job:
    """Run a search to the end of its budget, or continue the one already in ``output``.

    Args:
        job: A job file, or what would stand in one (paths relative to the working folder).
        output: The job's folder; overrides the job file.
        observer: Told of all that happens: ``"print"`` prints a line for each event, None is
            silent, and an object with the methods of
            :class:`~autopeft.service.observer.Observer` does what it likes.
        overrides: Values for keys of the job file; write ``__`` for the dots of a nested key:
            ``search("job.yaml", budget__trials=8, seed=1)``.

    Raises:
        InvalidJobError: the job is wrong; every problem is listed.
        JobFolderError: ``output`` holds another job.
        AutopeftError: data, model or space do not fit the job.
    """
    from autopeft.service.job_spec import load_job, parse_job
    from autopeft.service.jobs import JobFolder
    from autopeft.service.observer import PrintingObserver, SilentObserver
    from autopeft.service.running import resume_job, run_job

    values = {key.replace("__", "."): value for key, value in overrides.items()}
    if output is not None:
        values["output"] = str(output)
    if not isinstance(job, str | Path | Mapping):
        raise InvalidJobError(
            f"a job is the path of a job file or a mapping, got {type(job).__name__}",
            hint='autopeft.search("job.yaml"), or autopeft.search({"model": ..., "data": ...})',
        )
    if isinstance(job, Mapping):
        spec = parse_job(job, base=Path.cwd(), overrides=values)
    else:
        spec = load_job(Path(job), values)
    folder = Path(spec.output)
    if isinstance(observer, str) and observer != "print":
        raise InvalidJobError(
            f"unknown observer {observer!r}",
            hint='observer="print", or an object with on_phase, on_progress and on_log',
        )
    watcher = PrintingObserver() if isinstance(observer, str) else observer or SilentObserver()
    if JobFolder(folder).log.is_file():
        if open_job(folder).spec != spec.to_json():
            raise JobFolderError(
                f"{str(folder)!r} holds another job",
                hint="name another folder with output=, or open that job with autopeft.open()",
            )
        resume_job(folder, observer=watcher)
    else:
        run_job(spec, folder, observer=watcher)
    return Job(folder)
