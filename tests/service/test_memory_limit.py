"""A search whose workers have too little memory for a part of its space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autopeft.errors import InvalidJobError
from autopeft.records import Trial, TrialStatus
from autopeft.results.job_log import JobLog
from autopeft.results.limits import left_out_text, limit_lines, limits_of
from autopeft.results.memory_limit import WORKER_MEMORY
from autopeft.search_spaces.space import load_space
from autopeft.service.feasibility import check_memory
from autopeft.service.job_training import job_training
from autopeft.service.observer import SilentObserver
from autopeft.service.running import resume_job, run_job
from autopeft.workers.settings import TrainingSettings
from tests.search_spaces.shapes import bert_shape
from tests.service.fake_job import FakeJob, KilledError, Memory, fake_costs, make_spec

NUM_TRIALS = 30
#: So many that memory differs between configurations by far more than a prediction may err.
BYTES_PER_PARAMETER = 2000
SPACE = load_space("default", bert_shape(num_layers=4), base=Path())
PREDICTED = np.array(
    [
        cost.train_memory_bytes
        for cost in fake_costs(SPACE, BYTES_PER_PARAMETER)(list(SPACE.sobol(256, seed=3)))
    ]
)
#: A third of the space needs more.
THERE = int(np.quantile(PREDICTED, 2 / 3))


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> FakeJob:
    fake = FakeJob(monkeypatch)
    fake.bytes_per_parameter = BYTES_PER_PARAMETER
    return fake


def run(job: FakeJob, folder: Path, proposer: str) -> JobLog:
    spec = make_spec(folder, **{"proposer": proposer, "budget.trials": NUM_TRIALS})
    return run_job(spec, folder, observer=SilentObserver())


def infeasible(log: JobLog) -> list[Trial]:
    return [s.trial for s in log.trials if s.status is TrialStatus.INFEASIBLE]


@pytest.mark.parametrize("proposer", ["random", "mobo"])
def test_what_does_not_fit_is_never_sent(job: FakeJob, tmp_path: Path, proposer: str) -> None:
    job.memory = Memory(there=THERE, needed=lambda trial: trial.costs.train_memory_bytes)
    job.memory_bytes = THERE
    log = run(job, tmp_path / "run", proposer)
    assert len(log.states) == NUM_TRIALS
    assert infeasible(log) == []
    assert all(state.costs.train_memory_bytes <= THERE for state in log.trials)


def test_without_a_limit_a_third_runs_out_of_memory(job: FakeJob, tmp_path: Path) -> None:
    """What the test above would find if nothing were held back."""
    job.memory = Memory(there=THERE, needed=lambda trial: trial.costs.train_memory_bytes)
    log = run(job, tmp_path / "run", "random")
    assert len(infeasible(log)) >= NUM_TRIALS // 5


@pytest.mark.parametrize("factor", [1.15, 1.5])
def test_wrong_predictions_are_found_out(job: FakeJob, tmp_path: Path, factor: float) -> None:
    """Every trial needs more than predicted: those measured and those that failed teach it."""
    there = int(THERE * factor)
    job.memory = Memory(there=there, needed=lambda trial: factor * trial.costs.train_memory_bytes)
    job.memory_bytes = there
    log = run(job, tmp_path / "run", "random")
    failed = infeasible(log)
    assert len(failed) <= 0.1 * NUM_TRIALS
    assert all(trial.number < NUM_TRIALS // 2 for trial in failed)


def test_running_out_of_memory_teaches_of_the_methods_that_did(
    job: FakeJob, tmp_path: Path
) -> None:
    """Serial adapters need twice what is predicted, which only failing tells near the limit."""

    def needed(trial: Trial) -> float:
        is_lora = "lora" in trial.configuration.methods
        return (1.3 if is_lora else 1.0) * trial.costs.train_memory_bytes

    job.memory, job.memory_bytes = Memory(there=THERE, needed=needed), THERE
    log = run(job, tmp_path / "run", "random")
    failed = infeasible(log)
    assert all("lora" in trial.configuration.methods for trial in failed)
    assert len(failed) <= 0.15 * NUM_TRIALS
    trained = [s for s in log.trials if s.status is TrialStatus.COMPLETED]
    assert any("lora" not in s.trial.configuration.methods for s in trained)


def test_kills_change_nothing(job: FakeJob, tmp_path: Path) -> None:
    job.memory = Memory(there=THERE, needed=lambda trial: 1.2 * trial.costs.train_memory_bytes)
    job.memory_bytes = THERE
    whole = run(job, tmp_path / "whole", "random")
    for kill in (9, 25, 60):
        folder = tmp_path / f"killed-{kill}"
        job.kill_after(kill)
        with pytest.raises(KilledError):
            run(job, folder, "random")
        memory, limit = job.memory, job.memory_bytes
        job.live()
        job.memory, job.memory_bytes = memory, limit
        job.bytes_per_parameter = BYTES_PER_PARAMETER
        log = resume_job(folder, observer=SilentObserver())
        assert [s.trial.configuration for s in log.trials] == [
            s.trial.configuration for s in whole.trials
        ]
        assert [s.status for s in log.trials] == [s.status for s in whole.trials]
        assert log.limits == whole.limits


def test_it_is_told_which_limit_bound(job: FakeJob, tmp_path: Path) -> None:
    job.memory = Memory(there=THERE, needed=lambda trial: trial.costs.train_memory_bytes)
    job.memory_bytes = THERE
    log = run(job, tmp_path / "run", "random")
    (limit,) = limits_of(log)
    assert limit["name"] == WORKER_MEMORY
    assert limit["left_out"] == pytest.approx(1 / 3, abs=0.08)
    assert 0.0 < limit["used"] <= 1.0
    # Of the points that the sequence yields, about a third is turned down.
    assert 5 <= limit["num_turned_down"] <= 20
    (line,) = limit_lines(log)
    assert line.startswith("workers.memory <= ")
    assert f"leaves {limit['left_out']:.0%} of the space out" in line
    assert f"it changed {limit['num_turned_down']} proposals" in line
    assert line.endswith("; it bound.")


def test_a_limit_that_is_never_met_did_not_bind(job: FakeJob, tmp_path: Path) -> None:
    job.memory_bytes = int(100 * PREDICTED.max())
    log = run(job, tmp_path / "run", "mobo")
    (line,) = limit_lines(log)
    assert "leaves nothing of the space out" in line
    assert line.endswith("it did not bind.")


def test_a_worker_that_nothing_fits_into_is_refused() -> None:
    costs = fake_costs(SPACE, BYTES_PER_PARAMETER)
    wanted = r"a worker has 1 MiB of memory: .* needs about 9\d\.\d+ MiB"
    with pytest.raises(InvalidJobError, match=wanted) as caught:
        check_memory(
            SPACE,
            (),
            lambda several: [each.train_memory_bytes for each in costs(several)],
            worker_bytes=2**20,
        )
    assert caught.value.hint == (
        "raise workers.memory, lower training.batch_size or training.max_tokens, set "
        "training.gradient_checkpointing: true or raise training.gradient_accumulation"
    )


@pytest.mark.parametrize(
    ("searched", "own", "hint"),
    [
        (
            {"gradient_checkpointing": [False, True]},
            {"batch_size": 8},
            "raise workers.memory, lower training.batch_size or training.max_tokens or raise "
            "training.gradient_accumulation",
        ),
        (
            {"gradient_checkpointing": [False, True], "batch_size": [4, 8]},
            {"batch_size": 8, "gradient_accumulation": 4},
            "raise workers.memory or lower the values of space.training.batch_size or "
            "training.max_tokens",
        ),
        (
            {"gradient_checkpointing": [False, True]},
            {"batch_size": 1},
            "raise workers.memory or lower training.max_tokens",
        ),
    ],
    ids=["checkpointing-searched", "all-but-size-used", "one-example"],
)
def test_advice_names_only_what_is_not_used_yet(
    searched: dict[str, list[Any]], own: dict[str, Any], hint: str
) -> None:
    settings = TrainingSettings(steps=4, **own)
    described = {"methods": {"ia3": None}, "training": searched}
    space = load_space(described, bert_shape(), training=job_training(settings))
    with pytest.raises(InvalidJobError, match="a worker has 1 MiB of memory") as caught:
        check_memory(
            space,
            (),
            lambda several: [2.0**21 for _ in several],
            worker_bytes=2**20,
            training=settings,
        )
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("alone", "text"),
    [
        (0.1, "leaves 34% of the space out, 10% that no other limit does"),
        (0.34, "leaves 34% of the space out"),
    ],
)
def test_what_a_limit_alone_leaves_out_is_told(alone: float, text: str) -> None:
    assert left_out_text({"left_out": 0.34, "left_out_alone": alone}) == text
