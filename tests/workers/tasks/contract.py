"""What every task must do; a test class for each task inherits it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from autopeft.errors import DataError
from autopeft.workers.dataset import SPLIT_NAMES, DataSplits
from autopeft.workers.tasks.base import TASKS, LabelEncoding, Task, oriented


class TaskContract(ABC):
    @pytest.fixture
    @abstractmethod
    def task(self) -> Task: ...

    @pytest.fixture
    @abstractmethod
    def splits(self) -> DataSplits: ...

    @pytest.fixture
    @abstractmethod
    def perfect(self, task: Task, splits: DataSplits) -> NDArray[np.float32]:
        """Return outputs that are right for every validation row."""

    @pytest.fixture
    def encoding(self, task: Task, splits: DataSplits) -> LabelEncoding:
        return task.encode_labels(splits)

    def test_it_is_registered_under_its_name(self, task: Task) -> None:
        assert isinstance(TASKS.get(task.name)(), type(task))

    def test_its_default_metric_is_one_of_its_metrics(self, task: Task) -> None:
        assert task.default_metric in task.metrics

    def test_labels_are_encoded_row_by_row(
        self, splits: DataSplits, encoding: LabelEncoding
    ) -> None:
        for split in SPLIT_NAMES:
            assert len(encoding.labels[split]) == len(splits.splits[split])
            assert np.all(np.isfinite(encoding.labels[split]))

    def test_every_metric_is_returned(
        self, task: Task, encoding: LabelEncoding, perfect: NDArray[np.float32]
    ) -> None:
        metrics = task.predictions_to_metrics(perfect, encoding.labels["validation"])
        assert set(metrics) == set(task.metrics)

    def test_a_perfect_predictor_reaches_the_ideal_score(
        self, task: Task, encoding: LabelEncoding, perfect: NDArray[np.float32]
    ) -> None:
        metrics = task.predictions_to_metrics(perfect, encoding.labels["validation"])
        scores = {metric: oriented(task, metric, value) for metric, value in metrics.items()}
        assert scores == pytest.approx(
            {metric: task.ideal_score(metric) for metric in task.metrics}, abs=1e-6
        )

    def test_chance_is_finite_and_below_the_ideal(
        self, task: Task, encoding: LabelEncoding
    ) -> None:
        for metric in task.metrics:
            chance = task.chance_score(encoding, metric)
            assert math.isfinite(chance)
            assert chance < task.ideal_score(metric)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_one_output_that_is_not_finite_makes_every_metric_nan(
        self, task: Task, encoding: LabelEncoding, perfect: NDArray[np.float32], value: float
    ) -> None:
        outputs = perfect.copy()
        outputs[1, 0] = value
        metrics = task.predictions_to_metrics(outputs, encoding.labels["validation"])
        assert set(metrics) == set(task.metrics)
        assert all(math.isnan(metric) for metric in metrics.values())

    @pytest.mark.parametrize("constant", [0.0, -3.0, 1e30])
    def test_constant_outputs_yield_finite_metrics(
        self, task: Task, encoding: LabelEncoding, perfect: NDArray[np.float32], constant: float
    ) -> None:
        outputs = np.full_like(perfect, constant)
        metrics = task.predictions_to_metrics(outputs, encoding.labels["validation"])
        assert all(math.isfinite(metric) for metric in metrics.values())

    def test_a_single_row_yields_finite_metrics(
        self, task: Task, encoding: LabelEncoding, perfect: NDArray[np.float32]
    ) -> None:
        metrics = task.predictions_to_metrics(perfect[:1], encoding.labels["validation"][:1])
        assert all(math.isfinite(metric) for metric in metrics.values())

    def test_outputs_of_another_shape_are_refused(
        self, task: Task, encoding: LabelEncoding, perfect: NDArray[np.float32]
    ) -> None:
        labels = encoding.labels["validation"]
        with pytest.raises(ValueError, match="expected outputs of shape"):
            task.predictions_to_metrics(perfect[:-1], labels)
        with pytest.raises(ValueError, match="expected outputs of shape"):
            task.predictions_to_metrics(perfect[:, 0], labels)
        with pytest.raises(ValueError, match="for 0 labels"):
            task.predictions_to_metrics(perfect[:0], labels[:0])

    def test_an_unknown_metric_offers_the_nearest(self, task: Task) -> None:
        with pytest.raises(DataError, match="has no metric 'lossy'; did you mean 'loss'"):
            task.ideal_score("lossy")

    def test_the_training_loss_is_the_metric_loss_and_has_a_gradient(
        self, task: Task, encoding: LabelEncoding
    ) -> None:
        import torch

        labels = encoding.labels["validation"]
        generator = np.random.default_rng(0)
        outputs = generator.normal(size=(len(labels), encoding.num_outputs)).astype(np.float32)
        logits = torch.tensor(outputs, requires_grad=True)
        batch = {"labels": torch.from_numpy(labels)}
        loss = task.loss(SimpleNamespace(logits=logits), batch)
        expected = task.predictions_to_metrics(outputs, labels)["loss"]
        assert loss.shape == ()
        assert loss.item() == pytest.approx(expected, rel=1e-5)
        loss.backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None
        assert bool(torch.any(logits.grad != 0))
        half = SimpleNamespace(logits=logits.bfloat16())
        assert task.loss(half, batch).dtype == torch.float32
