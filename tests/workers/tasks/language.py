"""What every task of a language model must do; a test class for each inherits it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import pytest
import torch

from autopeft.errors import DataError
from autopeft.workers.data import collate
from autopeft.workers.dataset import EncodedData, EncodedSplit
from autopeft.workers.tasks.base import TASKS, LabelEncoding
from autopeft.workers.tasks.language_model import LanguageModelTask

NO_LABELS = LabelEncoding(num_outputs=0, id2label=None, labels={})
OUTPUTS = np.array([[6.0, 3.0], [2.0, 1.0], [0.0, 4.0]], dtype=np.float32)
COUNTS = np.array([3, 1, 4])


def batch_of(split: EncodedSplit, indices: list[int], pad: int = 1) -> dict[str, torch.Tensor]:
    arrays = collate(split, np.array(indices), pad)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


class LanguageModelContract(ABC):
    @pytest.fixture
    @abstractmethod
    def task(self) -> LanguageModelTask: ...

    @pytest.fixture
    @abstractmethod
    def model(self) -> Any:
        """Return a tiny model in evaluation mode, which no test changes."""

    @pytest.fixture
    @abstractmethod
    def split(self) -> EncodedSplit:
        """Return three examples or more, of different lengths."""

    @abstractmethod
    def reference_loss(self, model: Any, batch: dict[str, torch.Tensor]) -> float:
        """Return the mean loss that transformers computes."""

    def test_it_is_registered_and_has_no_head(self, task: LanguageModelTask) -> None:
        assert isinstance(TASKS.get(task.name)(), type(task))
        assert not task.has_head
        assert task.default_metric == "loss"

    def test_the_loss_is_that_of_transformers(
        self, task: LanguageModelTask, model: Any, split: EncodedSplit
    ) -> None:
        batch = batch_of(split, [0, 1, 2])
        with torch.no_grad():
            loss = task.loss(task.forward(model, batch), batch)

        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(self.reference_loss(model, batch), rel=1e-6)
        assert task.num_targets(batch) == int(split.labels[:3].sum())

    def test_an_example_is_reduced_to_its_own_losses(
        self, task: LanguageModelTask, model: Any, split: EncodedSplit
    ) -> None:
        batch = batch_of(split, [2, 0, 1])
        with torch.inference_mode():
            kept = task.reduce(task.forward(model, batch), batch)
            alone = [batch_of(split, [i]) for i in (2, 0, 1)]
            single = [task.reduce(task.forward(model, b), b) for b in alone]
            loss = task.loss(task.forward(model, batch), batch)

        assert kept.dtype == np.float32
        assert kept[:, 1].tolist() == split.labels[[2, 0, 1]].tolist()
        np.testing.assert_allclose(kept, np.concatenate(single), rtol=1e-5)
        metrics = task.predictions_to_metrics(kept, split.labels[[2, 0, 1]])
        assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-6)

    def test_each_token_counts_the_same(self, task: LanguageModelTask) -> None:
        metrics = task.predictions_to_metrics(OUTPUTS, COUNTS)
        assert metrics == pytest.approx({"loss": 1.0, "perplexity": math.e})
        assert task.ideal_score("loss") == 0.0
        assert task.ideal_score("perplexity") == -1.0

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_one_loss_that_is_not_finite_makes_every_metric_nan(
        self, task: LanguageModelTask, value: float
    ) -> None:
        outputs = OUTPUTS.copy()
        outputs[1, 0] = value
        assert all(math.isnan(m) for m in task.predictions_to_metrics(outputs, COUNTS).values())

    def test_a_huge_loss_has_a_finite_perplexity(self, task: LanguageModelTask) -> None:
        outputs = np.array([[1e30, 2.0]], dtype=np.float32)
        assert math.isfinite(task.predictions_to_metrics(outputs, np.array([2]))["perplexity"])

    def test_outputs_of_another_shape_are_refused(self, task: LanguageModelTask) -> None:
        with pytest.raises(ValueError, match="expected outputs of shape"):
            task.predictions_to_metrics(OUTPUTS[:2], COUNTS)
        with pytest.raises(ValueError, match="expected 2 outputs a row"):
            task.predictions_to_metrics(OUTPUTS[:, :1], COUNTS)
        with pytest.raises(DataError, match="has no metric 'accuracy'"):
            task.ideal_score("accuracy")

    def test_chance_knows_how_frequent_tokens_are(
        self, task: LanguageModelTask, split: EncodedSplit
    ) -> None:
        data = EncodedData(train=split, validation=split, pad_token_id=1)
        labels = split.fields["labels"].values
        tokens = labels[labels >= 0].tolist()
        total = len(tokens) + max(tokens) + 1
        losses = [-math.log((tokens.count(token) + 1) / total) for token in tokens]
        expected = sum(losses) / len(losses)

        assert task.chance_score(NO_LABELS, "loss", data) == pytest.approx(-expected)
        chance = task.chance_score(NO_LABELS, "perplexity", data)
        assert chance == pytest.approx(-math.exp(expected))

    def test_sums_that_differ_by_rounding_match(self, task: LanguageModelTask) -> None:
        close = OUTPUTS + np.array([[1e-5, 0.0]], dtype=np.float32)
        assert not task.mismatches(close, OUTPUTS, 1e-4).any()
        other = OUTPUTS.copy()
        other[1, 0] += 0.1
        assert task.mismatches(other, OUTPUTS, 1e-4).tolist() == [False, True, False]
