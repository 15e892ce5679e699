from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autopeft.errors import ModelError
from autopeft.records import FailureKind, Measurement, Segment, SegmentDone, SegmentFailed
from autopeft.search_spaces.configuration import Configuration
from autopeft.workers import worker as worker_module
from autopeft.workers.checkpoints import read_checkpoint
from autopeft.workers.dataset import EncodedData, EncodedSplit, Field
from autopeft.workers.tasks.classification import Classification
from autopeft.workers.training import DivergedError
from autopeft.workers.worker import Worker, WorkerPlan, classify, describe
from tests.workers import tiny


@pytest.fixture
def worker(tiny_folder: Path, tiny_plan: WorkerPlan, tmp_path: Path) -> Worker:
    return Worker(tiny.make_settings(tiny_folder, tmp_path), tiny_plan)


def done(event: object) -> SegmentDone:
    assert isinstance(event, SegmentDone), event
    return event


def follow(segment: Segment, event: object, to_step: int) -> Segment:
    measurement = done(event).measurement
    return Segment(
        trial=segment.trial,
        from_step=measurement.step,
        to_step=to_step,
        checkpoint=measurement.checkpoint,
    )


def test_measurement(worker: Worker, tiny_plan: WorkerPlan, tmp_path: Path) -> None:
    measurement = done(worker.run(tiny.first_segment(7, "lora"))).measurement
    checkpoint = read_checkpoint(tmp_path, measurement.checkpoint)
    labels = tiny_plan.data.validation.labels
    expected = Classification().predictions_to_metrics(checkpoint.outputs, labels)

    assert (measurement.trial, measurement.step) == (7, tiny.STEPS)
    assert measurement.checkpoint == "trial-0007-step-00006"
    scores = {k: v for k, v in measurement.metrics.items() if not k.startswith("train_")}
    assert scores == expected
    assert 0.0 < measurement.metrics["train_seconds"] < measurement.seconds
    assert 0.0 < measurement.metrics["train_loss"] < 5.0
    assert measurement.score == expected["accuracy"]
    assert measurement.seconds > 0.0
    assert measurement.memory is not None
    assert measurement.memory.kind == "accounted"
    assert measurement.memory_bytes == measurement.memory.peak_bytes > measurement.memory.base_bytes
    assert np.array_equal(checkpoint.labels, labels)


@pytest.mark.parametrize("name", tiny.CONFIGURATIONS)
def test_segments_equal_one_go_bit_for_bit(name: str, worker: Worker, tmp_path: Path) -> None:
    whole = done(worker.run(tiny.first_segment(0, name)))
    first = tiny.first_segment(1, name, to_step=1)
    second = follow(first, worker.run(first), 4)
    third = follow(second, worker.run(second), tiny.STEPS)
    parts = done(worker.run(third))
    one = read_checkpoint(tmp_path, whole.measurement.checkpoint)
    two = read_checkpoint(tmp_path, parts.measurement.checkpoint)

    assert parts.measurement.score == whole.measurement.score
    assert np.array_equal(one.outputs, two.outputs)
    assert flat(one.adapter) == flat(two.adapter)
    assert flat({"": one.optimizer}) == flat({"": two.optimizer})


def flat(groups: Any) -> dict[str, bytes]:
    return {
        f"{group}/{key}": tensor.numpy().tobytes()
        for group, tensors in groups.items()
        for key, tensor in tensors.items()
    }


def test_train_loss_is_the_mean_since_the_last_measurement(worker: Worker) -> None:
    whole = done(worker.run(tiny.first_segment(0))).measurement.metrics["train_loss"]
    first = tiny.first_segment(1, to_step=2)
    event = worker.run(first)
    early = done(event).measurement.metrics["train_loss"]
    late = done(worker.run(follow(first, event, 6))).measurement.metrics["train_loss"]

    assert whole == pytest.approx((2 * early + 4 * late) / 6)


def test_metric_that_falls_is_turned_round(
    tiny_folder: Path, tiny_plan: WorkerPlan, tmp_path: Path
) -> None:
    settings = tiny.make_settings(tiny_folder, tmp_path).model_copy(update={"metric": "loss"})
    measurement = done(Worker(settings, tiny_plan).run(tiny.first_segment())).measurement

    assert measurement.score == -measurement.metrics["loss"] < 0.0


def test_regression(tiny_folder: Path, tmp_path: Path) -> None:
    settings = tiny.make_settings(tiny_folder, tmp_path).model_copy(
        update={"task": "regression", "metric": "spearman", "num_outputs": 1}
    )
    worker = Worker(settings, tiny.make_plan(tiny_folder, id2label=None))
    measurement = done(worker.run(tiny.first_segment())).measurement
    checkpoint = read_checkpoint(tmp_path, measurement.checkpoint)

    assert checkpoint.outputs.shape == (23, 1)
    assert checkpoint.labels.dtype == np.float32
    assert measurement.score == measurement.metrics["spearman"]


def test_seed_decides(worker: Worker) -> None:
    trials = [tiny.make_trial(n, tiny.configuration("ia3"), seed) for n, seed in enumerate((1, 2))]
    segments = [Segment(trial=trial, from_step=0, to_step=2) for trial in trials]
    one, two = (done(worker.run(segment)).measurement for segment in segments)

    assert one.metrics["train_loss"] != two.metrics["train_loss"]


def test_workers_are_interchangeable(
    worker: Worker, tiny_folder: Path, tiny_plan: WorkerPlan, tmp_path: Path
) -> None:
    worker.run(tiny.first_segment(5, "beft"))  # a worker with a past
    one = done(worker.run(tiny.first_segment(0))).measurement
    fresh = Worker(tiny.make_settings(tiny_folder, tmp_path / "other"), tiny_plan)
    two = done(fresh.run(tiny.first_segment(0))).measurement

    assert one.score == two.score
    assert without_seconds(one) == without_seconds(two)


def without_seconds(measurement: Measurement) -> dict[str, float]:
    return {k: v for k, v in measurement.metrics.items() if k != "train_seconds"}


def test_seconds_of_training_add_up_over_segments(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tiny.first_segment(0, to_step=2)
    event = worker.run(first)
    before = read_checkpoint(tmp_path, done(event).measurement.checkpoint).train_seconds
    # A clock that stands still: the second segment adds nothing to the first one's seconds.
    monkeypatch.setattr("autopeft.workers.worker.time.monotonic", lambda: 0.0)
    after = done(worker.run(follow(first, event, tiny.STEPS))).measurement

    assert before > 0.0
    assert after.metrics["train_seconds"] == before


def test_gradient_checkpointing_changes_nothing_but_memory(
    tiny_folder: Path, tiny_plan: WorkerPlan, tmp_path: Path
) -> None:
    plain, twice = (
        Worker(
            tiny.make_settings(tiny_folder, tmp_path / str(flag), gradient_checkpointing=flag),
            tiny_plan,
        )
        for flag in (False, True)
    )
    one = done(plain.run(tiny.first_segment(0))).measurement
    two = done(twice.run(tiny.first_segment(0))).measurement

    assert without_seconds(one) == pytest.approx(without_seconds(two), rel=1e-5)


def test_a_batch_in_parts_trains_alike(
    tiny_folder: Path, tiny_plan: WorkerPlan, tmp_path: Path
) -> None:
    losses = []
    for parts in (1, 3):
        settings = tiny.make_settings(
            tiny_folder, tmp_path / str(parts), gradient_accumulation=parts
        )
        worker = Worker(settings, tiny_plan)
        # Without dropout, whose numbers depend on how the batch is cut.
        for module in worker._base.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        measurement = done(worker.run(tiny.first_segment(0, "ia3"))).measurement
        losses.append(without_seconds(measurement))

    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_arrays_shared_read_only_will_do(
    tiny_folder: Path, tiny_plan: WorkerPlan, tmp_path: Path
) -> None:
    def frozen(split: EncodedSplit) -> EncodedSplit:
        fields = {}
        labels = split.labels.copy()
        labels.setflags(write=False)
        for name, field in split.fields.items():
            assert field.offsets is not None
            values, offsets = field.values.copy(), field.offsets.copy()
            values.setflags(write=False)
            offsets.setflags(write=False)
            fields[name] = Field(values=values, offsets=offsets)
        return EncodedSplit(fields=fields, labels=labels)

    data = tiny_plan.data
    plan = WorkerPlan(
        source=tiny_plan.source,
        data=EncodedData(
            train=frozen(data.train), validation=frozen(data.validation), pad_token_id=0
        ),
        id2label=tiny_plan.id2label,
        shape=tiny_plan.shape,
    )
    done(Worker(tiny.make_settings(tiny_folder, tmp_path), plan).run(tiny.first_segment()))


def test_divergence_is_classified(worker: Worker) -> None:
    trial = tiny.make_trial(0, Configuration(modules=(tiny.LORA,), learning_rate=1e30))
    event = worker.run(Segment(trial=trial, from_step=0, to_step=6))

    assert isinstance(event, SegmentFailed)
    assert event.kind is FailureKind.DIVERGED
    assert "loss" in event.message


def test_missing_checkpoint_is_an_error_in_words(worker: Worker) -> None:
    trial = tiny.make_trial(0, tiny.configuration("lora"))
    event = worker.run(Segment(trial=trial, from_step=2, to_step=4, checkpoint="trial-0000-step-2"))

    assert isinstance(event, SegmentFailed)
    assert event.kind is FailureKind.ERROR
    assert event.message.startswith("JobFolderError: checkpoint trial-0000-step-2 is missing")


def test_worker_lives_on_after_a_failure(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*arguments: Any, **options: Any) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(worker_module, "train_segment", exhausted)
        event = worker.run(tiny.first_segment(0))
    assert isinstance(event, SegmentFailed)
    assert event.kind is FailureKind.OUT_OF_MEMORY
    done(worker.run(tiny.first_segment(0)))


def test_a_trial_that_needs_more_than_the_worker_has_runs_out_of_memory(
    tiny_folder: Path, tiny_plan: WorkerPlan, tmp_path: Path, worker: Worker
) -> None:
    needed = done(worker.run(tiny.first_segment(0, "lora"))).measurement.memory_bytes
    assert needed is not None
    settings = tiny.make_settings(tiny_folder, tmp_path)
    small = Worker(settings.model_copy(update={"memory_bytes": needed - 1}), tiny_plan)
    event = small.run(tiny.first_segment(1, "lora"))
    assert isinstance(event, SegmentFailed)
    assert event.kind is FailureKind.OUT_OF_MEMORY
    assert event.least_memory_bytes == needed
    assert "a step with the longest examples took" in event.message
    enough = Worker(settings.model_copy(update={"memory_bytes": needed}), tiny_plan)
    done(enough.run(tiny.first_segment(2, "lora")))


def test_broken_invariants_are_not_swallowed(worker: Worker) -> None:
    with pytest.raises(AssertionError):
        worker.run(tiny.first_segment(to_step=tiny.STEPS + 1))


def test_tokens_the_model_does_not_know_are_refused(
    tiny_folder: Path, tiny_plan: WorkerPlan, tmp_path: Path
) -> None:
    split = tiny_plan.data.train
    ids = split.fields["input_ids"].values.copy()
    ids[3] = 14
    field = replace(split.fields["input_ids"], values=ids)
    strange = replace(split, fields={**split.fields, "input_ids": field})
    plan = WorkerPlan(
        source=tiny_plan.source,
        data=EncodedData(train=strange, validation=tiny_plan.data.validation, pad_token_id=0),
        id2label=tiny_plan.id2label,
        shape=tiny_plan.shape,
    )
    with pytest.raises(ModelError, match="token 14, but tiny-bert knows only 14 tokens"):
        Worker(tiny.make_settings(tiny_folder, tmp_path), plan)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DivergedError("loss nan"), FailureKind.DIVERGED),
        (MemoryError(), FailureKind.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory."), FailureKind.OUT_OF_MEMORY),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            FailureKind.OUT_OF_MEMORY,
        ),
        (RuntimeError("CUDA error: out of memory"), FailureKind.OUT_OF_MEMORY),
        (OSError(12, "Cannot allocate memory"), FailureKind.OUT_OF_MEMORY),
        (OSError(28, "No space left on device"), FailureKind.ERROR),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), FailureKind.ERROR),
        (ValueError("out of memory of mine"), FailureKind.ERROR),
    ],
)
def test_classification_of_failures(error: BaseException, kind: FailureKind) -> None:
    assert classify(error) is kind


def test_a_real_allocation_failure_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert classify(caught.value) is FailureKind.OUT_OF_MEMORY


def test_description_is_one_line() -> None:
    assert describe(RuntimeError("first\nsecond")) == "RuntimeError: first"
    assert describe(ValueError()) == "ValueError: no message"


def test_regression_starts_from_the_mean_target(tiny_folder: Path, tmp_path: Path) -> None:
    settings = tiny.make_settings(tiny_folder, tmp_path).model_copy(
        update={"task": "regression", "metric": "spearman", "num_outputs": 1}
    )
    plan = tiny.make_plan(tiny_folder, id2label=None)
    far = replace(plan.data.train, labels=plan.data.train.labels + 100)
    far_plan = replace(plan, data=replace(plan.data, train=far))

    measurement = done(Worker(settings, far_plan).run(tiny.first_segment(to_step=1))).measurement

    assert measurement.metrics["train_loss"] < 10
