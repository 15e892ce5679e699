from __future__ import annotations

import base64
import importlib.util
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autopeft.errors import DataError
from autopeft.workers.data import collate
from autopeft.workers.data.images import read_picture
from autopeft.workers.data.media import MediaSettings
from autopeft.workers.data.table import Table
from autopeft.workers.dataset import EncodedSplit, Rows
from autopeft.workers.processors import ImageProcessor
from autopeft.workers.settings import Columns
from autopeft.workers.tasks.base import EncodingSettings, Task
from autopeft.workers.tasks.image_classification import ImageClassification
from tests.workers import families
from tests.workers.tasks.contract import TaskContract
from tests.workers.tasks.parts import splits_of

TASK = ImageClassification()
PROCESSOR = ImageProcessor(height=8, width=8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.4, 0.3))
HAS_PILLOW = importlib.util.find_spec("PIL") is not None


def picture(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape or (8, 8, 3), dtype=np.uint8)


def rows_of(*labels: str) -> Rows:
    return Rows(columns={"image": [picture(i) for i in range(len(labels))]}, label=list(labels))


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def read(value: Any, **settings: Any) -> Any:
    return read_picture(value, MediaSettings(**settings), "train.jsonl, line 1", "image")


def encode(rows: Rows) -> EncodedSplit:
    labels = np.arange(len(rows)) % 3
    return TASK.encode(rows, labels, PROCESSOR, EncodingSettings(max_tokens=8))


def batch_of(split: EncodedSplit) -> dict[str, torch.Tensor]:
    arrays = collate(split, np.arange(len(split)), 0)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


class TestImageClassification(TaskContract):
    @pytest.fixture
    def task(self) -> Task:
        return TASK

    @pytest.fixture
    def splits(self) -> Any:
        return splits_of(rows_of("cat", "dog", "cat"), rows_of("dog", "cat"), rows_of("cat"))

    @pytest.fixture
    def perfect(self, task: Task, splits: Any) -> NDArray[np.float32]:
        return np.array([[0, 40], [40, 0]], dtype=np.float32)


def test_bytes_become_what_the_processor_makes() -> None:
    """Normalising late gives the model what the processor gives, up to rounding."""
    rows = rows_of("a", "b", "c")
    split = encode(rows)
    batch = batch_of(split)
    seen: dict[str, torch.Tensor] = {}
    TASK.forward(lambda **inputs: seen.update(inputs), batch)

    assert split.fields["pixel_values"].values.dtype == np.uint8
    assert set(seen) == {"pixel_values"}
    np.testing.assert_allclose(
        seen["pixel_values"].numpy(), PROCESSOR(rows.columns["image"]), atol=1e-6
    )


def test_pixels_that_are_normalised_already_stay_as_they_are() -> None:
    pixels = torch.randn(2, 3, 8, 8)
    seen: dict[str, torch.Tensor] = {}
    TASK.forward(lambda **inputs: seen.update(inputs), {"pixel_values": pixels})
    assert seen["pixel_values"] is pixels


def test_pictures_of_any_size_get_the_models() -> None:
    rows = Rows(columns={"image": [picture(0, 32, 20, 3), picture(1, 8, 8)]}, label=["a", "b"])
    assert encode(rows).fields["pixel_values"].values.shape == (2, 3, 8, 8)


def test_a_model_of_transformers_gives_a_logit_for_each_class() -> None:
    model = families.build("vit")
    batch = batch_of(encode(rows_of("a", "b")))
    with torch.inference_mode():
        outputs = TASK.forward(model, batch)
    assert TASK.reduce(outputs, batch).shape == (2, families.NUM_CLASSES)
    assert TASK.loss(outputs, batch).isfinite()


@pytest.mark.parametrize("shape", [(8, 8, 3), (4, 4)])
def test_bytes_of_pixels_are_square_unless_told_otherwise(shape: tuple[int, ...]) -> None:
    image = picture(0, *shape)
    made = read(base64_of(image.tobytes()))
    np.testing.assert_array_equal(made.squeeze(), image)


def test_a_shape_is_taken_from_the_job() -> None:
    image = picture(0, 4, 7, 3)
    np.testing.assert_array_equal(read(image.tobytes(), image_shape=(4, 7, 3)), image)
    with pytest.raises(DataError, match="holds 84 bytes of pixels; expected 4 x 8 x 3"):
        read(image.tobytes(), image_shape=(4, 8, 3))
    with pytest.raises(DataError, match="84 bytes of pixels; expected a square picture"):
        read(image.tobytes())


def test_lists_of_pixels_are_pictures() -> None:
    image = picture(0, 2, 2, 3)
    np.testing.assert_array_equal(read(image.tolist()), image)
    np.testing.assert_array_equal(read({"bytes": image.tobytes(), "path": None}), image)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ("no picture", "'no picture', which is neither base64 nor the name of a file"),
        ([[0.5, 1.0]], "holds a list, which is no picture"),
        ([[0, 256]], "pixels from 0 to 256; expected 0 to 255"),
        ([[0, 1], [0]], "holds a list, which is no picture"),
        ("gone.png", "names 'gone.png', which cannot be read: No such file"),
        (3, "holds a int, which is no picture"),
    ],
)
def test_what_is_no_picture_is_refused(value: Any, match: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"train.jsonl, line 1: column 'image' .*{match}"):
        read(value, folder=tmp_path)


def test_files_are_opened_with_pillow(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = picture(0)
    buffer = io.BytesIO()
    image.fromarray(pixels).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    pictures = [read("a.png", folder=tmp_path), read(base64_of(buffer.getvalue()))]
    rows = Rows(columns={"image": pictures}, label=["a", "b"])

    made = encode(rows).fields["pixel_values"].values
    np.testing.assert_array_equal(made[0], pixels.transpose(2, 0, 1))
    np.testing.assert_array_equal(made[1], made[0])


@pytest.mark.skipif(HAS_PILLOW, reason="Pillow is installed")
def test_without_pillow_encoded_files_are_refused() -> None:
    rows = Rows(columns={"image": [b"\x89PNG..."]}, label=["a"])
    with pytest.raises(DataError, match="Pillow\\) is not installed"):
        encode(rows)


def test_a_column_that_names_files_is_never_inferred() -> None:
    table = Table(
        columns={"file": ["dog/1.png"], "path": ["x"], "label": [0]}, origin="train.jsonl"
    )
    with pytest.raises(DataError, match="cannot tell which column holds the image"):
        TASK.choose_columns(table, Columns())
    assert TASK.choose_columns(table, Columns(image="file")).inputs == {"image": "file"}


def test_a_row_without_a_picture_is_refused() -> None:
    table = Table(columns={"image": [None], "label": [0]}, origin="train.jsonl")
    columns = TASK.choose_columns(table, Columns())
    with pytest.raises(DataError, match="row 0: column 'image' is empty"):
        TASK.make_rows(table, columns, [0])


def test_equal_pictures_share_a_key() -> None:
    same = Rows(columns={"image": [picture(0), picture(0), picture(1)]}, label=[0, 0, 0])
    first, second, third = TASK.keys(same)
    assert first == second != third


def test_pixels_do_not_need_the_memory_of_floats() -> None:
    split = encode(rows_of("a", "b", "c"))
    assert split.fields["pixel_values"].nbytes == 3 * 8 * 8 * 3
