"""What is scored where it is not what training goes on from: branches and averages."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autopeft.records import Measurement, ModelShape, Segment, SegmentDone
from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.search_spaces.method import get_method
from autopeft.workers.adapter_tensors import fill_adapter, trainable_parameters
from autopeft.workers.averaging import TailAverage
from autopeft.workers.checkpoints import Checkpoint, read_checkpoint
from autopeft.workers.injection import inject
from autopeft.workers.tasks.classification import Classification
from autopeft.workers.training import evaluate
from autopeft.workers.worker import BRANCH_STEPS, Worker, WorkerPlan
from tests.workers import tiny

WSD: dict[str, Any] = {"schedule": "wsd", "branch_fraction": 0.5}
TAIL: dict[str, Any] = {"schedule": "constant", "averaging": "tail", "averaging_window": 0.5}
KINDS = {"wsd": WSD, "tail": TAIL}
every_kind = pytest.mark.parametrize("training", KINDS.values(), ids=KINDS)
STEPS = 8


@pytest.fixture(autouse=True)
def _without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "_longest_step", lambda *_: None)


class Runs:
    """Runs of one configuration through several rungs, each a trial of its own."""

    def __init__(self, folder: Path, plan: WorkerPlan, root: Path, **training: Any) -> None:
        self.settings = tiny.make_settings(folder, root, **{"steps": STEPS, **training})
        self.worker = Worker(self.settings, plan)
        self._num_trials = 0

    def through(self, *rungs: int, name: str = "lora") -> list[tuple[Measurement, Checkpoint]]:
        """Train to each step in turn."""
        trial = tiny.make_trial(self._num_trials, configuration(name, self.shape))
        self._num_trials += 1
        found: list[tuple[Measurement, Checkpoint]] = []
        for start, end in pairwise((0, *rungs)):
            before = found[-1][0].checkpoint if found else None
            segment = Segment(trial=trial, from_step=start, to_step=end, checkpoint=before)
            event = self.worker.run(segment)
            assert isinstance(event, SegmentDone), event
            root = self.settings.checkpoints
            found.append((event.measurement, read_checkpoint(root, event.measurement.checkpoint)))
        return found

    @property
    def shape(self) -> ModelShape:
        return self.worker._plan.shape


def configuration(name: str, shape: ModelShape) -> Configuration:
    """Return a configuration of the tiny model's, or a method with its defaults."""
    if name in tiny.CONFIGURATIONS:
        return tiny.configuration(name)
    settings = {each.name: each.default for each in get_method(name).dimensions(shape)}
    return Configuration(modules=(Module.of(name, tiny.LAYERS, **settings),), learning_rate=0.02)


@pytest.fixture
def runs(tiny_folder: Path, tiny_plan: WorkerPlan, tmp_path: Path) -> Any:
    return lambda **training: Runs(tiny_folder, tiny_plan, tmp_path, **training)


def everything(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Return all numbers of a checkpoint."""
    groups = {f"scored/{group}": tensors for group, tensors in checkpoint.adapter.items()}
    groups |= {f"weights/{group}": tensors for group, tensors in checkpoint.weights.items()}
    groups |= {"average": checkpoint.average, "optimizer": checkpoint.optimizer}
    found = {
        f"{group}/{key}": tensor.numpy().tobytes()
        for group, tensors in groups.items()
        for key, tensor in tensors.items()
    }
    return found | {"outputs": checkpoint.outputs.tobytes()}


@every_kind
@pytest.mark.parametrize("name", ["lora", "mixture-with-prefix", "adalora", "prune-regrow"])
def test_segments_equal_one_go_bit_for_bit(training: dict[str, Any], name: str, runs: Any) -> None:
    chosen = runs(**training)
    ((_, middle),) = chosen.through(4, name=name)
    ((_, end),) = chosen.through(STEPS, name=name)
    resumed = [checkpoint for _, checkpoint in chosen.through(2, 4, STEPS, name=name)]
    assert everything(resumed[1]) == everything(middle)
    assert everything(resumed[2]) == everything(end)


@every_kind
def test_the_outputs_are_those_of_the_adapter(
    training: dict[str, Any], runs: Any, tiny_base: Any, tiny_plan: WorkerPlan
) -> None:
    chosen = runs(**training)
    for measurement, checkpoint in chosen.through(4, STEPS):
        model = inject(tiny_base, tiny.configuration("lora"), tiny_plan.shape, 99)
        fill_adapter(model, tiny_plan.shape.head_paths, checkpoint.adapter)
        task = Classification()
        outputs = evaluate(model, tiny_plan.data.validation, task, batch_size=64, pad_token_id=0)
        np.testing.assert_allclose(outputs, checkpoint.outputs, atol=1e-6)
        expected = task.predictions_to_metrics(outputs, checkpoint.labels)["accuracy"]
        assert measurement.score == pytest.approx(expected)


def differs(checkpoint: Checkpoint) -> bool:
    """Tell whether training goes on from other weights than those that were scored."""
    return any(
        not torch.equal(tensor, checkpoint.weights[group][key])
        for group, tensors in checkpoint.adapter.items()
        for key, tensor in tensors.items()
    )


def test_a_branch_leaves_the_trial_as_it_is(runs: Any) -> None:
    (measured, branched), (last, end) = runs(**WSD).through(4, STEPS)
    # A constant rate is the same training up to there.
    (_, plain), _ = runs(schedule="constant").through(4, STEPS)
    assert measured.metrics[BRANCH_STEPS] == 2
    assert measured.step == 4
    assert differs(branched)
    assert not branched.average
    for group, tensors in plain.adapter.items():
        assert all(torch.equal(tensors[key], branched.weights[group][key]) for key in tensors)
    assert all(torch.equal(plain.optimizer[k], branched.optimizer[k]) for k in plain.optimizer)
    assert BRANCH_STEPS not in last.metrics
    assert not end.resume
    assert not differs(end)


def test_a_branch_is_a_shorter_trial_to_its_end(runs: Any) -> None:
    """A trial of 6 steps whose last 2 fall ends where the branch after 4 of 8 ends."""
    (_, branched), _ = runs(**WSD, warmup_fraction=0.0).through(4, STEPS)
    short = runs(schedule="wsd", decay_fraction=1 / 3, warmup_fraction=0.0, steps=6)
    ((_, end),) = short.through(6)
    assert np.array_equal(branched.outputs, end.outputs)
    for group, tensors in end.adapter.items():
        assert all(torch.equal(tensors[key], branched.adapter[group][key]) for key in tensors)


def test_an_average_leaves_training_as_it_is(runs: Any) -> None:
    averaged = runs(**TAIL).through(4, STEPS)
    plain = runs(schedule="constant").through(4, STEPS)
    for (_, one), (_, other) in zip(averaged, plain, strict=True):
        assert differs(one)
        for group, tensors in other.adapter.items():
            assert all(torch.equal(tensors[key], one.weights[group][key]) for key in tensors)
        assert one.optimizer.keys() == other.optimizer.keys()
        assert all(torch.equal(one.optimizer[key], other.optimizer[key]) for key in one.optimizer)
        assert not np.array_equal(one.outputs, other.outputs)


def test_what_is_scored_is_the_average_of_the_weights(
    runs: Any, tiny_base: Any, tiny_plan: WorkerPlan
) -> None:
    """Step by step, by the checkpoints of a trial that averages nothing."""
    ((_, averaged),) = runs(**TAIL).through(STEPS)
    plain = runs(schedule="constant").through(*range(1, STEPS + 1))
    model = inject(tiny_base, tiny.configuration("lora"), tiny_plan.shape, 99)
    average = TailAverage(model, 0.5)
    for step, (_, checkpoint) in enumerate(plain, start=1):
        fill_adapter(model, tiny_plan.shape.head_paths, checkpoint.adapter)
        average.update(step)
    assert average.tensors.keys() == averaged.average.keys()
    assert all(torch.equal(each, averaged.average[n]) for n, each in average.tensors.items())
    fill_adapter(model, tiny_plan.shape.head_paths, averaged.adapter)
    for name, parameter in trainable_parameters(model).items():
        assert torch.equal(parameter, average.tensors[name])


def test_an_average_is_not_made_up(runs: Any, tiny_plan: WorkerPlan) -> None:
    chosen = runs(schedule="constant")
    (measurement, _), _ = chosen.through(4, STEPS)
    training = chosen.settings.training.model_copy(update=TAIL)
    settings = chosen.settings.model_copy(update={"training": training})
    segment = Segment(
        trial=tiny.make_trial(0, tiny.configuration("lora")),
        from_step=4,
        to_step=STEPS,
        checkpoint=measurement.checkpoint,
    )
    event = Worker(settings, tiny_plan).run(segment)
    assert "an average of other parameters" in getattr(event, "message", "")
