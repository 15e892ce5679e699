"""What ``autopeft confirm`` prints."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from autopeft.cli import confirming
from autopeft.records import Costs, Trial, TrialState, TrialStatus
from autopeft.service.confirmation import Confirmation, Finalist
from tests.results.jobs import make_measurement
from tests.workers import tiny


def finalist(
    number: int, answers: tuple[float, ...], seeds: tuple[int, ...] = (1, 2), method: str = "lora"
) -> Finalist:
    costs = Costs(num_trainable_parameters=10, num_adapter_parameters=5, train_memory_bytes=2**20)
    chosen = tiny.configuration(method)
    trial = Trial(number=number, configuration=chosen, seed=0, origin="sobol", costs=costs)
    measured = make_measurement(number, 8, -5.25, metrics={"loss": 5.25})
    state = TrialState(trial=trial, status=TrialStatus.COMPLETED, curve=(measured,))
    return Finalist(
        job=Path("job"),
        state=state,
        seeds=seeds,
        scores=(-1.0, -2.0)[: len(seeds)],
        metric_values=(1.0, 2.0)[: len(seeds)],
        answer_values=answers,
    )


@pytest.mark.parametrize("has_answers", [False, True])
def test_the_jobs_own_metric_is_told_where_there_is_one(has_answers: bool) -> None:
    result = Confirmation(
        metric="loss",
        winner=finalist(0, (0.5, 0.75) if has_answers else ()),
        baseline=finalist(1, (0.25, 0.25) if has_answers else ()),
        difference=0.0,
        interval=(-1.0, 1.0),
        num_test_rows=4,
        answer_metric="exact_match" if has_answers else None,
    )
    file = io.StringIO()
    confirming._print(result, Console(file=file, width=200))
    line = (
        "Generated answers, exact_match: winner 0.6250 (0.5000 0.7500); "
        "tuned LoRA 0.2500 (0.2500 0.2500)"
    )

    assert (line in file.getvalue()) is has_answers
    assert " 5.2500 " in file.getvalue()
    assert "-5.25" not in file.getvalue()
    assert (result.to_json().get("answer_metric") == "exact_match") is has_answers
    assert ("answer_values" in result.to_json()["winner"]) is has_answers
    # As the metric gives it, where the score of a loss is its negative.
    assert result.to_json()["winner"]["validation_value"] == 5.25


@pytest.mark.parametrize(
    ("keeps", "said"),
    [
        (True, "Asked for: accuracy >= 0.5 and f1 > 0.25; the tuned LoRA keeps it too."),
        (False, "no tuned LoRA keeps it, so the winner stands against the best of all."),
    ],
)
def test_limits_are_told(keeps: bool, said: str) -> None:
    result = Confirmation(
        metric="loss",
        winner=finalist(0, ()),
        baseline=finalist(1, ()),
        difference=0.0,
        interval=(-1.0, 1.0),
        num_test_rows=4,
        where=("accuracy >= 0.5", "f1 > 0.25"),
        baseline_keeps_where=keeps,
    )
    file = io.StringIO()
    confirming._print(result, Console(file=file, width=200))

    assert said in file.getvalue()
    assert result.to_json()["where"] == ["accuracy >= 0.5", "f1 > 0.25"]
    assert result.to_json()["baseline_keeps_where"] is keeps


@pytest.mark.parametrize(
    ("seeds", "interval", "over", "verdict"),
    [
        ((1, 2), (0.1, 0.3), "over seeds and test rows.", "the winner is better than the tuned"),
        (
            (1,),
            (0.1, 0.3),
            "over test rows only; one seed says nothing about the spread over seeds.",
            "from this one seed the winner came out better than the tuned LoRA",
        ),
        (
            (1,),
            (-0.3, -0.1),
            "over test rows only;",
            "from this one seed the winner came out worse",
        ),
        ((1,), (-0.1, 0.1), "over test rows only;", "no difference between winner and tuned LoRA"),
    ],
)
def test_one_seed_says_nothing_about_seeds(
    seeds: tuple[int, ...], interval: tuple[float, float], over: str, verdict: str
) -> None:
    result = Confirmation(
        metric="loss",
        winner=finalist(0, (), seeds, "mixture"),
        baseline=finalist(1, (), seeds),
        difference=sum(interval) / 2,
        interval=interval,
        num_test_rows=4,
    )
    file = io.StringIO()
    confirming._print(result, Console(file=file, width=100))

    assert f"] {over}" in file.getvalue()
    assert f"Verdict: {verdict}" in file.getvalue()
    assert ("seeds" in result.to_json()["interval_over"]) is (len(seeds) > 1)
