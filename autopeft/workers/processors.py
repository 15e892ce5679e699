"""What turns texts, images and sounds into a model's inputs.

Texts go through the model's tokenizer and sounds through its feature extractor, both of
transformers. The image processors of transformers need torchvision or Pillow; images that are
arrays of pixels already need neither, so :class:`ImageProcessor` does the same arithmetic.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from autopeft.errors import DataError, ModelError
from autopeft.workers.model_sources import ModelSource
from autopeft.workers.models import clear_errors, load_tokenizer, quiet_transformers

PROCESSOR_FILE = "preprocessor_config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageProcessor:
    """Scale, resize and normalise images that are arrays of pixels.

    Attributes:
        height: Rows of pixels the model takes.
        width: Columns of pixels.
        num_channels: 3 for RGB, 1 for grey.
        mean: Subtracted from each channel, after scaling to 0..1.
        std: Divides each channel after that.
    """

    height: int
    width: int
    num_channels: int = 3
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return ``n x c x height x width`` from images of ``h x w x c`` or ``h x w`` bytes.

        Images of another size are resized bilinearly, with antialiasing, as Pillow does. Grey
        images are repeated for a model of colours, colours averaged for a model of grey.

        Raises:
            DataError: an image has another number of channels, or is no array of bytes.
        """
        pixels = self.resized(images).astype(np.float32) / np.float32(255)
        mean, std = (np.asarray(x, np.float32).reshape(-1, 1, 1) for x in (self.mean, self.std))
        made: NDArray[np.float32] = (pixels - mean) / std
        return made

    def resized(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Return ``n x c x height x width`` bytes, rounded as Pillow does, not yet normalised.

        Raises:
            DataError: an image has another number of channels, or is no array of bytes.
        """
        return np.stack([self._one(np.asarray(image), n) for n, image in enumerate(images)])

    def _one(self, image: NDArray[Any], number: int) -> NDArray[np.uint8]:
        if image.ndim == 2:
            image = image[:, :, None]
        if image.ndim != 3 or image.shape[2] not in (1, 3) or image.dtype != np.uint8:
            raise DataError(
                f"image {number} has shape {image.shape} and type {image.dtype}; expected bytes "
                "of height x width x channels, with 1 or 3 channels"
            )
        if self.num_channels == 1 and image.shape[2] == 3:
            image = image.mean(axis=2, keepdims=True)
        pixels = torch.from_numpy(np.array(image.transpose(2, 0, 1))).float()
        pixels = pixels.expand(self.num_channels, -1, -1)
        if tuple(pixels.shape[1:]) != (self.height, self.width):
            pixels = F.interpolate(
                pixels[None], size=(self.height, self.width), mode="bilinear", antialias=True
            )[0]
        made: NDArray[np.uint8] = pixels.round().clamp(0, 255).byte().numpy()
        return made

    def save_pretrained(self, folder: Path | str) -> None:
        """Write ``preprocessor_config.json`` as transformers reads it."""
        settings = {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "rescale_factor": 1 / 255,
            "size": {"height": self.height, "width": self.width},
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }
        text = json.dumps(settings, indent=2)
        (Path(folder) / PROCESSOR_FILE).write_text(text, encoding="utf-8")


def load_processor(
    source: ModelSource, config: Any, modality: Literal["text", "image", "audio"]
) -> Any:
    """Return the model's tokenizer, image processor or feature extractor.

    A model without ``preprocessor_config.json`` gets one that follows from its config.

    Args:
        source: Where the model comes from.
        config: What ``load_config`` returned.
        modality: ``Task.modality``.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    if modality == "text":
        return load_tokenizer(source)
    if modality == "image":
        return image_processor(config, _stored_settings(source) or {})
    return _feature_extractor(source, config)


def image_processor(config: Any, stored: Mapping[str, Any]) -> ImageProcessor:
    """Return the processor that a model's config and its stored settings describe.

    Args:
        config: Config of a vision model, or of one with a ``vision_config``.
        stored: ``preprocessor_config.json``, or nothing. Its mean and deviation count; the
            size is the model's own, since its positions fit no other.
    """
    vision = getattr(config, "vision_config", None) or config
    size = getattr(vision, "image_size", None) or stored.get("size") or 224
    if isinstance(size, Mapping):
        size = (size.get("height") or size["shortest_edge"], size.get("width"))
    height, width = size if isinstance(size, list | tuple) else (size, size)
    normalises = bool(stored.get("do_normalize", True))
    return ImageProcessor(
        height=int(height),
        width=int(width or height),
        num_channels=int(getattr(vision, "num_channels", 3)),
        mean=tuple(stored.get("image_mean", (0.5,))) if normalises else (0.0,),
        std=tuple(stored.get("image_std", (0.5,))) if normalises else (1.0,),
    )


def _stored_settings(source: ModelSource) -> dict[str, Any] | None:
    from transformers.utils import cached_file

    with clear_errors(source, "the processor"), quiet_transformers():
        path = cached_file(
            source.location,
            PROCESSOR_FILE,
            revision=source.revision or "main",
            local_files_only=source.load_arguments["local_files_only"],
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if path is None:
            return None
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
    return stored if isinstance(stored, dict) else None


def _feature_extractor(source: ModelSource, config: Any) -> Any:
    """Return transformers' feature extractor, made from the config where none is stored."""
    from transformers import AutoFeatureExtractor
    from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING

    if _stored_settings(source) is not None:
        with clear_errors(source, "the feature extractor"), quiet_transformers():
            return AutoFeatureExtractor.from_pretrained(source.location, **source.load_arguments)
    if type(config) not in FEATURE_EXTRACTOR_MAPPING:
        raise ModelError(
            f"{source.public_name} has no {PROCESSOR_FILE}, and transformers has no feature "
            f"extractor for {config.model_type}",
            hint=f"put the {PROCESSOR_FILE} of the model beside its weights",
        )
    sizes = {
        name: getattr(config, name)
        for name in ("num_mel_bins", "max_length")
        if config.model_type == "audio-spectrogram-transformer"
    }
    if config.model_type == "whisper":
        sizes = {"feature_size": config.num_mel_bins}
    return FEATURE_EXTRACTOR_MAPPING[type(config)](**sizes)
