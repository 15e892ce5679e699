"""A language model in the worker: segments, packing, and a loss that falls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autopeft.errors import ModelError
from autopeft.records import Segment, SegmentDone
from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.workers import worker as worker_module
from autopeft.workers.checkpoints import read_checkpoint, read_outputs
from autopeft.workers.worker import Worker
from tests.workers import tiny, tiny_lm
from tests.workers.tasks.test_seq2seq_lm import make_t5

LORA = Module.of(
    "lora",
    (0, 1),
    rank=4,
    alpha_ratio=2.0,
    sites=("q", "v", "ffn_in", "ffn_out"),
    dora=False,
    rslora=False,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_lm.write_model(tmp_path_factory.mktemp("models") / "tiny-llama")


def make_worker(
    folder: Path, checkpoints: Path, *, packing: bool = False, **training: Any
) -> Worker:
    settings = tiny_lm.make_settings(folder, checkpoints, packing=packing, **training)
    return Worker(settings, tiny_lm.make_plan(folder, packing=packing))


def run(worker: Worker, start: int, end: int, checkpoint: str | None = None) -> Any:
    chosen = Configuration(modules=(LORA,), learning_rate=0.05)
    segment = Segment(
        trial=tiny.make_trial(0, chosen), from_step=start, to_step=end, checkpoint=checkpoint
    )
    event = worker.run(segment)
    assert isinstance(event, SegmentDone), event
    return event.measurement


@pytest.mark.parametrize("packing", [False, True])
def test_segments_equal_one_go_bit_for_bit(folder: Path, tmp_path: Path, packing: bool) -> None:
    in_parts = make_worker(folder, tmp_path / "parts", packing=packing, batch_size=4)
    first = run(in_parts, 0, 2)
    last = run(in_parts, 2, 4, first.checkpoint)
    whole = run(make_worker(folder, tmp_path / "whole", packing=packing, batch_size=4), 0, 4)
    one, other = (
        read_checkpoint(tmp_path / name, m.checkpoint)
        for name, m in (("parts", last), ("whole", whole))
    )

    assert last.score == whole.score
    assert one.optimizer.keys() == other.optimizer.keys() != set()
    assert all(bool((one.optimizer[k] == other.optimizer[k]).all()) for k in one.optimizer)
    outputs = [
        read_outputs(tmp_path / name / m.checkpoint)[0]
        for name, m in (("parts", last), ("whole", whole))
    ]
    assert np.array_equal(outputs[0], outputs[1])
    assert outputs[0].shape == (12, 2)


def test_an_encoder_decoder_is_trained_in_segments(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    folder = tmp_path_factory.mktemp("models") / "tiny-t5"
    make_t5().save_pretrained(folder)
    tiny_lm.make_tokenizer(pad_token="</s>").save_pretrained(folder)
    plan = tiny_lm.make_plan(folder, task_name="seq2seq-lm")
    settings = tiny_lm.make_settings(folder, tmp_path, batch_size=4)
    worker = Worker(settings.model_copy(update={"task": "seq2seq-lm"}), plan)
    first = run(worker, 0, 2)
    last = run(worker, 2, 4, first.checkpoint)
    in_parts = read_outputs(tmp_path / last.checkpoint)[0]
    whole = run(worker, 0, 4)

    assert last.score == whole.score
    assert np.array_equal(in_parts, read_outputs(tmp_path / whole.checkpoint)[0])
    assert last.score != first.score


@pytest.mark.parametrize("packing", [False, True])
def test_the_loss_falls(folder: Path, tmp_path: Path, packing: bool) -> None:
    worker = make_worker(folder, tmp_path, packing=packing, steps=24, batch_size=8)
    early = run(worker, 0, 1)
    late = run(worker, 1, 24, early.checkpoint)

    assert late.metrics["loss"] < 0.8 * early.metrics["loss"]
    assert late.metrics["perplexity"] == pytest.approx(np.exp(late.metrics["loss"]))
    assert late.score == -late.metrics["loss"]


def test_packing_is_refused_where_examples_see_each_other(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mixes(model: Any, tokens: Any) -> None:
        raise ModelError("examples see each other")

    make_worker(folder, tmp_path)
    monkeypatch.setattr(worker_module, "check_model_keeps_examples_apart", mixes)
    make_worker(folder, tmp_path)
    with pytest.raises(ModelError, match="see each other"):
        make_worker(folder, tmp_path, packing=True)
