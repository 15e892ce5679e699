from __future__ import annotations

import base64
import io
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autopeft.errors import DataError
from autopeft.workers.data import collate
from autopeft.workers.data.media import MediaSettings
from autopeft.workers.data.sounds import read_sound, resample
from autopeft.workers.data.table import Table
from autopeft.workers.dataset import EncodedSplit, Rows
from autopeft.workers.settings import Columns
from autopeft.workers.tasks.audio_classification import AudioClassification
from autopeft.workers.tasks.base import EncodingSettings, Task
from tests.workers import families
from tests.workers.tasks.contract import TaskContract
from tests.workers.tasks.parts import splits_of

TASK = AudioClassification()
RATE = 8000


def tone(hertz: float, seconds: float = 0.2, rate: int = RATE) -> NDArray[np.float32]:
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate).astype(np.float32)


def pcm16(samples: NDArray[np.float32]) -> bytes:
    return (samples * 32767).astype("<i2").tobytes()


def wav(samples: NDArray[np.float32], *, channels: int = 1, width: int = 2) -> bytes:
    buffer = io.BytesIO()
    exact = samples.astype(np.float64)
    scaled = {
        1: (exact * 127 + 128).astype("u1"),
        2: (exact * 32767).astype("<i2"),
        3: np.zeros((len(samples), 3), "u1"),
        4: (exact * (2**31 - 1)).astype("<i4"),
    }[width]
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(RATE)
        file.writeframes(np.repeat(scaled, channels, axis=0).tobytes())
    return buffer.getvalue()


def rows_of(*labels: str) -> Rows:
    sounds = [tone(200 * (i + 1)) for i in range(len(labels))]
    return Rows(columns={"audio": sounds, "sample_rate": [RATE] * len(labels)}, label=list(labels))


def read(value: Any, folder: Path = Path()) -> tuple[NDArray[np.float32], int | None]:
    return read_sound(value, MediaSettings(folder=folder), "train.jsonl, line 1", "audio")


def spectrograms() -> Any:
    """Return the extractor of the tiny AST."""
    from transformers import ASTFeatureExtractor

    return ASTFeatureExtractor(num_mel_bins=16, max_length=24)


def encode(rows: Rows, extractor: Any) -> EncodedSplit:
    labels = np.arange(len(rows)) % 3
    return TASK.encode(rows, labels, extractor, EncodingSettings(max_tokens=8))


class TestAudioClassification(TaskContract):
    @pytest.fixture
    def task(self) -> Task:
        return TASK

    @pytest.fixture
    def splits(self) -> Any:
        return splits_of(rows_of("one", "two", "one"), rows_of("two", "one"), rows_of("one"))

    @pytest.fixture
    def perfect(self, task: Task, splits: Any) -> NDArray[np.float32]:
        return np.array([[0, 40], [40, 0]], dtype=np.float32)


@pytest.mark.parametrize("hertz", [100.0, 440.0, 1000.0])
def test_a_tone_stays_a_tone_at_another_rate(hertz: float) -> None:
    """Against the closed form, away from the ends, where the filter sees silence."""
    made = resample(tone(hertz), RATE, 16_000)
    expected = tone(hertz, rate=16_000)

    assert made.shape == expected.shape
    assert made.dtype == np.float32
    np.testing.assert_allclose(made[400:-400], expected[400:-400], atol=0.01)


def test_the_same_rate_changes_nothing() -> None:
    samples = tone(100)
    assert resample(samples, RATE, RATE) is samples


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav_files_are_read(tmp_path: Path, width: int, channels: int) -> None:
    samples = tone(300) * 0.5
    (tmp_path / "a.WAV").write_bytes(wav(samples, width=width, channels=channels))
    made, rate = read("a.WAV", tmp_path)

    assert rate == RATE
    np.testing.assert_allclose(made, samples, atol=0.02 if width == 1 else 1e-4)


@pytest.mark.parametrize(
    "value",
    [
        pcm16(tone(300)),
        base64.b64encode(pcm16(tone(300))).decode(),
        base64.b64encode(wav(tone(300))).decode(),
        {"bytes": wav(tone(300)), "path": "gone.wav"},
        {"array": tone(300), "sampling_rate": RATE},
        (tone(300) * 32767).astype(np.int16).tolist(),
        tone(300).tolist(),
        np.stack([tone(300), tone(300)]),
    ],
)
def test_recordings_come_in_many_forms(value: Any) -> None:
    made, rate = read(value)
    assert made.dtype == np.float32
    assert rate in (None, RATE)
    np.testing.assert_allclose(made, tone(300), atol=1e-4)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ("no sound", "neither base64 nor the name of a file"),
        ("gone.wav", "names 'gone.wav', which cannot be read: No such file"),
        (b"abc", "holds 3 bytes; expected 16-bit samples"),
        (b"RIFF????WAVE", "names a WAV file that cannot be read"),
        (wav(tone(300), width=3), "24-bit samples"),
        ([], "holds a list, which is no recording"),
        ([0.0, float("nan")], "samples that are not finite"),
    ],
)
def test_what_is_no_recording_is_refused(value: Any, match: str) -> None:
    with pytest.raises(DataError, match=f"train.jsonl, line 1: column 'audio' .*{match}"):
        read(value)


def table_of(**columns: list[Any]) -> Table:
    return Table(
        columns={"pcm16_b64": [base64.b64encode(pcm16(tone(300))).decode()], **columns},
        origin="train.jsonl",
        media=MediaSettings(sample_rate=None),
    )


def test_rate_comes_from_a_column() -> None:
    table = table_of(sample_rate=[RATE], label=["a"], file=["a_1.wav"])
    columns = TASK.choose_columns(table, Columns())
    rows = TASK.make_rows(table, columns, ["a"])

    assert columns.inputs == {"audio": "pcm16_b64", "sample_rate": "sample_rate"}
    assert rows.columns["sample_rate"] == [RATE]


def test_an_unknown_rate_is_refused() -> None:
    table = table_of(label=["a"])
    columns = TASK.choose_columns(table, Columns())
    with pytest.raises(DataError, match=r"row 0: the samples per second .* are None") as caught:
        TASK.make_rows(table, columns, ["a"])
    assert caught.value.hint is not None
    assert "sample_rate: 16000" in caught.value.hint


def test_spectrograms_have_one_size_for_all() -> None:
    sounds = [tone(300, 0.05), tone(300, 1.0), tone(300, 0.001)]
    rows = Rows(columns={"audio": sounds, "sample_rate": [RATE] * 3}, label=["a", "b", "a"])
    split = encode(rows, spectrograms())

    assert set(split.fields) == {"input_values"}
    assert split.fields["input_values"].values.shape == (3, 24, 16)
    assert split.fields["input_values"].values.dtype == np.float32


def test_raw_samples_are_filled_up_to_the_longest_of_the_split() -> None:
    from transformers import Wav2Vec2FeatureExtractor

    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True, do_normalize=False)
    sounds = [tone(300, 0.1), tone(300, 0.2)]
    rows = Rows(columns={"audio": sounds, "sample_rate": [RATE] * 2}, label=["a", "b"])
    fields = encode(rows, extractor).fields

    assert fields["input_values"].values.shape == (2, 3200)
    assert fields["attention_mask"].values.sum(axis=1).tolist() == [1600, 3200]
    assert not fields["input_values"].values[0, 1600:].any()


def test_a_model_of_transformers_gives_a_logit_for_each_class() -> None:
    model = families.build("ast")
    split = encode(rows_of("a", "b"), spectrograms())
    batch = {
        name: torch.from_numpy(array) for name, array in collate(split, np.arange(2), 0).items()
    }
    with torch.inference_mode():
        outputs = TASK.forward(model, batch)
    assert TASK.reduce(outputs, batch).shape == (2, families.NUM_CLASSES)


def test_equal_recordings_share_a_key() -> None:
    first, second, third = TASK.keys(
        Rows(columns={"audio": [tone(1), tone(1), tone(2)]}, label=[0, 0, 0])
    )
    assert first == second != third
