"""Is the winner really better than a tuned plain LoRA? Retrain both, look at the test split once.

A search picks its winner among many on the search-validation split, so the winner's score
there is too good to be true. Here the finalists are trained again from new seeds and scored
on the test split, which nothing before has seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autopeft.errors import JobFolderError
from autopeft.records import BASELINE_ORIGINS, TrialState, TrialStatus
from autopeft.results.calibration import calibration_of
from autopeft.results.front import ObjectiveScale, pareto_front
from autopeft.results.job_log import JobLog, finite_or_none
from autopeft.results.query import Condition, ask, misses, pick_where
from autopeft.results.report import metric_value
from autopeft.service.job_spec import JobSpec
from autopeft.service.jobs import JobFolder, open_job
from autopeft.service.observer import Observer
from autopeft.service.retraining import retrain
from autopeft.workers.openmp import share_cores

if TYPE_CHECKING:
    from autopeft.workers.tasks.base import Task

NUM_BOOTSTRAP = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalist:
    """One configuration, retrained.

    Attributes:
        job: Folder of the job it was found in.
        state: The trial that was picked on the search-validation split.
        seeds: Seeds of the retrainings.
        scores: Test scores by seed, oriented so that more is better.
        metric_values: The same in the metric's own orientation.
        answer_values: What the job's own metric says of the generated answers to the test
            split, by seed; empty where the job has none.
    """

    job: Path
    state: TrialState
    seeds: tuple[int, ...]
    scores: tuple[float, ...]
    metric_values: tuple[float, ...]
    answer_values: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        """Mean test value of the metric."""
        return float(np.mean(self.metric_values))

    @property
    def answer_mean(self) -> float | None:
        """Mean of the answers' metric; None where the job has none."""
        return float(np.mean(self.answer_values)) if self.answer_values else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """Winner against baseline on the test split.

    Attributes:
        metric: Name of the metric.
        winner: What the search picked.
        baseline: The best tuned plain LoRA.
        difference: Mean score of the winner minus that of the baseline; more is better.
        interval: 95 % interval of the difference, over seeds and test examples together; over
            test examples alone where there is one seed.
        num_test_rows: Rows of the test split.
        answer_metric: Name of the job's own metric of generated answers; None where it has none.
        where: Limits that the winner keeps, for people.
        baseline_keeps_where: Whether the baseline keeps them too; where no LoRA does, it is the
            best of all.
    """

    metric: str
    winner: Finalist
    baseline: Finalist
    difference: float
    interval: tuple[float, float]
    num_test_rows: int
    answer_metric: str | None = None
    where: tuple[str, ...] = ()
    baseline_keeps_where: bool = True

    @property
    def num_seeds(self) -> int:
        """Retrainings of each."""
        return len(self.winner.seeds)

    @property
    def interval_over(self) -> tuple[str, ...]:
        """What the interval is over."""
        return ("test rows",) if self.num_seeds == 1 else ("seeds", "test rows")

    @property
    def verdict(self) -> str:
        """One honest sentence."""
        low, high = self.interval
        if self.winner.state.trial.configuration == self.baseline.state.trial.configuration:
            return "the winner is the tuned LoRA itself"
        if self.num_seeds == 1 and (low > 0 or high < 0):
            better = "better" if low > 0 else "worse"
            return (
                f"from this one seed the winner came out {better} than the tuned LoRA; whether "
                "it does from others takes more seeds"
            )
        if low > 0:
            return "the winner is better than the tuned LoRA"
        if high < 0:
            return "the winner is worse than the tuned LoRA"
        return "no difference between winner and tuned LoRA can be told"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return {
            "metric": self.metric,
            **({} if self.answer_metric is None else {"answer_metric": self.answer_metric}),
            **(
                {"where": list(self.where), "baseline_keeps_where": self.baseline_keeps_where}
                if self.where
                else {}
            ),
            "winner": _finalist_json(self.winner, self.metric),
            "baseline": _finalist_json(self.baseline, self.metric),
            "difference": self.difference,
            "interval": list(self.interval),
            "interval_over": list(self.interval_over),
            "num_test_rows": self.num_test_rows,
            "verdict": self.verdict,
        }


def confirm_job(
    folder: Path,
    *,
    which: str = "best",
    against: Path | None = None,
    num_seeds: int = 3,
    observer: Observer,
    where: str | Sequence[str] = (),
) -> Confirmation:
    """Retrain a job's winner and its best plain LoRA, and compare them on the test split.

    Results are recorded in the job's folder: asking again shows them and trains nothing, and
    an interrupted confirmation goes on where it was.

    Args:
        folder: The job.
        which: ``best``, ``knee``, ``smallest`` or a trial's number.
        against: A job of the proposer ``lora-sweep`` on the same data; where None, the best
            trial that this job's own portfolio took from the LoRA sweep.
        num_seeds: Retrainings of each; their seeds follow the job's.
        observer: Told of all that happens.
        where: Limits that the winner must keep, such as ``train_memory_bytes<=24GiB``. The
            baseline is the best LoRA that keeps them too, if there is one.

    Raises:
        AutopeftError: a limit cannot be read, or nothing keeps all of them.
        JobFolderError: there is nothing to compare, or the two jobs differ in data or training.
        WorkerError: a retraining failed.
    """
    log = open_job(folder)
    spec, scale = _require_finished(log, folder)
    winner = pick_where(log, which, where)
    conditions = ask(log, where).conditions if where else ()
    baseline_folder = against or folder
    baseline, keeps = _best_plain_lora(baseline_folder, log, conditions)
    seeds = tuple(spec.seed + 1 + i for i in range(num_seeds))

    observer.on_phase("loading libraries")
    share_cores()
    from autopeft.service.preparation import prepare
    from autopeft.workers.tasks.base import TASKS

    workbench = prepare(
        spec,
        scale=scale,
        score_on="test",
        on_phase=observer.on_phase,
        on_progress=observer.on_progress,
        kept_metric=JobFolder(folder).metric,
    )
    spec = spec.model_copy(update={"training": workbench.training})
    if log.prepared is not None and log.prepared["fingerprint"] != workbench.prepared.fingerprint:
        raise JobFolderError(
            "the data changed since the search",
            hint="restore the data, or search again",
        )
    paths = JobFolder(folder)
    checkpoints = paths.root / "confirmation"
    checkpoints.mkdir(exist_ok=True)
    states = {"winner": winner, "baseline": baseline}
    measured = retrain(spec, paths.confirmation, checkpoints, workbench, states, seeds, observer)
    task = TASKS.get(workbench.prepared.task)()
    metric = workbench.prepared.metric
    answers = workbench.plan.generation
    answer_metric = None if answers is None else answers.metric.name
    jobs = {"winner": folder, "baseline": baseline_folder}
    runs = {role: [measured[role, seed] for seed in seeds] for role in states}
    finalists = {
        role: _finalist(jobs[role], states[role], seeds, runs[role], metric, answer_metric)
        for role in states
    }
    difference, interval = _compare(
        task,
        metric,
        1.0 if workbench.prepared.greater_is_better else -1.0,
        [
            [checkpoints / str(run.checkpoint) for run in runs[role]]
            for role in ("winner", "baseline")
        ],
        seed=spec.seed,
    )
    return Confirmation(
        metric=metric,
        winner=finalists["winner"],
        baseline=finalists["baseline"],
        difference=difference,
        interval=interval,
        num_test_rows=workbench.prepared.num_rows["test"],
        answer_metric=answer_metric,
        where=tuple(map(str, conditions)),
        baseline_keeps_where=keeps,
    )


def _finalist(
    job: Path,
    state: TrialState,
    seeds: tuple[int, ...],
    runs: Sequence[TrialState],
    metric: str,
    answer_metric: str | None,
) -> Finalist:
    """Return what the retrainings of one configuration, one a seed, measured at their end."""
    measured = [run.curve[-1].metrics for run in runs]
    return Finalist(
        job=job,
        state=state,
        seeds=seeds,
        scores=tuple(run.score for run in runs),
        metric_values=tuple(values[metric] for values in measured),
        answer_values=()
        if answer_metric is None
        else tuple(values[answer_metric] for values in measured),
    )


def _require_finished(log: JobLog, folder: Path) -> tuple[JobSpec, ObjectiveScale]:
    if log.spec is None or log.scale is None or not pareto_front(log.trials, log.scale):
        raise JobFolderError(
            f"the job in {str(folder)!r} has no completed trial yet",
            hint=f"finish it with `autopeft resume {folder}`",
        )
    return JobSpec.from_json(log.spec), log.scale


def _best_plain_lora(
    folder: Path, winner_log: JobLog, conditions: Sequence[Condition]
) -> tuple[TrialState, bool]:
    """Return the completed LoRA-sweep trial with the best search-validation score.

    Of those that keep all conditions, where any does, which is told too.
    """
    log = open_job(folder)
    _require_finished(log, folder)
    for part in ("fingerprint", "metric", "num_outputs"):
        ours, theirs = (job.prepared[part] for job in (winner_log, log) if job.prepared)
        if ours != theirs:
            raise JobFolderError(
                f"{str(folder)!r} is no fair baseline: its {part} differs ({theirs}, not {ours})",
                hint="run the baseline on the same job file with `--proposer lora-sweep`",
            )
    assert winner_log.spec is not None
    assert log.spec is not None
    if winner_log.spec["training"] != log.spec["training"]:
        raise JobFolderError(
            f"{str(folder)!r} is no fair baseline: its training settings differ",
            hint="run the baseline on the same job file with `--proposer lora-sweep`",
        )
    plain = [
        state
        for state in log.trials
        if state.status is TrialStatus.COMPLETED and state.trial.origin in BASELINE_ORIGINS
    ]
    if not plain:
        raise JobFolderError(
            f"no trial of the LoRA sweep was trained to the end in {str(folder)!r}",
            hint="run `autopeft search JOB.yaml --proposer lora-sweep --output DIR` and give "
            "that folder with --against",
        )
    calibration = calibration_of(log.trials)
    keeping = [state for state in plain if not misses(state, conditions, calibration)]
    return max(keeping or plain, key=lambda state: state.score), bool(keeping)


def _compare(
    task: Task,
    metric: str,
    sign: float,
    checkpoints: list[list[Path]],
    *,
    seed: int,
) -> tuple[float, tuple[float, float]]:
    """Return the mean paired difference and its interval.

    Two sources of error are added as variances: that over seeds (paired by seed; Student's t
    with one degree of freedom fewer than seeds) and that over test examples (bootstrap of the
    examples, the same ones for all runs).
    """
    from scipy.stats import t

    from autopeft.workers.checkpoints import read_outputs

    runs = [[read_outputs(path) for path in row] for row in checkpoints]
    labels = runs[0][0][1]

    def differences(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        values = [
            [
                task.predictions_to_metrics(outputs[rows], targets[rows])[metric]
                for outputs, targets in row
            ]
            for row in runs
        ]
        winner, baseline = np.array(values, dtype=np.float64)
        paired: NDArray[np.float64] = sign * (winner - baseline)
        return paired

    by_seed = differences(np.arange(len(labels)))
    mean = float(by_seed.mean())
    generator = np.random.default_rng(seed)
    draws = [
        differences(generator.integers(0, len(labels), len(labels))).mean()
        for _ in range(NUM_BOOTSTRAP)
    ]
    example_variance = float(np.nanvar(draws))
    num_seeds = len(by_seed)
    seed_variance = float(by_seed.var(ddof=1)) / num_seeds if num_seeds > 1 else 0.0
    tail = 0.5 + CONFIDENCE / 2
    factor = float(t.ppf(tail, num_seeds - 1)) if num_seeds > 1 else 0.0
    half = math.sqrt(factor**2 * seed_variance + float(t.ppf(tail, 1e9)) ** 2 * example_variance)
    return mean, (mean - half, mean + half)


def _finalist_json(finalist: Finalist, metric: str) -> dict[str, Any]:
    trial = finalist.state.trial
    return {
        "trial": trial.number,
        "configuration": trial.configuration.to_json(),
        "validation_value": finite_or_none(metric_value(finalist.state, metric)),
        "seeds": list(finalist.seeds),
        "metric_values": list(finalist.metric_values),
        "mean": finalist.mean,
        **({"answer_values": list(finalist.answer_values)} if finalist.answer_values else {}),
        **trial.costs.to_json(),
    }
