"""Ray Tune's guests: their contracts without Ray running, and one search with it."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher

from autopeft.errors import AutopeftError
from autopeft.integrations.asked import config_of
from autopeft.integrations.ray_tune import PeftScheduler, PeftSearcher
from autopeft.integrations.study import PeftStudy
from autopeft.records import TrialState, TrialStatus
from autopeft.search_spaces.space import load_space
from autopeft.stoppers.base import Action, Decision
from autopeft.stoppers.halving import HalvingStopper
from tests.integrations.guests import make_study
from tests.proposers.synthetic_job import MAX_STEPS, Landscape, bert_shape, default_landscape

LANDSCAPE = default_landscape()
FIRST = MAX_STEPS // 4


class FakeTrial:
    """What the scheduler looks at of one of Tune's trials."""

    def __init__(self, trial_id: str, status: str = Trial.PENDING) -> None:
        self.trial_id = trial_id
        self.status = status

    def is_finished(self) -> bool:
        return self.status in (Trial.TERMINATED, Trial.ERROR)


class FakeController:
    """What the scheduler may ask of Tune's controller."""

    def __init__(self, searcher: PeftSearcher, trials: list[FakeTrial]) -> None:
        self.searcher = searcher
        self.trials = trials
        self.is_done = False
        self.search_alg = self

    def is_finished(self) -> bool:
        return self.is_done

    def get_trials(self) -> list[FakeTrial]:
        return self.trials

    def stop_trial(self, trial: FakeTrial) -> None:
        self.searcher.on_trial_complete(trial.trial_id)
        trial.status = Trial.TERMINATED


def result_at(step: int, value: float, **more: Any) -> dict[str, Any]:
    return {"training_iteration": step, "accuracy": value, "time_total_s": step / 10, **more}


def test_suggestion_holds_plain_values() -> None:
    searcher = PeftSearcher(make_study(LANDSCAPE))
    found = searcher.suggest("a")
    assert isinstance(found, dict)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    configuration = searcher.study.trial(0).trial.configuration
    assert found["learning_rate"] == configuration.learning_rate
    assert found["modules"] == configuration.to_json()["modules"]
    assert config_of(found["peft_config"]) == searcher.study.asked(0).peft_config


def test_several_adapters_come_by_method() -> None:
    together = {"methods": {"lora": {}, "beft": {}}, "combine": "all"}
    searcher = PeftSearcher(make_study(Landscape(space=load_space(together, bert_shape()))))
    found = searcher.suggest("a")
    assert isinstance(found, dict)
    assert found["peft_config"] is None
    assert set(found["peft_configs"]) == {"lora", "beft"}
    with pytest.raises(AutopeftError, match="takes several PEFT adapters"):
        _ = searcher.study.asked(0).peft_config


def test_searcher_alone_learns_from_results() -> None:
    searcher = PeftSearcher(make_study(LANDSCAPE))
    for name in "abcd":
        searcher.suggest(name)
    searcher.on_trial_result("a", result_at(FIRST, 0.6))
    searcher.on_trial_complete("a", result_at(MAX_STEPS, 0.8))
    searcher.on_trial_complete("b", result_at(FIRST, 0.5))
    searcher.on_trial_complete("c", error=True)
    searcher.on_trial_result("d", {"training_iteration": FIRST})
    searcher.on_trial_result("d", result_at(FIRST, float("nan")))
    statuses = [state.status.value for state in searcher.study.trials]
    assert statuses == ["completed", "stopped", "failed", "diverged"]
    assert [m.step for m in searcher.study.trial(0).curve] == [FIRST, MAX_STEPS]
    assert searcher.study.trial(1).score == 0.5
    searcher.on_trial_complete("stranger", result_at(1, 0.5))


def test_time_may_have_another_name() -> None:
    searcher = PeftSearcher(make_study(LANDSCAPE), time_attr="optimizer_steps")
    searcher.suggest("a")
    searcher.on_trial_result("a", result_at(1, 0.6, optimizer_steps=FIRST))
    assert searcher.study.trial(0).step == FIRST


def test_finished_where_nothing_is_left() -> None:
    settings = {
        "sites": "all", "rank": 4, "alpha_ratio": 2.0, "dora": False, "rslora": False,
        "placement": "all", "learning_rate": 0.001,
    }  # fmt: skip
    space = load_space({"methods": {"lora": settings}}, bert_shape())
    searcher = PeftSearcher(make_study(Landscape(space=space)))
    assert isinstance(searcher.suggest("a"), dict)
    assert searcher.suggest("b") == Searcher.FINISHED


def test_limit_on_trials_under_way_passes_over_paused_ones() -> None:
    searcher = PeftSearcher(make_study(LANDSCAPE))
    limited = ConcurrencyLimiter(searcher, max_concurrent=2)
    scheduler = PeftScheduler(limited)
    for name in "ab":
        assert isinstance(limited.suggest(name), dict)
    assert limited.suggest("c") is None
    for name, following in (("a", "c"), ("b", "d"), ("c", "e"), ("d", "f")):
        limited.on_trial_result(name, result_at(FIRST, 0.8))
        limited.on_trial_complete(name, result_at(MAX_STEPS, 0.9))
        assert isinstance(limited.suggest(following), dict)
    assert searcher.num_under_way == 2
    controller: Any = FakeController(searcher, [])
    trial: Any = FakeTrial("f", Trial.RUNNING)
    answer = scheduler.on_trial_result(
        controller, trial, result_at(FIRST, 0.1, should_checkpoint=True)
    )
    assert answer == TrialScheduler.PAUSE
    assert searcher.num_under_way == 1
    assert isinstance(limited.suggest("g"), dict)


def test_state_is_json_and_goes_on(tmp_path: Path) -> None:
    searcher = PeftSearcher(make_study(LANDSCAPE))
    for name in "ab":
        searcher.suggest(name)
    searcher.on_trial_result("a", result_at(FIRST, 0.6))
    searcher.save_to_dir(str(tmp_path), "now")
    (path,) = tmp_path.iterdir()
    assert path.name == "searcher-state-now.json"
    json.loads(path.read_text())
    other = PeftSearcher(make_study(LANDSCAPE))
    other.restore_from_dir(str(tmp_path))
    assert other.get_state() == searcher.get_state()
    assert other.number_of("b") == 1
    assert other.suggest("c") == searcher.suggest("c")


def test_scheduler_s_state_is_the_study_s(tmp_path: Path) -> None:
    searcher = PeftSearcher(make_study(LANDSCAPE))
    searcher.suggest("a")
    PeftScheduler(searcher).save(str(tmp_path / "scheduler.json"))
    other = PeftSearcher(make_study(LANDSCAPE))
    PeftScheduler(other).restore(str(tmp_path / "scheduler.json"))
    assert other.study.state() == searcher.study.state()


@pytest.mark.parametrize(
    ("metric", "mode", "agree"),
    [(None, None, True), ("accuracy", "max", True), ("loss", None, False), (None, "min", False)],
)
def test_metric_and_mode_are_the_study_s(metric: str | None, mode: str | None, agree: bool) -> None:
    searcher = PeftSearcher(make_study(LANDSCAPE))
    assert (searcher.metric, searcher.mode) == ("accuracy", "max")
    assert searcher.set_search_properties(metric, mode, {}) is agree
    assert PeftScheduler(searcher).set_search_properties(metric, mode) is agree


def test_scheduler_wants_its_own_searcher() -> None:
    with pytest.raises(AutopeftError, match="judges what PeftSearcher proposed"):
        PeftScheduler(Searcher(metric="accuracy", mode="max"))
    searcher = PeftSearcher(make_study(LANDSCAPE))
    controller: Any = FakeController(searcher, [])
    stranger: Any = FakeTrial("stranger")
    with pytest.raises(AutopeftError, match="was not proposed by this scheduler's PeftSearcher"):
        PeftScheduler(searcher).on_trial_add(controller, stranger)


def begun(num_good: int = 5) -> tuple[PeftSearcher, list[FakeTrial], Any]:
    """Return a searcher with so many good trials at the first rung, and their controller."""
    searcher = PeftSearcher(make_study(LANDSCAPE))
    trials = [FakeTrial(str(number), Trial.RUNNING) for number in range(num_good)]
    for trial in trials:
        searcher.suggest(trial.trial_id)
        searcher.on_trial_result(trial.trial_id, result_at(FIRST, 0.9))
    return searcher, trials, FakeController(searcher, trials)


@pytest.mark.parametrize(
    ("pauses", "has_checkpoint", "answer"),
    [
        (None, True, TrialScheduler.PAUSE),
        (None, False, TrialScheduler.STOP),
        (True, False, TrialScheduler.PAUSE),
        (False, True, TrialScheduler.STOP),
    ],
)
def test_waiting_is_pausing_where_a_trial_can_be_resumed(
    pauses: bool | None, has_checkpoint: bool, answer: str
) -> None:
    searcher, trials, controller = begun()
    scheduler = PeftScheduler(searcher, pauses=pauses)
    searcher.suggest("bad")
    trial: Any = FakeTrial("bad", Trial.RUNNING)
    trials.append(trial)
    result = result_at(FIRST, 0.1, should_checkpoint=has_checkpoint)
    assert scheduler.on_trial_result(controller, trial, result) == answer
    # Tune tells its searcher of the same result.
    searcher.on_trial_result("bad", result)
    is_paused = answer == TrialScheduler.PAUSE
    status = TrialStatus.PAUSED if is_paused else TrialStatus.STOPPED
    assert searcher.study.trial(5).status is status
    told = scheduler.debug_string()
    assert f"1 {status.value}" in told


def test_last_step_ends_a_trial() -> None:
    searcher, trials, controller = begun(1)
    scheduler = PeftScheduler(searcher)
    trial: Any = trials[0]
    assert scheduler.on_trial_result(controller, trial, {"other": 1}) == TrialScheduler.CONTINUE
    answer = scheduler.on_trial_result(controller, trial, result_at(MAX_STEPS, 0.9))
    assert answer == TrialScheduler.STOP
    assert searcher.study.trial(0).status is TrialStatus.COMPLETED


def test_trial_that_tune_tries_again_goes_on() -> None:
    searcher, trials, controller = begun(1)
    scheduler = PeftScheduler(searcher)
    trial: Any = trials[0]
    scheduler.on_trial_error(controller, trial)
    searcher.on_trial_complete(trial.trial_id, error=True)
    assert searcher.study.trial(0).status is TrialStatus.FAILED
    answer = scheduler.on_trial_result(controller, trial, result_at(MAX_STEPS // 2, 0.9))
    assert answer == TrialScheduler.CONTINUE
    assert searcher.study.trial(0).status is TrialStatus.RUNNING


def test_promoted_trial_runs_first_and_what_waits_in_the_end_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searcher, trials, controller = begun()
    scheduler = PeftScheduler(searcher, pauses=True)
    for name, value in (("x", 0.6), ("y", 0.1)):
        searcher.suggest(name)
        waits: Any = FakeTrial(name, Trial.RUNNING)
        trials.append(waits)
        assert scheduler.on_trial_result(controller, waits, result_at(FIRST, value)) == "PAUSE"
        waits.status = Trial.PAUSED
    searcher.suggest("z")
    trials.append(FakeTrial("z"))
    assert scheduler.choose_trial_to_run(controller) is trials[-1]
    for trial in trials[:5]:
        searcher.on_trial_result(trial.trial_id, result_at(FIRST + 1, float("nan")))
        trial.status = Trial.TERMINATED
    assert scheduler.choose_trial_to_run(controller) is trials[5]
    assert scheduler.choose_trial_to_run(controller) is trials[5]
    assert searcher.study.trial(5).status is TrialStatus.RUNNING
    trials[5].status = Trial.RUNNING
    assert scheduler.choose_trial_to_run(controller) is trials[-1]
    for trial in (trials[5], trials[-1]):
        searcher.on_trial_complete(trial.trial_id, result_at(MAX_STEPS, 0.9))
        trial.status = Trial.TERMINATED
    monkeypatch.setattr(searcher.study, "promote", lambda among: None)
    waiting = trials[6]
    assert waiting.status == Trial.PAUSED
    assert scheduler.choose_trial_to_run(controller) is None
    assert waiting.status == Trial.PAUSED
    controller.is_done = True
    assert scheduler.choose_trial_to_run(controller) is None
    assert waiting.status == Trial.TERMINATED
    assert searcher.study.trial(6).status is TrialStatus.STOPPED
    assert searcher.study.trial(6).reason.startswith("still paused when the search ended: ")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        configure_logging=False,
    )  # fmt: skip
    yield
    ray.shutdown()


class WaitOnce(HalvingStopper):
    """Pause every trial at the first rung, and promote each of them once."""

    def decide(self, state: TrialState, others: Sequence[TrialState]) -> Decision:
        action = Action.PAUSE if len(state.curve) == 1 else Action.CONTINUE
        return Decision(action=action, reason="everyone waits once")

    def promote(self, states: Sequence[TrialState]) -> tuple[int, str] | None:
        paused = [s.trial.number for s in states if s.status is TrialStatus.PAUSED]
        return (paused[0], "its turn") if paused else None


def toy(config: dict[str, Any]) -> None:
    """Report a made-up curve, from a checkpoint on where there is one."""
    begin = 0
    known = tune.get_checkpoint()
    if known is not None:
        with known.as_directory() as folder:
            begin = int(Path(folder, "step").read_text())
    height = 0.6 + 0.3 / (1 + abs(math.log10(config["learning_rate"]) + 3))
    for step in range(begin + 12, MAX_STEPS + 1, 12):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "step").write_text(str(step))
            tune.report(
                {
                    "accuracy": height * (1 - math.exp(-step / 20)),
                    "steps": step,
                    "resumed_at": begin,
                },
                checkpoint=tune.Checkpoint.from_directory(folder),
            )


def search(study: PeftStudy, folder: Path, trials: int) -> dict[int, dict[str, Any]]:
    """Search under Tune and return the last result of each trial by the study's number."""
    searcher = PeftSearcher(study, time_attr="steps")
    tuner = tune.Tuner(
        tune.with_resources(toy, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=PeftScheduler(searcher),
            num_samples=trials,
            max_concurrent_trials=2,
        ),
        run_config=tune.RunConfig(storage_path=str(folder), name="search", verbose=0),
    )
    results = tuner.fit()
    assert not results.errors
    assert len(results) == len(study.trials) == trials
    assert list((folder / "search").glob("searcher-state-*.json"))
    return {result.config["trial_number"]: result.metrics for result in results}


@pytest.mark.ray
def test_six_trials_under_tune(cluster: None, tmp_path: Path) -> None:
    study = make_study(LANDSCAPE, proposer="mobo")
    last = search(study, tmp_path, 6)
    assert all(state.status.is_final for state in study.trials)
    assert {state.status for state in study.front()} == {TrialStatus.COMPLETED}
    for state in study.trials:
        assert last[state.trial.number]["steps"] == state.step
        assert last[state.trial.number]["accuracy"] == pytest.approx(state.score)
        assert (state.status is TrialStatus.COMPLETED) == (state.step == MAX_STEPS)


@pytest.mark.ray
def test_paused_trials_go_on_from_their_checkpoints(cluster: None, tmp_path: Path) -> None:
    study = make_study(LANDSCAPE)
    study._stopper = WaitOnce(study.space, study.scale, study.costs, max_steps=MAX_STEPS, seed=0)
    last = search(study, tmp_path, 4)
    assert [state.status for state in study.trials] == [TrialStatus.COMPLETED] * 4
    assert [last[number]["resumed_at"] for number in range(4)] == [FIRST] * 4
    assert [last[number]["steps"] for number in range(4)] == [MAX_STEPS] * 4
