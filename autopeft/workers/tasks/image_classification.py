"""Image classification: one of several classes for each picture; metrics as for texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from autopeft.workers.dataset import EncodedSplit, Rows
from autopeft.workers.tasks.base import TASKS, EncodingSettings
from autopeft.workers.tasks.classification import Classification
from autopeft.workers.tasks.metric_names import (
    DEFAULT_METRICS,
    IMAGE_CLASSIFICATION,
    METRICS_BY_TASK,
)

if TYPE_CHECKING:
    import torch

    from autopeft.workers.data.columns import ChosenColumns
    from autopeft.workers.data.table import Table
    from autopeft.workers.settings import Columns

PIXELS = "pixel_values"
#: Field with mean and standard deviation of each channel, ``2 x c``, for pixels that are bytes.
SCALE = "pixel_scale"


@TASKS.register(IMAGE_CLASSIFICATION)
class ImageClassification(Classification):
    """Cross-entropy over the classes seen in training.

    Pictures are kept as bytes at the model's size, and scaled and normalised batch by batch.
    """

    name: ClassVar[str] = IMAGE_CLASSIFICATION
    metrics = METRICS_BY_TASK[IMAGE_CLASSIFICATION]
    default_metric = DEFAULT_METRICS[IMAGE_CLASSIFICATION]
    auto_class = "AutoModelForImageClassification"
    peft_task_type = None
    modality = "image"

    def choose_columns(self, table: Table, wanted: Columns) -> ChosenColumns:
        """Return the columns of pictures and labels; never one of file names."""
        from autopeft.workers.data.task_columns import choose_image

        return choose_image(table, wanted)

    def clean(self, table: Table, columns: ChosenColumns) -> tuple[Table, int]:
        """Return all rows: :meth:`make_rows` refuses one without a picture."""
        return table, 0

    def make_rows(self, table: Table, columns: ChosenColumns, labels: list[Any]) -> Rows:
        """Return pictures beside labels that are already uniform."""
        from autopeft.workers.data.images import make_image_rows

        return make_image_rows(table, columns, labels)

    def what_is_equal(self, rows: Rows) -> str:
        """Say that it is the picture."""
        return "of equal picture"

    def keys(self, rows: Rows) -> list[str]:
        """Return a hash of each picture's bytes."""
        from autopeft.workers.data.media import content_key

        return [content_key(picture) for picture in rows.columns["image"]]

    def encode(
        self, rows: Rows, labels: NDArray[Any], processor: Any, settings: EncodingSettings
    ) -> EncodedSplit:
        """Return pictures of the model's size."""
        from autopeft.workers.data.images import encode_images

        return encode_images(rows, labels, processor, SCALE)

    def forward(self, model: Any, batch: Mapping[str, torch.Tensor]) -> Any:
        """Return outputs for pictures, normalised here where they are bytes."""
        pixels = batch[PIXELS]
        if not pixels.is_floating_point():
            mean, std = batch[SCALE][..., None, None].unbind(dim=1)
            pixels = (pixels.float() / 255 - mean) / std
        return model(pixel_values=pixels)
