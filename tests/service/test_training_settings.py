"""Training settings that a space searches, from the job file to the export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import autopeft
from autopeft.cli import main
from autopeft.errors import AutopeftError, DataError, InvalidJobError
from autopeft.records import TrialState
from autopeft.search_spaces.space import load_space
from autopeft.service.confirmation import confirm_job
from autopeft.service.examination import examine
from autopeft.service.job_spec import load_job
from autopeft.service.job_training import job_training
from autopeft.service.memory_models import MemoryModels
from autopeft.service.observer import SilentObserver
from autopeft.service.planning import make_plan
from autopeft.service.preparation import ModelCosts
from autopeft.service.running import resume_job
from autopeft.workers.settings import TrainingSettings
from tests.service.tiny_job import STEPS, write_tiny_job

LORA: dict[str, Any] = {
    "rank": 4,
    "alpha_ratio": 1,
    "sites": "all",
    "dora": False,
    "rslora": False,
    "placement": "all",
    "learning_rate": 0.01,
}
TRAINING: dict[str, Any] = {
    "gradient_checkpointing": [False, True],
    "gradient_accumulation": [1, 4],
}


def write_job(folder: Path, searched: Any = TRAINING, **changes: Any) -> Path:
    space = {"methods": {"lora": LORA}, "training": searched}
    return write_tiny_job(folder, **{"space": space, "stopper": "none", **changes})


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> autopeft.Job:
    """Return a search of all four combinations of one LoRA, read only."""
    return autopeft.search(write_job(tmp_path_factory.mktemp("job")))


def by_settings(job: autopeft.Job) -> dict[tuple[Any, ...], TrialState]:
    """Return the trials by accumulation and checkpointing."""
    return {
        tuple(value for _, value in state.trial.configuration.training): state
        for state in job.log.trials
    }


def test_every_combination_is_tried_and_no_more(job: autopeft.Job) -> None:
    assert set(by_settings(job)) == {(1, False), (1, True), (4, False), (4, True)}
    assert len(job.log.trials) == 4
    assert job.log.end_reason == "every configuration of the space has been tried"


def test_each_has_a_memory_of_its_own_and_it_is_measured_so(job: autopeft.Job) -> None:
    trials = by_settings(job)
    predicted = {key: s.trial.costs.train_memory_bytes for key, s in trials.items()}
    assert len(set(predicted.values())) == 4
    assert predicted[1, True] < predicted[1, False]
    assert predicted[4, False] < predicted[1, False]
    for key, state in trials.items():
        measured = state.curve[0].memory_bytes
        assert measured == pytest.approx(predicted[key], rel=0.05)


def test_checkpointing_changes_no_score(job: autopeft.Job) -> None:
    trials = by_settings(job)
    for parts in (1, 4):
        with_it, without = trials[parts, True].curve[-1], trials[parts, False].curve[-1]
        assert with_it.metrics["loss"] == pytest.approx(without.metrics["loss"], abs=1e-5)


def test_an_export_tells_how_it_was_trained(job: autopeft.Job, tmp_path: Path) -> None:
    state = by_settings(job)[4, True]
    report = job.export(tmp_path / "out", pick=str(state.trial.number))
    facts = json.loads((tmp_path / "out" / "autopeft.json").read_text())
    assert report.num_prediction_mismatches == 0
    assert facts["training"]["gradient_accumulation"] == 4
    assert facts["training"]["gradient_checkpointing"] is True
    assert facts["training"]["batch_size"] == 8
    readme = (tmp_path / "out" / "README.md").read_text()
    told = "batch size 8, gradient accumulation 4, gradient checkpointing on, optimizer adamw"
    assert f"| trained with | {told}" in readme


def test_a_resume_goes_on_with_the_others(job: autopeft.Job, tmp_path: Path) -> None:
    half = autopeft.search(write_job(tmp_path, budget={"trials": 2}))
    assert len(half.log.trials) == 2
    log = resume_job(half.folder, observer=SilentObserver(), budget={"trials": 9})

    def outcomes(trials: Any) -> list[Any]:
        return [(s.trial.configuration, s.score, s.curve[0].memory_bytes) for s in trials]

    assert outcomes(log.trials) == outcomes(job.log.trials)


def test_confirmation_trains_with_the_same_settings(job: autopeft.Job) -> None:
    state = by_settings(job)[4, True]
    confirmed = confirm_job(
        job.folder, which=str(state.trial.number), num_seeds=1, observer=SilentObserver()
    )
    assert confirmed.winner.state.trial.configuration == state.trial.configuration
    assert dict(confirmed.baseline.state.trial.configuration.training).keys() == TRAINING.keys()


def test_an_export_is_checked_in_the_precision_of_its_trial(tmp_path: Path) -> None:
    path = write_job(tmp_path, {"precision": "bfloat16"}, budget={"trials": 1})
    job = autopeft.search(path)
    report = job.export(tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "autopeft.json").read_text())
    assert report.unverified is None
    assert facts["precision"] == facts["training"]["precision"] == "bfloat16"
    assert "torch.autocast" in (tmp_path / "out" / "README.md").read_text()


def test_a_prefix_is_never_checkpointed(tmp_path: Path) -> None:
    methods = {"lora": LORA, "prefix": {"prefix_length": [2, 4], "learning_rate": 0.01}}
    space = {"methods": methods, "training": {"gradient_checkpointing": [False, True]}}
    own = {"batch_size": 8, "max_tokens": 12, "steps": 1, "gradient_checkpointing": True}
    path = write_tiny_job(tmp_path, space=space, training=own, stopper="none", budget={"trials": 9})
    job = autopeft.search(path)
    found = {
        (s.trial.configuration.methods[0], dict(s.trial.configuration.training).popitem()[1])
        for s in job.log.trials
    }
    assert found == {("lora", False), ("lora", True), ("prefix", False)}
    assert {s.status.value for s in job.log.trials} == {"completed"}


class TestRefused:
    def check(self, tmp_path: Path, searched: Any, **changes: Any) -> None:
        examine(load_job(write_job(tmp_path, searched, **changes)))

    @pytest.mark.parametrize(
        ("training", "problem"),
        [
            ({"batch_size": [0, 8]}, "training.batch_size: 0: expected at least 1, got 0"),
            ({"batch_size": [8.0]}, "training.batch_size: 8.0: expected a whole number, got 8.0"),
            ({"precision": ["auto"]}, "'auto': stands for one of the others"),
            ({"optimizer": ["adam"]}, "training.optimizer: 'adam': expected 'adamw', "),
            ({"gradient_checkpointing": ["yes"]}, "'yes': expected true or false, got 'yes'"),
            ({"gradient_accumulation": [9, 1]}, "is 9, more parts than the batch has examples (8)"),
            ({"saved_activations": ["2bit"]}, "'2bit': expected 'full' or '4bit'"),
            ({"steps": [8]}, "training.steps: cannot be searched"),
        ],
    )
    def test_values(self, tmp_path: Path, training: Any, problem: str) -> None:
        with pytest.raises(InvalidJobError) as error:
            self.check(tmp_path, training)
        assert problem in str(error.value)

    def test_batch_sizes_and_epochs(self, tmp_path: Path) -> None:
        own = {"batch_size": 8, "max_tokens": 12, "epochs": 1.0}
        with pytest.raises(InvalidJobError, match=r"16: training\.epochs comes to other steps"):
            self.check(tmp_path, {"batch_size": [8, 16]}, training=own)

    def test_more_than_there_are_rows(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="48 rows, fewer than one batch of 64") as error:
            self.check(tmp_path, {"batch_size": [8, 64]})
        assert "space.training.batch_size" in str(error.value.hint)

    def test_a_batch_size_that_nothing_uses_needs_no_rows(self, tmp_path: Path) -> None:
        own = {"batch_size": 64, "max_tokens": 12, "steps": STEPS}
        self.check(tmp_path, {"batch_size": [8, 16]}, training=own)

    def test_a_precision_that_makes_no_difference(self, tmp_path: Path) -> None:
        model = {"name": "tiny-bert", "dtype": "bfloat16"}
        with pytest.raises(InvalidJobError, match="stored in half precision or quantised"):
            self.check(tmp_path, {"precision": ["float32", "bfloat16"]}, model=model)

    def test_a_limit_that_only_one_optimiser_keeps(self, tmp_path: Path) -> None:
        limit = {"num_adapter_parameters": {"max": 1200}}
        self.check(tmp_path, {"optimizer": ["adamw", "lora-fa"]}, constraints=limit)
        with pytest.raises(InvalidJobError, match="num_adapter_parameters <= 1,200"):
            self.check(tmp_path, {"optimizer": ["adamw", "sgd"]}, constraints=limit)

    def test_an_optimiser_whose_package_is_missing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("autopeft.workers.optimizers.importlib.util.find_spec", lambda _: None)
        with pytest.raises(AutopeftError, match="adamw-8bit, which needs the package bitsandbytes"):
            self.check(tmp_path, {"optimizer": ["adamw", "adamw-8bit"]})


class TestTold:
    def told(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], **changes: Any) -> Any:
        assert main(["check", str(write_job(tmp_path, **changes))]) == 0
        return capsys.readouterr()

    def test_what_is_searched(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        searched = {**TRAINING, "precision": "bfloat16"}
        out = self.told(tmp_path, capsys, searched=searched).out
        assert (
            "training settings that are searched: gradient_accumulation 1 or 4; "
            "gradient_checkpointing false or true; precision 'bfloat16'\n"
        ) in out

    @pytest.mark.parametrize(
        ("changes", "is_told"),
        [
            ({}, True),
            ({"objectives": ["accuracy", "train_memory_bytes", "train_seconds"]}, False),
            ({"budget": {"minutes": 5}}, False),
            ({"constraints": {"train_seconds": {"max": 9}}}, False),
            ({"searched": {"gradient_checkpointing": True, "batch_size": [4, 8]}}, False),
            ({"space": "lora"}, False),
        ],
    )
    def test_time_that_does_not_count(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        changes: dict[str, Any],
        is_told: bool,
    ) -> None:
        err = self.told(tmp_path, capsys, **changes).err
        assert ("which save memory for more time, and time does not count" in err) is is_told

    def test_one_setting_alone_is_told_in_the_singular(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        err = self.told(tmp_path, capsys, searched={"gradient_checkpointing": [False, True]}).err
        assert "searches gradient_checkpointing, which saves memory for more time" in err


class TestMemoryModels:
    @pytest.fixture(scope="class")
    @classmethod
    def models(cls, tmp_path_factory: pytest.TempPathFactory) -> MemoryModels:
        found = examine(load_job(write_job(tmp_path_factory.mktemp("models"))))
        spec = load_job(write_job(tmp_path_factory.mktemp("models")))
        return MemoryModels(
            spec,
            found.model.config,
            found.model.shape,
            tokens=found.tokens,
            task=found.read.goal.task,
            data=found.encoded,
        )

    def test_steps_alike_share_a_model(self, models: MemoryModels) -> None:
        half = models.model_for((("batch_size", 8), ("gradient_accumulation", 2)))
        assert models.model_for((("batch_size", 16), ("gradient_accumulation", 4))) is half
        assert models.model_for((("batch_size", 4),)) is not half
        assert models.model_for(()) is models.model_for((("batch_size", 8),))

    def test_many_at_once_are_as_one_by_one(self, models: MemoryModels) -> None:
        space = load_space(
            {"methods": {"lora": {**LORA, "rank": [2, 4]}}, "training": {"batch_size": [4, 8]}},
            models.model_for(())._shape,
            training=job_training(TrainingSettings(batch_size=8)),
        )
        several = space.sobol(12, seed=0)
        together = models.predict(several)
        assert together.tolist() == [models.predict([each])[0] for each in several]
        assert len(set(together.tolist())) == 4

    def test_quick_predictions_are_compared_with_exact_ones(self, models: MemoryModels) -> None:
        shape = models.model_for(())._shape
        space = load_space({"methods": {"lora": {**LORA, "rank": [2, 4]}}}, shape)
        some = space.sobol(3, seed=0)
        quick = models.predict(some)
        exact = [models.probe(each).total_bytes for each in some]
        errors = sorted(abs(float(one) / two - 1) for one, two in zip(quick, exact, strict=True))
        compared = ModelCosts(shape, "adamw", models)
        assert compared.memory_error(some) == {
            "median": errors[1],
            "worst": errors[2],
            "num_compared": 3,
        }
        hurried = compared.memory_error(some, seconds=0.0)
        assert hurried is not None
        assert hurried["num_compared"] == 1
        assert ModelCosts(shape, "adamw", None).memory_error(some) is None


def test_a_plan_says_what_it_is_for(tmp_path: Path) -> None:
    searched = {"gradient_checkpointing": True, "batch_size": [4, 2]}
    plan = make_plan(load_job(write_job(tmp_path, searched), shapes_only=True))
    assert plan.batch_size == 4
    assert plan.notes == (
        "the space searches batch_size; shown with batch_size 4, gradient_checkpointing True",
    )
