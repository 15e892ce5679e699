"""Train chosen configurations again from new seeds, to the end, and record it; resumable."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopeft.errors import WorkerError
from autopeft.records import Segment, SegmentFailed, Trial, TrialState
from autopeft.results import job_log
from autopeft.results.job_log import LogFolder
from autopeft.results.sqlite_store import SqliteStore
from autopeft.service.job_spec import JobSpec
from autopeft.service.jobs import recorded_versions
from autopeft.service.observer import Observer
from autopeft.service.running import begin_run
from autopeft.service.starting import create_executor

if TYPE_CHECKING:
    from autopeft.service.preparation import Workbench

#: What people call the finalists.
ROLES = {"winner": "winner", "baseline": "tuned LoRA"}


def retrain(
    spec: JobSpec,
    log_path: Path,
    checkpoints: Path,
    workbench: Workbench,
    finalists: dict[str, TrialState],
    seeds: Sequence[int],
    observer: Observer,
) -> dict[tuple[str, int], TrialState]:
    """Train every finalist from every seed that the log does not hold yet, without stopping.

    Args:
        spec: The job, with the training settings that were settled for it.
        log_path: Log of the retrainings, in the format of a job's.
        checkpoints: Folder for what they end with.
        workbench: Prepared with the split to score on.
        finalists: The trials to train again, by role.
        seeds: Seeds of the retrainings.
        observer: Told of all that happens.

    Returns:
        The retrained trial for each role and seed.

    Raises:
        WorkerError: a retraining failed; what was trained before is kept.
    """
    store = SqliteStore(log_path)
    try:
        run = begin_run(store)
        folder = LogFolder()
        for entry in store.read():
            folder.add(entry)

        def record(kind: str, data: dict[str, Any], message: str | None = None) -> None:
            unique = job_log.unique_fact(kind, data)
            folder.add(store.append(run, kind, data, unique=unique))
            observer.on_log(folder.state, message)

        record("job", {"spec": spec.to_json(), "versions": recorded_versions()})
        wanted = [(role, seed) for role in finalists for seed in seeds]
        numbers: dict[tuple[str, int], int] = {}
        for role, seed in wanted:
            trial = finalists[role].trial
            known = [
                state.trial.number
                for state in folder.state.trials
                if (state.trial.configuration, state.trial.seed) == (trial.configuration, seed)
            ]
            number = known[0] if known else len(folder.state.states)
            if not known:
                twin = Trial(
                    number=number,
                    configuration=trial.configuration,
                    seed=seed,
                    origin=role,
                    costs=trial.costs,
                )
                record("proposal", job_log.proposal_data(twin))
            numbers[role, seed] = number
        todo = sorted(
            {
                number
                for number in numbers.values()
                if folder.state.states[number].step < spec.training.steps
                or not (checkpoints / str(folder.state.states[number].checkpoint)).is_dir()
            }
        )
        if todo:
            _run_all(spec, checkpoints, workbench, folder, todo, record, observer)
        return {key: folder.state.states[number] for key, number in numbers.items()}
    finally:
        store.close()


def _run_all(
    spec: JobSpec,
    checkpoints: Path,
    workbench: Workbench,
    folder: LogFolder,
    todo: list[int],
    record: Any,
    observer: Observer,
) -> None:
    """Train the trials numbered ``todo`` in one go each."""
    waiting = list(todo)
    running = num_done = 0
    metric = workbench.prepared.metric
    with create_executor(spec, checkpoints, workbench) as executor:
        observer.on_phase(f"retraining: {len(todo)} runs")
        while waiting or running:
            while waiting and running < executor.num_workers:
                trial = folder.state.states[waiting.pop(0)].trial
                segment = Segment(trial=trial, from_step=0, to_step=spec.training.steps)
                executor.submit(segment)
                running += 1
            event = executor.next_event()
            if event is None:
                continue
            running -= 1
            if isinstance(event, SegmentFailed):
                raise WorkerError(
                    f"retraining {event.segment.trial.configuration} from seed "
                    f"{event.segment.trial.seed} failed: {event.kind.value}: {event.message}",
                    hint="ask again: what was trained is kept",
                )
            measurement, trial = event.measurement, event.segment.trial
            num_done += 1
            value = measurement.metrics.get(metric, measurement.score)
            record(
                "measurement",
                job_log.measurement_data(measurement),
                f"{ROLES.get(trial.origin, trial.origin)}, seed {trial.seed}: "
                f"test {metric} {value:.4f} ({num_done} of {len(todo)} runs)",
            )
