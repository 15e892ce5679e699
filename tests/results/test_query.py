"""Queries on a job: what they read, what they allow, and what they say where nothing is left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.errors import AutopeftError
from autopeft.records import MeasuredMemory
from autopeft.results.front import Constraint, pareto_front
from autopeft.results.job_log import JobLog
from autopeft.results.query import Condition, ask, memory_text, parse_conditions, pick_where
from autopeft.results.report import front_frame, front_point, summary, trials_frame
from tests.results.jobs import SCALE, Scribe, example_job, make_trial

MIB = 2**20
NAMES = (
    "accuracy", "num_trainable_parameters", "num_adapter_parameters", "train_memory_bytes",
    "adapter_file_bytes", "inference_extra_flops", "train_seconds", "f1", "retention",
)  # fmt: skip


@pytest.fixture(scope="module")
def log() -> JobLog:
    """Return a job of four completed trials: 0, 1 and 2 on the front, 3 dominated by 0."""
    return example_job().log


def numbers(states: Any) -> list[int]:
    return [state.trial.number for state in states]


@pytest.mark.parametrize(
    ("text", "name", "relation", "bound"),
    [
        ("train_memory_bytes<=24GiB", "train_memory_bytes", "<=", 24 * 2**30),
        (" memory < 80 GB ", "train_memory_bytes", "<", 80e9),
        ("train-memory-bytes>=512MiB", "train_memory_bytes", ">=", 512 * MIB),
        ("vram<=16000000000", "train_memory_bytes", "<=", 16e9),
        ("file<=1.5MB", "adapter_file_bytes", "<=", 1.5e6),
        ("num_trainable_parameters<=2M", "num_trainable_parameters", "<=", 2e6),
        ("params > 500k", "num_trainable_parameters", ">", 5e5),
        ("Parameters<=2,000,000", "num_trainable_parameters", "<=", 2e6),
        ("adapter parameters<7_000", "num_adapter_parameters", "<", 7000.0),
        ("extra FLOPs<=0", "inference_extra_flops", "<=", 0.0),
        ("extra_flops<=2G", "inference_extra_flops", "<=", 2e9),
        ("time<90s", "train_seconds", "<", 90.0),
        ("accuracy>=0.8", "accuracy", ">=", 0.8),
        ("retention<=-0.25", "retention", "<=", -0.25),
        ("F1>.5", "f1", ">", 0.5),
    ],
)
def test_a_condition_is_read(text: str, name: str, relation: str, bound: float) -> None:
    (condition,) = parse_conditions(text, NAMES)

    assert condition == Condition(name=name, relation=relation, bound=bound)


def test_several_conditions_are_read() -> None:
    together = parse_conditions("memory<=24GiB and params<=2M && f1>0.5", NAMES)

    assert together == parse_conditions(["memory<=24GiB", "params<=2M", "f1>0.5"], NAMES)
    assert len(together) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train_memroy_bytes<=1GiB", "did you mean 'train_memory_bytes'"),
        ("paramters<=1M", "did you mean 'parameters'"),
        (
            "xyzzy<=1",
            "'xyzzy' is neither a cost nor a metric of this job\nhint: known are accuracy",
        ),
        ("accuracy", "expected a name, a relation and a number, got 'accuracy'"),
        ("<=3", "expected a name, a relation and a number, got '<=3'"),
        ("", "expected a name, a relation and a number, got ''"),
        ("accuracy=0.8", "unknown relation '=' in 'accuracy=0.8'; expected <=, >=, < or >"),
        ("accuracy=<0.8", "unknown relation '=<'"),
        ("accuracy>=", "names no number"),
        ("accuracy>=80%", "accuracy: expected a number such as 0.25, got '80%'"),
        ("accuracy>=nan", "accuracy: expected a finite number, got 'nan'"),
        ("memory<=24", "expected a size with its unit such as 24GiB or 80GB, got '24'"),
        ("memory<=24Gi", "train_memory_bytes: expected a size such as 24GiB or 80GB, got '24Gi'"),
        ("params<=2GiB", "num_trainable_parameters: expected a number such as 2M, 500k"),
        ("params<=-3", "num_trainable_parameters: expected a number such as 2M, 500k"),
        ("params<=1,0", "num_trainable_parameters: expected a number such as 2M, 500k"),
        ("memory<=1GiB and ", "expected a name, a relation and a number, got ''"),
        ("memory<=1GiB && ", "expected a name, a relation and a number, got ' '"),
    ],
)
def test_a_wrong_condition_is_refused(text: str, said: str) -> None:
    with pytest.raises(AutopeftError, match=said) as caught:
        parse_conditions(text, NAMES)
    assert caught.value.hint


def test_a_cost_that_no_trial_has_cannot_be_asked_for(log: JobLog) -> None:
    with pytest.raises(AutopeftError, match="no trial of this job has train_seconds") as caught:
        ask(log, "seconds<100")

    assert "accuracy, num_trainable_parameters" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("where", "allowed", "front"),
    [
        ("params<=1M", [0, 1, 2, 3], [0, 1, 2]),
        ("params<=40k", [1, 2], [1, 2]),
        ("params<40k", [2], [2]),
        # What only trials outside the limits dominate is on the front of the others.
        ("params>900k", [3], [3]),
        ("params>=900k", [0, 3], [0]),
        ("accuracy<0.92", [1, 2, 3], [1, 2]),
        ("f1>=0.84 and memory>=250MiB", [0, 3], [0]),
    ],
)
def test_the_front_is_that_of_the_trials_that_keep_all(
    log: JobLog, where: str, allowed: list[int], front: list[int]
) -> None:
    answer = ask(log, where)

    assert numbers(answer.allowed) == allowed
    assert numbers(answer.front) == front
    assert answer.best.trial.number == front[0]
    assert answer.num_completed == 4


@given(
    trials=st.lists(
        st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(0, 20)),
        min_size=1,
        max_size=12,
    ),
    bound=st.integers(1, 40),
)
def test_an_upper_limit_on_an_objective_brings_nothing_new(
    trials: list[tuple[int, int, int]], bound: int
) -> None:
    """What dominates an allowed trial has no more parameters, so it is allowed too."""
    scribe = Scribe()
    scribe.prepared()
    for number, (parameters, memory, score) in enumerate(trials):
        trial = make_trial(number, parameters=1000 * parameters, memory=MIB * memory)
        scribe.completed(trial, (score / 20,))
    log = scribe.log
    if all(parameters > bound for parameters, _, _ in trials):
        with pytest.raises(AutopeftError, match="no completed trial keeps"):
            ask(log, f"params<={bound}k")
        return
    whole = pareto_front(log.trials, SCALE)
    kept = [s for s in whole if s.costs.num_trainable_parameters <= 1000 * bound]

    assert numbers(ask(log, f"params<={bound}k").front) == numbers(kept)


def measured_job() -> JobLog:
    """Return trials predicted at 100 MiB each, of which 0 to 3 were measured at 110 to 140."""
    scribe = Scribe()
    scribe.prepared()
    for number in range(6):
        trial = make_trial(number, memory=100 * MIB, parameters=1000 * (number + 1))
        scribe.propose(trial)
        peak = (110 + 10 * number) * MIB if number < 4 else None
        memory = (
            None
            if peak is None
            else MeasuredMemory(kind="accounted", peak_bytes=peak, base_bytes=MIB)
        )
        scribe.measure(number, 96, 0.5 + 0.05 * number, memory_bytes=peak, memory=memory)
        scribe.decide(number, "complete")
    return scribe.log


def test_memory_is_measured_where_it_was_and_calibrated_elsewhere() -> None:
    log = measured_job()
    points = {s.trial.number: front_point(log, s) for s in log.trials}
    calibrated = points[5]["expected_memory_bytes"]

    # Half of the logarithm of the median ratio, between 1.2 and 1.3, as four were measured.
    assert calibrated == pytest.approx(100 * MIB * (1.2 * 1.3) ** 0.25, rel=1e-6)
    assert points[5]["expected_memory_source"] == "calibrated"
    assert points[0]["expected_memory_source"] == "measured"
    assert numbers(ask(log, "memory<=1GiB").allowed) == [0, 1, 2, 3, 4, 5]
    assert numbers(ask(log, "memory<=120MiB").allowed) == [0, 1, 4, 5]
    assert numbers(ask(log, "memory<=111MiB").allowed) == [0]
    told = memory_text(ask(log, "memory<=120MiB"))
    assert told is not None
    assert "measured peak of 2, of the other 2 the prediction times 1.118" in told


def test_memory_that_nothing_measured_is_said_to_be_predicted(log: JobLog) -> None:
    told = memory_text(ask(log, "memory<=250MiB"))

    # Trial 5 of this job was measured and paused.
    assert told is not None
    assert told.startswith(
        "Memory counted: the prediction times 1.084, as measured trials ask for;"
    )
    assert told.endswith("none of these trials was measured.")
    assert memory_text(ask(log, "params<=1M")) is None


def test_what_is_not_known_keeps_no_limit() -> None:
    scribe = Scribe()
    scribe.prepared()
    for number, metrics in enumerate([{"accuracy": 0.9}, {"accuracy": 0.8, "rouge": 0.3}]):
        scribe.propose(make_trial(number))
        scribe.measure(number, 96, metrics["accuracy"], metrics=metrics)
        scribe.decide(number, "complete")

    assert numbers(ask(scribe.log, "rouge<1").allowed) == [1]
    assert numbers(ask(scribe.log, "rouge>=0").allowed) == [1]
    with pytest.raises(AutopeftError, match=r"trial 0 does not keep.*rouge was not measured"):
        pick_where(scribe.log, 0, "rouge<1")


def test_the_jobs_own_limits_stay_in_force() -> None:
    scribe = Scribe()
    limit = Constraint(name="num_trainable_parameters", maximum=50_000)
    scribe.prepared(replace(SCALE, constraints=(limit,)))
    scribe.completed(make_trial(0, parameters=60_000), (0.9,))
    with pytest.raises(AutopeftError, match="the job's own constraints: num_trainable_param"):
        ask(scribe.log, "accuracy>0.1")
    scribe.completed(make_trial(1, parameters=40_000), (0.8,))

    assert numbers(ask(scribe.log, "accuracy>0.1").allowed) == [1]
    with pytest.raises(AutopeftError, match=r"trial 0 does not keep .*: num_trainable_parameters"):
        pick_where(scribe.log, 0, "accuracy>0.1")


def test_where_nothing_is_left_the_nearest_is_named_and_what_it_lacks(log: JobLog) -> None:
    with pytest.raises(AutopeftError) as caught:
        ask(log, ["memory<=200MiB", "accuracy>=0.75"])

    # Trial 2 lacks 0.05 of 0.75, trial 1 has 39 MiB of 200 too much: 7 % and 19 %.
    assert caught.value.message == (
        "no completed trial keeps train_memory_bytes <= 200 MiB and accuracy >= 0.75; the nearest "
        "of 4 is trial 2: accuracy is 0.7, 0.05 too little"
    )
    with pytest.raises(AutopeftError, match=r"trial 1: .* is 239 MiB \(calibrated\), 8.58 MiB too"):
        ask(log, ["memory<=230MiB", "accuracy>=0.8"])
    with pytest.raises(AutopeftError, match=r"trial 2: num_trainable_parameters is exactly 2.00 k"):
        ask(log, "params<2000")


def test_a_job_without_a_completed_trial_has_nothing_to_ask_for() -> None:
    scribe = Scribe()
    scribe.prepared()
    scribe.propose(make_trial(0))
    for log in (JobLog(), scribe.log):
        with pytest.raises(AutopeftError, match="no trial has completed yet"):
            ask(log, "accuracy>0")


@pytest.mark.parametrize(
    ("which", "where", "number"),
    [
        ("best", (), 0),
        ("best", "params<=50k", 1),
        ("smallest", "accuracy>=0.8", 1),
        ("knee", "params>=900k", 0),
        (3, "params>=900k", 3),
        ("3", ["params>=900k"], 3),
    ],
)
def test_a_pick_keeps_the_limits(log: JobLog, which: Any, where: Any, number: int) -> None:
    assert pick_where(log, which, where).trial.number == number


def test_a_number_that_does_not_keep_the_limits_is_refused(log: JobLog) -> None:
    with pytest.raises(
        AutopeftError,
        match=r"trial 0 does not keep num_trainable_parameters <= 50.0 k: "
        r"num_trainable_parameters is 900 k, 850 k too much",
    ) as caught:
        pick_where(log, 0, "params<=50k")

    assert caught.value.hint == "trials that do: 1, 2"


def test_summary_and_frames_tell_of_what_is_allowed(log: JobLog) -> None:
    answer = ask(log, "params>=900k")
    told = summary(log, answer)

    assert told["where"] == {
        "conditions": [
            {"name": "num_trainable_parameters", "relation": ">=", "bound": 900_000.0}
        ],
        "num_keeping": 2,
        "num_completed": 4,
        "trials": [0, 3],
        "best": 0,
    }  # fmt: skip
    assert [point["trial"] for point in told["front"]] == [0]
    assert "where" not in summary(log)
    assert list(front_frame(log, answer)["trial"]) == [0]
    assert trials_frame(log, answer)[["trial", "on_front"]].to_numpy().tolist() == [
        [0, True], [3, False]
    ]  # fmt: skip
