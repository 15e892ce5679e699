from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from autopeft.errors import ExportError
from autopeft.records import Segment, SegmentDone
from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.workers.assets import write_assets
from autopeft.workers.checkpoints import read_outputs
from autopeft.workers.data.tokenization import encode_texts
from autopeft.workers.dataset import EncodedData
from autopeft.workers.models import load_config, load_tokenizer, resolve_model
from autopeft.workers.settings import ModelSettings, TrainingSettings, WorkerSettings
from autopeft.workers.shapes import model_shape
from autopeft.workers.verify import load_export, verify_export
from autopeft.workers.worker import Worker, WorkerPlan
from tests.workers import tiny
from tests.workers.test_assets import FACTS

ROWS = tiny.make_rows(23, 2)


def export(name: str, folder: Path, tiny_folder: Path, plan: WorkerPlan) -> tuple[Path, Path]:
    """Train a few steps and lay an export out; return it and the checkpoint."""
    worker = Worker(tiny.make_settings(tiny_folder, folder / "checkpoints"), plan)
    event = worker.run(tiny.first_segment(0, name))
    assert isinstance(event, SegmentDone), event
    checkpoint = folder / "checkpoints" / event.measurement.checkpoint
    target = folder / "export"
    write_assets(target, plan.source, facts=FACTS)
    shutil.copytree(checkpoint / "adapter", target, dirs_exist_ok=True)
    return target, checkpoint


@pytest.mark.parametrize("name", tiny.CONFIGURATIONS)
def test_export_predicts_what_was_recorded(
    name: str, tmp_path: Path, tiny_folder: Path, tiny_plan: WorkerPlan
) -> None:
    target, checkpoint = export(name, tmp_path, tiny_folder, tiny_plan)
    recorded = checkpoint / "validation.safetensors"
    report = verify_export(target, ROWS, recorded, base_folder=tiny_folder)

    assert report.is_exact
    assert report.num_rows == 23
    assert report.max_abs_difference == 0.0
    assert report.metric == "accuracy"
    assert report.metric_value == report.recorded_metric_value


SCRIPT = """
import sys
import numpy as np
import torch
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

base, export, recorded, *texts = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(export)
model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
model = PeftModel.from_pretrained(model, export).eval()
batch = tokenizer(texts, truncation=True, max_length=12, padding=True, return_tensors="pt")
with torch.no_grad():
    outputs = model(**batch).logits.numpy()
assert "autopeft" not in sys.modules
np.testing.assert_allclose(outputs, load_file(recorded)["outputs"], atol=1e-5)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "dora", "ia3", "beft", "prefix", "head"])
def test_plain_transformers_and_peft_load_it_in_a_new_process(
    name: str, tmp_path: Path, tiny_folder: Path, tiny_plan: WorkerPlan
) -> None:
    target, checkpoint = export(name, tmp_path, tiny_folder, tiny_plan)
    recorded = str(checkpoint / "validation.safetensors")
    arguments = [str(tiny_folder), str(target), recorded, *ROWS.text]
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stderr


def test_other_weights_are_noticed(
    tmp_path: Path, tiny_folder: Path, tiny_plan: WorkerPlan
) -> None:
    target, checkpoint = export("lora", tmp_path, tiny_folder, tiny_plan)
    path = target / "adapter_model.safetensors"
    tensors = {key: tensor.flip(0).contiguous() for key, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    recorded = read_outputs(checkpoint)
    report = verify_export(target, ROWS, recorded, base_folder=tiny_folder)

    assert report.max_abs_difference > 0.01
    assert not report.is_exact


@pytest.mark.parametrize(("lead", "num_mismatches"), [(1e-6, 0), (0.5, 1)])
def test_a_tie_may_fall_either_way(
    lead: float, num_mismatches: int, tmp_path: Path, tiny_folder: Path, tiny_plan: WorkerPlan
) -> None:
    target, checkpoint = export("lora", tmp_path, tiny_folder, tiny_plan)
    outputs, labels = read_outputs(checkpoint)
    predicted = int(outputs[0].argmax())
    outputs[0, (predicted + 1) % 3] = outputs[0, predicted] + lead
    report = verify_export(target, ROWS, (outputs, labels), base_folder=tiny_folder)

    assert report.num_prediction_mismatches == num_mismatches


def test_regression_compares_values(tmp_path: Path, tiny_folder: Path) -> None:
    plan = tiny.make_plan(tiny_folder, id2label=None)
    settings = tiny.make_settings(tiny_folder, tmp_path).model_copy(
        update={"task": "regression", "metric": "spearman", "num_outputs": 1}
    )
    event = Worker(settings, plan).run(tiny.first_segment(0, "ia3"))
    assert isinstance(event, SegmentDone), event
    checkpoint = tmp_path / event.measurement.checkpoint
    facts = {**FACTS, "task": "regression", "metric": "spearman", "num_labels": 1, "id2label": None}
    write_assets(tmp_path / "export", plan.source, facts=facts)
    shutil.copytree(checkpoint / "adapter", tmp_path / "export", dirs_exist_ok=True)
    outputs, labels = read_outputs(checkpoint)
    same = verify_export(tmp_path / "export", ROWS, (outputs, labels), base_folder=tiny_folder)
    shifted = outputs.copy()
    shifted[:5] += 0.1
    other = verify_export(tmp_path / "export", ROWS, (shifted, labels), base_folder=tiny_folder)

    assert (same.num_prediction_mismatches, same.max_abs_difference) == (0, 0.0)
    assert same.metric_value == event.measurement.score
    assert other.num_prediction_mismatches == 5


def test_another_number_of_rows_is_refused(
    tmp_path: Path, tiny_folder: Path, tiny_plan: WorkerPlan
) -> None:
    target, _ = export("head", tmp_path, tiny_folder, tiny_plan)
    recorded = (np.zeros((2, 3), dtype=np.float32), np.zeros(2, dtype=np.int64))
    with pytest.raises(ExportError, match="2 rows were recorded, 23 are to be compared"):
        verify_export(target, ROWS, recorded, base_folder=tiny_folder)


def test_folder_that_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"cannot read .*autopeft\.json"):
        load_export(tmp_path)


def test_export_without_adapter_is_refused(
    tmp_path: Path, tiny_folder: Path, tiny_plan: WorkerPlan
) -> None:
    write_assets(tmp_path / "export", tiny_plan.source, facts=FACTS)
    with pytest.raises(ExportError, match=r"neither adapter_config\.json nor parts"):
        load_export(tmp_path / "export", base_folder=tiny_folder)


def test_missing_recording_is_refused(
    tmp_path: Path, tiny_folder: Path, tiny_plan: WorkerPlan
) -> None:
    with pytest.raises(ExportError, match="cannot read the recorded outputs"):
        verify_export(tmp_path, ROWS, tmp_path / "validation.safetensors")


MINILM_LAYERS = (0, 1, 2, 3, 4, 5)
MINILM_SITES = ("q", "k", "v", "attention_output", "ffn_in", "ffn_out")
MINILM_MODULES = {
    "lora": Module.of(
        "lora",
        MINILM_LAYERS,
        rank=4,
        alpha_ratio=2.0,
        sites=MINILM_SITES,
        dora=False,
        rslora=False,
    ),
    "dora": Module.of(
        "lora", (4, 5), rank=4, alpha_ratio=2.0, sites=MINILM_SITES, dora=True, rslora=True
    ),
    "ia3": Module.of("ia3", MINILM_LAYERS, sites=("k", "v", "ffn_out")),
    "beft": Module.of("beft", MINILM_LAYERS, sites=("q", "v", "ffn_out")),
    "prefix": Module.of("prefix", MINILM_LAYERS, prefix_length=8),
}


@pytest.mark.parametrize(
    "name",
    ["lora", *(pytest.param(n, marks=pytest.mark.slow) for n in ("dora", "ia3", "beft", "prefix"))],
)
def test_minilm_in_segments_and_back(name: str, tmp_path: Path) -> None:
    source = resolve_model(ModelSettings(name="builtin:minilm"), tmp_path)
    tokenizer = load_tokenizer(source)
    rows = tiny.make_rows(8, 2)
    labels = np.array(rows.label)
    split = encode_texts(rows, labels, tokenizer, 12)
    shape = model_shape(source, load_config(source, 3, tiny.CLASSES, "classification"))
    plan = WorkerPlan(
        source=source,
        data=EncodedData(train=split, validation=split, pad_token_id=tokenizer.pad_token_id),
        id2label=tiny.CLASSES,
        shape=shape,
    )
    settings = WorkerSettings(
        model=ModelSettings(name="builtin:minilm"),
        task="classification",
        metric="accuracy",
        training=TrainingSettings(batch_size=4, max_tokens=12, steps=2),
        num_outputs=3,
        seed=0,
        checkpoints=tmp_path / "checkpoints",
    )
    worker = Worker(settings, plan)
    chosen = Configuration(modules=(MINILM_MODULES[name],), learning_rate=0.01)
    trial = tiny.make_trial(0, chosen)
    first = worker.run(Segment(trial=trial, from_step=0, to_step=1))
    assert isinstance(first, SegmentDone), first
    last = worker.run(
        Segment(trial=trial, from_step=1, to_step=2, checkpoint=first.measurement.checkpoint)
    )
    assert isinstance(last, SegmentDone), last
    checkpoint = settings.checkpoints / last.measurement.checkpoint
    in_parts = read_outputs(checkpoint)[0]
    whole = worker.run(Segment(trial=trial, from_step=0, to_step=2))
    assert isinstance(whole, SegmentDone), whole
    write_assets(tmp_path / "export", source, facts=FACTS)
    shutil.copytree(checkpoint / "adapter", tmp_path / "export", dirs_exist_ok=True)
    report = verify_export(
        tmp_path / "export",
        rows,
        checkpoint / "validation.safetensors",
        base_folder=Path(source.location),
    )

    assert np.array_equal(read_outputs(checkpoint)[0], in_parts)
    assert report.max_abs_difference == 0.0
    assert report.metric_value == last.measurement.score
    assert torch.isfinite(torch.from_numpy(in_parts)).all()
