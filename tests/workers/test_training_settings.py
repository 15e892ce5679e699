"""A trial trains with the training settings of its configuration, in place of the job's."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autopeft.records import RETENTION, Measurement, Segment, SegmentDone
from autopeft.search_spaces.configuration import Training
from autopeft.search_spaces.training_domain import SEARCHABLE
from autopeft.workers.checkpoints import read_checkpoint
from autopeft.workers.settings import Precision, TrainingSettings
from autopeft.workers.training import evaluate
from autopeft.workers.worker import Worker, WorkerPlan
from tests.workers import tiny

OWN: dict[str, Training] = {
    "checkpointing": (("gradient_checkpointing", True),),
    "accumulation": (("batch_size", 8), ("gradient_accumulation", 4)),
    "precision": (("precision", "bfloat16"),),
    "optimizer": (("optimizer", "adafactor"),),
    "activations": (("saved_activations", "4bit"),),
    "all": (
        ("batch_size", 4),
        ("gradient_accumulation", 2),
        ("gradient_checkpointing", True),
        ("optimizer", "sgd"),
        ("precision", "bfloat16"),
        ("saved_activations", "4bit"),
    ),
}
every_setting = pytest.mark.parametrize("training", OWN.values(), ids=OWN.keys())


def make_worker(folder: Path, plan: WorkerPlan, checkpoints: Path, **own: Any) -> Worker:
    settings = tiny.make_settings(folder, checkpoints)
    training = TrainingSettings.model_validate({**settings.training.model_dump(), **own})
    return Worker(settings.model_copy(update={"training": training}), plan)


@pytest.fixture
def worker(tiny_folder: Path, tiny_plan: WorkerPlan, tmp_path: Path) -> Worker:
    return make_worker(tiny_folder, tiny_plan, tmp_path)


def segment(number: int, training: Training, *, to_step: int = tiny.STEPS) -> Segment:
    configuration = replace(tiny.configuration("lora"), training=training)
    return Segment(trial=tiny.make_trial(number, configuration), from_step=0, to_step=to_step)


def run(worker: Worker, what: Segment) -> Measurement:
    event = worker.run(what)
    assert isinstance(event, SegmentDone), event
    return event.measurement


def contents(root: Path, measurement: Measurement) -> tuple[Any, ...]:
    """Return everything that training left behind."""
    checkpoint = read_checkpoint(root, measurement.checkpoint)
    adapter = {
        f"{group}/{key}": tensor.numpy().tobytes()
        for group, tensors in checkpoint.adapter.items()
        for key, tensor in tensors.items()
    }
    optimizer = {key: tensor.numpy().tobytes() for key, tensor in checkpoint.optimizer.items()}
    return checkpoint.outputs.tobytes(), adapter, optimizer


@every_setting
def test_as_if_the_job_said_so(
    training: Training, worker: Worker, tiny_folder: Path, tiny_plan: WorkerPlan, tmp_path: Path
) -> None:
    own = run(worker, segment(0, training))
    other = make_worker(tiny_folder, tiny_plan, tmp_path / "other", **dict(training))
    said = run(other, segment(0, ()))
    assert contents(tmp_path, own) == contents(tmp_path / "other", said)
    assert own.memory == said.memory
    assert own.score == said.score


@every_setting
def test_segments_equal_one_go_bit_for_bit(
    training: Training, worker: Worker, tmp_path: Path
) -> None:
    whole = run(worker, segment(0, training))
    first = segment(1, training, to_step=2)
    step_2 = run(worker, first)
    second = replace(first, from_step=2, to_step=tiny.STEPS, checkpoint=step_2.checkpoint)
    assert contents(tmp_path, run(worker, second)) == contents(tmp_path, whole)


def test_the_next_trial_knows_nothing_of_it(
    worker: Worker, tiny_folder: Path, tiny_plan: WorkerPlan, tmp_path: Path
) -> None:
    run(worker, segment(0, OWN["all"]))
    after = run(worker, segment(1, ()))
    fresh = make_worker(tiny_folder, tiny_plan, tmp_path / "other")
    alone = run(fresh, segment(1, ()))
    assert contents(tmp_path, after) == contents(tmp_path / "other", alone)
    assert after.memory == alone.memory


def test_retention_is_against_the_base_in_the_same_precision(
    tiny_folder: Path, tiny_plan: WorkerPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(tiny_plan, probe=tiny_plan.data.validation)
    worker = make_worker(tiny_folder, plan, tmp_path)
    of_the_base = []

    def spy(model: Any, *arguments: Any, precision: Precision, **options: Any) -> Any:
        if model is worker._base:
            of_the_base.append(precision)
        return evaluate(model, *arguments, precision=precision, **options)

    monkeypatch.setattr("autopeft.workers.worker.evaluate", spy)
    for number, precision in enumerate(("float32", "bfloat16", "float32")):
        measured = run(worker, segment(number, (("precision", precision),)))
        assert np.isfinite(measured.metrics[RETENTION])
    assert of_the_base == ["float32", "bfloat16"]


@pytest.mark.parametrize("name", ["accumulation", "precision", "optimizer", "activations"])
def test_it_makes_a_difference(name: str, worker: Worker, tmp_path: Path) -> None:
    own, plain = (run(worker, segment(n, t)) for n, t in enumerate((OWN[name], ())))
    one, other = (read_checkpoint(tmp_path, each.checkpoint).outputs for each in (own, plain))
    assert not np.array_equal(one, other)


def test_everything_searchable_is_a_setting() -> None:
    assert SEARCHABLE.keys() <= TrainingSettings.model_fields.keys()


@pytest.mark.parametrize(
    ("text", "is_shown"),
    [
        ("`use_cache=True` is incompatible with gradient checkpointing. Setting it off.", False),
        ("another message", True),
    ],
)
def test_what_checkpointing_says_of_caches_is_kept_out(text: str, is_shown: bool) -> None:
    logger = logging.getLogger("transformers.utils.generic")
    record = logger.makeRecord(logger.name, logging.WARNING, "", 0, text, (), None)
    assert bool(logger.filter(record)) is is_shown
