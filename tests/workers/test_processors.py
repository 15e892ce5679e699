from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoFeatureExtractor, AutoImageProcessor

from autopeft.errors import DataError, ModelError
from autopeft.workers.models import ModelSource, load_config, resolve_model
from autopeft.workers.processors import ImageProcessor, image_processor, load_processor
from autopeft.workers.settings import ModelSettings
from tests.workers import families, tiny

SMALL = ImageProcessor(height=2, width=2, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))


def source_of(folder: Path) -> ModelSource:
    return resolve_model(ModelSettings(name=str(folder)), folder)


def test_pixels_are_scaled_and_normalised_channel_by_channel() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 1] = (255, 255, 51)
    made = SMALL([image, image])

    assert made.shape == (2, 3, 2, 2)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made[0, :, 0, 1], [1.0, 3.0, 0.2], atol=1e-6)
    np.testing.assert_allclose(made[0, :, 0, 0], [-1.0, -1.0, 0.0], atol=1e-6)


def test_other_sizes_are_resized_to_their_mean() -> None:
    """Halving with antialiasing weighs a pixel's neighbours; a linear ramp keeps its values."""
    ramp = np.broadcast_to(np.arange(0, 240, 30, dtype=np.uint8)[None, :, None], (8, 8, 3))
    plain = ImageProcessor(height=4, width=4, mean=(0.0,), std=(1.0,))
    row = plain([np.ascontiguousarray(ramp)])[0, 0, 2] * 255

    np.testing.assert_allclose(row[1:3], [75.0, 135.0], atol=1e-3)


@pytest.mark.parametrize(("num_channels", "shape"), [(3, (2, 2)), (3, (2, 2, 1)), (1, (2, 2, 3))])
def test_colours_and_greys_are_turned_into_each_other(
    num_channels: int, shape: tuple[int, ...]
) -> None:
    processor = ImageProcessor(height=2, width=2, num_channels=num_channels)
    made = processor([np.full(shape, 255, np.uint8)])

    assert made.shape == (1, num_channels, 2, 2)
    np.testing.assert_allclose(made, 1.0)


@pytest.mark.parametrize("image", [np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2, 3), np.float32)])
def test_what_is_no_image_of_bytes_is_refused(image: Any) -> None:
    with pytest.raises(DataError, match=r"image 1 has shape \(2, 2, [34]\) .*expected bytes"):
        SMALL([np.zeros((2, 2, 3), np.uint8), image])


def test_the_models_size_wins_and_the_stored_mean_counts() -> None:
    stored = {"size": {"height": 224, "width": 224}, "image_mean": [0.1, 0.2, 0.3]}
    processor = image_processor(families.config_of("vit"), stored)

    assert (processor.height, processor.width, processor.num_channels) == (8, 8, 3)
    assert processor.mean == (0.1, 0.2, 0.3)
    assert image_processor(families.config_of("clip-vision"), {}).height == 8
    assert image_processor(families.config_of("vit"), {"do_normalize": False}).std == (1.0,)


def test_a_saved_image_processor_is_loaded_again(tmp_path: Path) -> None:
    folder = families.write(tmp_path / "vit", "vit")
    saved = ImageProcessor(height=8, width=8, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    saved.save_pretrained(folder)
    source = source_of(folder)

    assert load_processor(source, load_config(source, 3), "image") == saved
    assert json.loads((folder / "preprocessor_config.json").read_text())["do_rescale"] is True


@pytest.mark.parametrize("size", [8, 32, 5])
def test_images_are_those_of_transformers_to_one_level_of_grey(tmp_path: Path, size: int) -> None:
    pytest.importorskip("PIL")
    ours = ImageProcessor(height=8, width=8, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    ours.save_pretrained(tmp_path)
    theirs = AutoImageProcessor.from_pretrained(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    expected = theirs(image, return_tensors="np")["pixel_values"]

    np.testing.assert_allclose(ours([image]), expected, atol=1.01 / 255 / 0.4)


def test_texts_go_through_the_tokenizer(tmp_path: Path) -> None:
    source = source_of(tiny.write_model(tmp_path / "mine"))
    tokenizer = load_processor(source, load_config(source, 3), "text")

    assert tokenizer("good film")["input_ids"] == [2, 4, 8, 3]


def test_sounds_get_an_extractor_of_the_models_sizes(tmp_path: Path) -> None:
    source = source_of(families.write(tmp_path / "ast", "ast"))
    extractor = load_processor(source, load_config(source, 3), "audio")
    made = extractor([np.ones(4000, np.float32)], sampling_rate=16_000, return_tensors="np")

    assert made["input_values"].shape == (1, 24, 16)


def test_a_stored_extractor_is_taken(tmp_path: Path) -> None:
    folder = families.write(tmp_path / "ast", "ast")
    source = source_of(folder)
    extractor = load_processor(source, load_config(source, 3), "audio")
    extractor.mean = 0.125
    extractor.save_pretrained(folder)

    assert load_processor(source, load_config(source, 3), "audio").mean == 0.125
    assert AutoFeatureExtractor.from_pretrained(folder).mean == 0.125


def test_a_model_that_hears_nothing_is_refused(tmp_path: Path) -> None:
    source = source_of(tiny.write_model(tmp_path / "mine"))
    with pytest.raises(ModelError, match="no feature extractor for bert"):
        load_processor(source, load_config(source, 3), "audio")
