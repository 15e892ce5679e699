"""Memory of configurations that bring training settings of their own: one model for each step.

A batch that is twice as large, computed in half as large parts or under checkpointing is another
training step, and a memory model describes one. Models are made when first asked for and kept;
settings that make the same step share one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Configuration, Training
from autopeft.search_spaces.training_domain import shape_under
from autopeft.service.job_spec import JobSpec

if TYPE_CHECKING:
    from autopeft.workers.dataset import EncodedData
    from autopeft.workers.memory import MemoryEstimate, MemoryModel


class MemoryModels:
    """Predict what configurations need in a training step of a job.

    Args:
        spec: The job.
        config: transformers config of its model.
        shape: Shape of the model under the job's own settings.
        tokens: Tokens of each example of the longest batch.
        task: Name of the task, never ``auto``.
        data: What is trained on; where None, batches are full examples of ``tokens``.
        on_progress: Told how far something slow is.
    """

    def __init__(
        self,
        spec: JobSpec,
        config: Any,
        shape: ModelShape,
        *,
        tokens: int,
        task: str,
        data: EncodedData | None,
        on_progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._spec = spec
        self._config = config
        self._shape = shape
        self._tokens = tokens
        self._task = task
        self._data = data
        self._on_progress = on_progress
        self._models: dict[tuple[Any, ...], MemoryModel] = {}
        self._of: dict[Training, MemoryModel] = {}

    def predict(self, configurations: Sequence[Configuration]) -> NDArray[np.int64]:
        """Return about what a step of each of ``n`` configurations needs, in bytes."""
        groups: dict[Training, list[int]] = {}
        for place, configuration in enumerate(configurations):
            groups.setdefault(configuration.training, []).append(place)
        found = np.zeros(len(configurations), dtype=np.int64)
        for training, places in groups.items():
            told = _told(training)

            def on_method(number: int, of: int, name: str, told: str = told) -> None:
                self._on_progress(f"predicting memory{told}: method {number} of {of}, {name}")

            several = [configurations[place] for place in places]
            found[places] = self.model_for(training).predict(several, on_method)
        return found

    def probe(self, configuration: Configuration) -> MemoryEstimate:
        """Account for a whole step of one configuration."""
        return self.model_for(configuration.training).probe(configuration)

    def model_for(self, training: Training) -> MemoryModel:
        """Return the memory model of a step with some training settings in place of the job's."""
        if training not in self._of:
            self._of[training] = self._made(training)
        return self._of[training]

    def _made(self, training: Training) -> MemoryModel:
        from autopeft.workers.memory import MemoryModel, longest_inputs, step_dtypes

        settings = self._spec.training.updated(training)
        dtypes = step_dtypes(self._config, self._spec.model, settings.precision)
        key = (
            settings.micro_batch_size,
            # The second part of a batch meets the gradients of the first, and so does each later.
            settings.gradient_accumulation > 1,
            settings.gradient_checkpointing,
            settings.optimizer,
            settings.saved_activations,
            *dtypes.values(),
        )
        if key not in self._models:
            self._models[key] = MemoryModel(
                self._config,
                shape_under(self._shape, training),
                batch_size=settings.micro_batch_size,
                tokens=self._tokens,
                task=self._task,
                device="cuda" if self._spec.workers.gpus else "cpu",
                inputs=None
                if self._data is None
                else longest_inputs(
                    self._data.train,
                    settings.micro_batch_size,
                    self._data.pad_token_id,
                    self._task,
                ),
                optimizer=settings.optimizer,
                accumulation=settings.gradient_accumulation,
                attention=self._spec.model.attention,
                saved_activations=settings.saved_activations,
                **dtypes,
            )
        return self._models[key]


def _told(training: Training) -> str:
    """Say which settings memory is predicted for, where a space searches some."""
    return f" ({', '.join(f'{name} {value}' for name, value in training)})" if training else ""
