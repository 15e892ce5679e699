"""Audio classification: one of several classes for each recording; metrics as for texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from autopeft.workers.dataset import EncodedSplit, Rows
from autopeft.workers.tasks.base import TASKS, EncodingSettings
from autopeft.workers.tasks.classification import Classification
from autopeft.workers.tasks.metric_names import (
    AUDIO_CLASSIFICATION,
    DEFAULT_METRICS,
    METRICS_BY_TASK,
)

if TYPE_CHECKING:
    from autopeft.workers.data.columns import ChosenColumns
    from autopeft.workers.data.table import Table
    from autopeft.workers.settings import Columns


@TASKS.register(AUDIO_CLASSIFICATION)
class AudioClassification(Classification):
    """Cross-entropy over the classes seen in training.

    Recordings are brought to the sample rate of the model's feature extractor. What that makes
    of them is kept as ``float32``; of a spectrogram model it has one size for all.
    """

    name: ClassVar[str] = AUDIO_CLASSIFICATION
    metrics = METRICS_BY_TASK[AUDIO_CLASSIFICATION]
    default_metric = DEFAULT_METRICS[AUDIO_CLASSIFICATION]
    auto_class = "AutoModelForAudioClassification"
    peft_task_type = None
    modality = "audio"

    def choose_columns(self, table: Table, wanted: Columns) -> ChosenColumns:
        """Return the columns of recordings, sample rates and labels; never one of file names."""
        from autopeft.workers.data.task_columns import choose_sound

        return choose_sound(table, wanted)

    def clean(self, table: Table, columns: ChosenColumns) -> tuple[Table, int]:
        """Return all rows: :meth:`make_rows` refuses one without a recording."""
        return table, 0

    def make_rows(self, table: Table, columns: ChosenColumns, labels: list[Any]) -> Rows:
        """Return recordings beside labels that are already uniform."""
        from autopeft.workers.data.sounds import make_sound_rows

        return make_sound_rows(table, columns, labels)

    def what_is_equal(self, rows: Rows) -> str:
        """Say that it is the recording."""
        return "of equal recording"

    def keys(self, rows: Rows) -> list[str]:
        """Return a hash of each recording's samples."""
        from autopeft.workers.data.media import content_key

        return [content_key(samples) for samples in rows.columns["audio"]]

    def encode(
        self, rows: Rows, labels: NDArray[Any], processor: Any, settings: EncodingSettings
    ) -> EncodedSplit:
        """Return features of each recording."""
        from autopeft.workers.data.sounds import encode_sounds

        return encode_sounds(rows, labels, processor)
