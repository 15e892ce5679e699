"""Recordings as rows, and as what an extractor of features makes of them."""

from __future__ import annotations

import io
import math
import wave
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.errors import DataError
from autopeft.workers.data.columns import ChosenColumns
from autopeft.workers.data.media import MediaSettings, from_base64, read_bytes, refuse_missing
from autopeft.workers.data.table import Table
from autopeft.workers.dataset import EncodedSplit, Field, Rows

#: Shorter recordings are filled up with silence: extractors look at windows of 25 ms.
MIN_SECONDS = 0.05
_INT16 = 2.0**15


def make_sound_rows(table: Table, columns: ChosenColumns, labels: list[Any]) -> Rows:
    """Return recordings (``float32`` in -1..1) and their sample rates beside uniform labels.

    Raises:
        DataError: a value is no recording, or its sample rate is not known.
    """
    refuse_missing(table, columns)
    column = columns.inputs["audio"]
    media = table.media or MediaSettings()
    rates = (
        table.columns[columns.inputs["sample_rate"]] if "sample_rate" in columns.inputs else None
    )
    sounds: list[NDArray[np.float32]] = []
    found: list[int] = []
    for row, value in enumerate(table.columns[column]):
        where = table.where(row)
        samples, own = read_sound(value, media, where, column)
        told = own or (rates[row] if rates is not None else media.sample_rate)
        sounds.append(samples)
        found.append(_rate(told, where))
    return Rows(columns={"audio": sounds, "sample_rate": found}, label=labels)


def read_sound(
    value: Any, media: MediaSettings, where: str, column: str
) -> tuple[NDArray[np.float32], int | None]:
    """Return samples in -1..1, and their rate where the value tells it.

    Args:
        value: Base64 of signed 16-bit samples (little endian, one channel) or of a WAV file;
            the path of one; a mapping with ``array`` and ``sampling_rate``, or with ``bytes`` or
            ``path``, as the hub has it; a list of samples.
        media: Where paths start.
        where: Place, for messages.
        column: Its name, for messages.

    Raises:
        DataError: it is no recording.
    """
    if isinstance(value, dict):
        if value.get("array") is not None:
            return _samples(value["array"], where, column), value.get("sampling_rate")
        content = value.get("bytes")
        value = content if content is not None else value.get("path")
    if isinstance(value, str):
        if value.casefold().endswith((".wav", ".wave")):
            value = read_bytes(media.folder / value, where, column)
        else:
            value = from_base64(value, where, column)
    if isinstance(value, bytes):
        if value.startswith(b"RIFF"):
            return _read_wav(value, where, column)
        if len(value) % 2 or not value:
            raise DataError(
                f"{where}: column {column!r} holds {len(value)} bytes; expected 16-bit samples or "
                "a WAV file",
                hint="convert compressed recordings to WAV",
            )
        return (np.frombuffer(value, dtype="<i2") / _INT16).astype(np.float32), None
    return _samples(value, where, column), None


def _samples(value: Any, where: str, column: str) -> NDArray[np.float32]:
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.empty(0)
    if array.ndim == 2:
        array = array.mean(axis=int(np.argmin(array.shape)))
    if array.ndim != 1 or array.dtype.kind not in "iuf" or not len(array):
        raise DataError(
            f"{where}: column {column!r} holds a {type(value).__name__}, which is no recording",
            hint="expected 16-bit samples in base64, lists of samples, or .wav files",
        )
    scale = _INT16 if array.dtype.kind in "iu" else 1.0
    samples: NDArray[np.float32] = (array / scale).astype(np.float32)
    if not np.all(np.isfinite(samples)):
        raise DataError(f"{where}: column {column!r} holds samples that are not finite")
    return samples


def _read_wav(content: bytes, where: str, column: str) -> tuple[NDArray[np.float32], int]:
    try:
        with wave.open(io.BytesIO(content)) as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            frames = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise DataError(
            f"{where}: column {column!r} names a WAV file that cannot be read: {error}",
            hint="expected uncompressed samples of 8, 16 or 32 bits",
        ) from error
    kinds: dict[int, tuple[np.dtype[Any], float]] = {
        1: (np.dtype("u1"), 128.0),
        2: (np.dtype("<i2"), _INT16),
        4: (np.dtype("<i4"), 2.0**31),
    }
    if width not in kinds or not frames:
        raise DataError(
            f"{where}: column {column!r} names a WAV file of {8 * width}-bit samples and "
            f"{len(frames)} bytes; expected 8, 16 or 32 bits, and a sound",
            hint="convert the file",
        )
    kind, scale = kinds[width]
    samples = np.frombuffer(frames, dtype=kind).reshape(-1, channels).mean(axis=1)
    if width == 1:
        samples = samples - scale
    return (samples / scale).astype(np.float32), rate


def _rate(value: Any, where: str) -> int:
    try:
        rate = int(value)
    except (TypeError, ValueError):
        rate = 0
    if rate < 1:
        raise DataError(
            f"{where}: the samples per second of the recording are {value!r}",
            hint="data: {sample_rate: 16000}, or name the column with data.columns.sample_rate",
        )
    return rate


def resample(samples: NDArray[np.float32], rate: int, wanted: int) -> NDArray[np.float32]:
    """Return samples at another rate, by a polyphase filter (``scipy.signal.resample_poly``)."""
    from scipy.signal import resample_poly

    if rate == wanted:
        return samples
    divisor = math.gcd(rate, wanted)
    made: NDArray[np.float32] = resample_poly(samples, wanted // divisor, rate // divisor)
    return made.astype(np.float32)


def encode_sounds(rows: Rows, labels: NDArray[Any], extractor: Any) -> EncodedSplit:
    """Return what the extractor makes of each recording at its own sample rate.

    Recordings of several lengths, where the extractor leaves them so, are filled up to the
    longest of the split, not of the batch: models without a mask would see the difference.
    """
    wanted = int(extractor.sampling_rate)
    made: dict[str, list[NDArray[Any]]] = {}
    for samples, rate in zip(rows.columns["audio"], rows.columns["sample_rate"], strict=True):
        sound = resample(samples, rate, wanted)
        sound = np.pad(sound, (0, max(0, math.ceil(MIN_SECONDS * wanted) - len(sound))))
        features = extractor(sound, sampling_rate=wanted, return_tensors="np")
        for name, array in features.items():
            made.setdefault(name, []).append(array[0])
    fields = {name: Field(values=_stacked(arrays)) for name, arrays in made.items()}
    return EncodedSplit(fields=fields, labels=labels)


def _stacked(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    """Return arrays of several lengths as one, filled with zeros at the end."""
    longest = max(len(array) for array in arrays)
    kind = np.float32 if arrays[0].dtype.kind == "f" else np.int64
    stacked = np.zeros((len(arrays), longest, *arrays[0].shape[1:]), dtype=kind)
    for i, array in enumerate(arrays):
        stacked[i, : len(array)] = array
    return stacked
