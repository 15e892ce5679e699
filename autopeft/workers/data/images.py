"""Pictures as rows: pixels, or encoded files that are opened when they are needed."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.errors import DataError
from autopeft.workers.data.columns import ChosenColumns
from autopeft.workers.data.media import MediaSettings, from_base64, read_bytes, refuse_missing
from autopeft.workers.data.table import Table
from autopeft.workers.dataset import EncodedSplit, Field, Rows

#: Endings of file names that are opened with Pillow.
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*")

#: A picture is an array of bytes, ``h x w x c``, or an encoded file.
Picture = NDArray[np.uint8] | bytes


def make_image_rows(table: Table, columns: ChosenColumns, labels: list[Any]) -> Rows:
    """Return pictures beside labels that are already uniform.

    Raises:
        DataError: a value is no picture; the message names its place.
    """
    refuse_missing(table, columns)
    column = columns.inputs["image"]
    media = table.media or MediaSettings()
    pictures = [
        read_picture(value, media, table.where(row), column)
        for row, value in enumerate(table.columns[column])
    ]
    return Rows(columns={"image": pictures}, label=labels)


def read_picture(value: Any, media: MediaSettings, where: str, column: str) -> Picture:
    """Return a picture from what a data set may hold.

    Args:
        value: Base64 of bytes of pixels (row by row, the channels of a pixel together) or of an
            encoded file; the path of one; a mapping with ``bytes`` or ``path``, as the hub has
            it; nested lists or an array of pixels; a picture of Pillow.
        media: Where paths start, and the shape of bare pixels.
        where: Place, for messages.
        column: Its name, for messages.

    Raises:
        DataError: it is no picture, or not of the given shape.
    """
    if isinstance(value, dict):
        content, path = value.get("bytes"), value.get("path")
        value = content if content is not None else path
    if isinstance(value, str):
        if value.casefold().endswith(SUFFIXES):
            return read_bytes(media.folder / value, where, column)
        value = from_base64(value, where, column)
    if isinstance(value, bytes):
        is_file = value.startswith(_SIGNATURES) and not _is_raw(value, media.image_shape)
        return value if is_file else _from_pixels(value, media.image_shape, where, column)
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.empty(0)
    if array.ndim not in (2, 3) or array.dtype.kind not in "iu":
        raise DataError(
            f"{where}: column {column!r} holds a {type(value).__name__}, which is no picture",
            hint="expected bytes of pixels in base64, lists of pixels, or .png and .jpg files",
        )
    if array.min() < 0 or array.max() > 255:
        raise DataError(
            f"{where}: column {column!r} holds pixels from {array.min()} to {array.max()}; "
            "expected 0 to 255",
            hint="scale them",
        )
    return array.astype(np.uint8)


def _is_raw(content: bytes, shape: tuple[int, ...] | None) -> bool:
    """Return whether bytes are pixels of the given shape, whatever they begin with."""
    return shape is not None and len(content) == math.prod(shape)


def _from_pixels(
    content: bytes, shape: tuple[int, ...] | None, where: str, column: str
) -> NDArray[np.uint8]:
    size = len(content)
    if shape is None:
        for channels in (3, 1):
            side = math.isqrt(size // channels)
            if side > 0 and side * side * channels == size:
                shape = (side, side, channels)
    if shape is None or math.prod(shape) != size:
        expected = "a square picture, grey or RGB" if shape is None else " x ".join(map(str, shape))
        raise DataError(
            f"{where}: column {column!r} holds {size} bytes of pixels; expected {expected}",
            hint="data: {image_shape: [HEIGHT, WIDTH, CHANNELS]}",
        )
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def encode_images(rows: Rows, labels: NDArray[Any], processor: Any, scale: str) -> EncodedSplit:
    """Return pictures of the model's size as bytes, and in ``scale`` how they are normalised.

    Bytes take a quarter of the memory of the numbers a model takes; those are made batch by
    batch.

    Raises:
        DataError: a picture cannot be opened, or has another number of channels.
    """
    pictures: Sequence[Picture] = rows.columns["image"]
    shape = (len(pictures), processor.num_channels, processor.height, processor.width)
    pixels = np.empty(shape, dtype=np.uint8)
    for i, picture in enumerate(pictures):
        array = _opened(picture, i) if isinstance(picture, bytes) else picture
        pixels[i] = processor.resized([array])[0]
    channels = np.ones(processor.num_channels, dtype=np.float32)
    one = np.stack([channels * np.float32(processor.mean), channels * np.float32(processor.std)])
    every = np.tile(one, (len(pictures), 1, 1)).astype(np.float32)
    return EncodedSplit(
        fields={"pixel_values": Field(values=pixels), scale: Field(values=every)}, labels=labels
    )


def _opened(content: bytes, number: int) -> NDArray[np.uint8]:
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(
            "the pictures are encoded files, and the library that opens them (Pillow) is not "
            "installed",
            hint="pip install pillow, or give pixels: base64 of height x width x 3 bytes",
        ) from error
    try:
        with Image.open(io.BytesIO(content)) as picture:
            is_grey = picture.mode in ("1", "L", "I;16")
            array: NDArray[np.uint8] = np.asarray(picture.convert("L" if is_grey else "RGB"))
            return array
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"picture {number} cannot be opened: {error}") from error
