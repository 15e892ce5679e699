"""Exports of methods of ours, mixtures, language models and bases of half precision."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autopeft.records import Costs, Trial, TrialState, TrialStatus
from autopeft.results.exporters.base import ExportRequest
from autopeft.results.exporters.peft import PeftExporter
from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.search_spaces.domains import domain_of
from autopeft.search_spaces.method import get_method
from autopeft.workers.adapter_tensors import trainable_parameters
from autopeft.workers.assets import write_assets
from autopeft.workers.checkpoints import read_outputs, write_checkpoint
from autopeft.workers.injection import inject
from autopeft.workers.models import load_config, load_model
from autopeft.workers.tasks.base import TASKS
from autopeft.workers.training import evaluate
from autopeft.workers.verify import VerifyReport, verify_export
from autopeft.workers.worker import WorkerPlan
from tests.results.jobs import make_measurement
from tests.workers import tiny, tiny_lm

BASE_MODEL = "tiny-org/tiny"
pytestmark = [  # what PEFT says to users of its own methods
    pytest.mark.filterwarnings("ignore:Unsupported layer type"),
    pytest.mark.filterwarnings("ignore:Position ids are not supported"),
]
OURS = ("serial-adapter", "layer-prefix", "sparse-mask", "lora+layer-prefix")


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, WorkerPlan]:
    folder = tmp_path_factory.mktemp("models")
    found = {
        "classification": tiny.make_plan(tiny.write_model(folder / "tiny-bert")),
        "causal-lm": tiny_lm.make_plan(tiny_lm.write_model(folder / "tiny-llama")),
    }
    return {
        task: replace(plan, shape=replace(plan.shape, num_free_positions=64))
        for task, plan in found.items()
    }


@pytest.fixture(scope="module")
def make_export(
    plans: dict[str, WorkerPlan], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[ExportRequest, Path]]:
    """Return a function that writes an export once; it is read only."""
    made: dict[tuple[str, ...], tuple[ExportRequest, Path]] = {}

    def make(task: str, methods: str, dtype: str = "float32") -> tuple[ExportRequest, Path]:
        key = (task, methods, dtype)
        if key not in made:
            folder = tmp_path_factory.mktemp("job")
            request = build_request(plans[task], task, methods, folder, dtype)
            PeftExporter().write(request, folder / "out")
            made[key] = (request, folder / "out")
        return made[key]

    return make


def module_of(name: str, plan: WorkerPlan) -> Module:
    method, shape = get_method(name), plan.shape
    if name == "p-tuning":  # a network wider than the tiny model
        return Module.of(name, tuple(range(shape.num_layers)), prompt_length=4, hidden_size=32)
    settings = {each.name: domain_of(each).default for each in method.dimensions(shape)}
    return Module.of(name, tuple(range(shape.num_layers)), **method.canonical(settings))


def build_request(
    plan: WorkerPlan, task_name: str, methods: str, folder: Path, dtype: str
) -> ExportRequest:
    """Write what a job leaves of one trial whose trained weights are random numbers."""
    task = TASKS.get(task_name)()
    modules = tuple(module_of(name, plan) for name in methods.split("+"))
    chosen = Configuration(modules=modules, learning_rate=0.01)
    source = replace(plan.source, dtype=dtype)
    num_outputs = len(plan.id2label or ())
    config = load_config(source, num_outputs, plan.id2label, task_name)
    model = inject(load_model(source, config, task=task_name), chosen, plan.shape, seed=1)
    generator = torch.Generator().manual_seed(2)
    trained = trainable_parameters(model)
    assert {parameter.dtype for parameter in trained.values()} == {torch.float32}
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    split = plan.data.validation
    outputs = evaluate(
        model, split, task, batch_size=8, pad_token_id=plan.data.pad_token_id, precision="auto"
    )
    checkpoint = write_checkpoint(
        folder / "checkpoints",
        model,
        plan.shape,
        trial=0,
        step=8,
        seed=1,
        configuration=chosen,
        optimizer={},
        outputs=outputs,
        labels=split.labels,
    )
    is_language_model = task_name == "causal-lm"
    facts = {
        "task": task_name,
        "metric": task.default_metric,
        "id2label": None if plan.id2label is None else list(plan.id2label),
        "num_labels": num_outputs,
        "max_tokens": tiny_lm.MAX_TOKENS if is_language_model else 12,
        "text_columns": ["prompt", "completion"] if is_language_model else ["sentence"],
        "input_roles": ["prompt", "completion"] if is_language_model else ["text"],
        "dtype": dtype,
        "precision": "auto",
        "quantization": None,
    }
    write_assets(
        folder / "assets", replace(source, public_name=BASE_MODEL, is_local_only=False), facts=facts
    )
    head = plan.shape.num_head_parameters
    saved = sum(get_method(m.method).num_saved_parameters(plan.shape, m) for m in modules)
    flops = sum(get_method(m.method).inference_extra_flops(plan.shape, m) for m in modules)
    costs = Costs(
        num_trainable_parameters=sum(p.numel() for p in trained.values()),
        num_adapter_parameters=sum(p.numel() for p in trained.values()) - head,
        train_memory_bytes=2**20,
        adapter_file_bytes=4 * (saved + head),
        inference_extra_flops=flops,
    )
    trial = Trial(number=0, configuration=chosen, seed=1, origin="sobol", costs=costs)
    metrics = task.predictions_to_metrics(outputs, split.labels)
    score = metrics[task.default_metric]
    measurement = make_measurement(0, 8, score, metrics=metrics, checkpoint=checkpoint)
    return ExportRequest(
        state=TrialState(trial=trial, status=TrialStatus.COMPLETED, curve=(measurement,)),
        checkpoint=folder / "checkpoints" / checkpoint,
        assets=folder / "assets",
        job={"name": "tiny"},
    )


def blocks(folder: Path, base: str) -> list[str]:
    """Return the README's blocks of code, with the base model's folder for its name."""
    found = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return [code.replace(f'"{BASE_MODEL}"', repr(base)) for code in found]


def run(
    folder: Path, base: str, monkeypatch: pytest.MonkeyPatch, texts: list[str]
) -> dict[str, Any]:
    """Run the README's first block as it stands, but for the base model's name and the texts."""
    code = blocks(folder, base)[0]
    is_loaded = "from load import load" in code
    code = code.replace('["A text."]', "TEXTS").replace("[prompt]", "TEXTS")
    code = code.replace('load(".")', f'load(".", base={base!r})')
    monkeypatch.chdir(folder)
    monkeypatch.delitem(sys.modules, "load", raising=False)
    if is_loaded:
        monkeypatch.syspath_prepend(folder)
    names: dict[str, Any] = {"TEXTS": texts}
    names["print"] = lambda value: names.update(printed=value)
    exec(compile(code, "README.md", "exec"), names)
    return names


def verify(request: ExportRequest, folder: Path, plan: WorkerPlan, rows: Any) -> VerifyReport:
    recorded = request.checkpoint / "validation.safetensors"
    base = Path(plan.source.location)
    return verify_export(folder, rows, recorded, base_folder=base, batch_size=8)


@pytest.mark.parametrize("methods", [*OURS, "p-tuning", "lora+serial-adapter"])
def test_readme_and_verify_reproduce_what_was_recorded(
    methods: str, make_export: Any, plans: dict[str, WorkerPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plans["classification"]
    request, folder = make_export("classification", methods)
    rows = tiny.make_rows(23, 2)  # the plan's validation rows
    names = run(folder, plan.source.location, monkeypatch, list(rows.text))
    outputs = read_outputs(request.checkpoint)[0]

    np.testing.assert_allclose(names["logits"].numpy(), outputs, atol=1e-5)
    assert np.ptp(outputs, axis=0).min() > 1e-3  # rows that are all alike would prove nothing
    report = verify(request, folder, plan, rows)
    assert (report.num_prediction_mismatches, report.max_abs_difference) == (0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("methods", [*OURS, "p-tuning"])
def test_the_readme_runs_in_a_new_process(
    methods: str, make_export: Any, plans: dict[str, WorkerPlan]
) -> None:
    base = plans["classification"].source.location
    request, folder = make_export("classification", methods)
    code = blocks(folder, base)[0].replace('load(".")', f'load(".", base={base!r})')
    code = code.replace('["A text."]', repr(list(tiny.make_rows(23, 2).text)))
    code += "import sys, numpy; numpy.save(sys.argv[1], logits.numpy())\n"
    target = folder.parent / "logits.npy"
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(target), read_outputs(request.checkpoint)[0], atol=1e-5)


@pytest.mark.parametrize("methods", ["lora", "layer-prefix", "p-tuning", "lora+layer-prefix"])
def test_a_language_model_answers_and_its_losses_are_compared(
    methods: str, make_export: Any, plans: dict[str, WorkerPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plans["causal-lm"]
    request, folder = make_export("causal-lm", methods)
    rows = tiny_lm.make_splits().splits["validation"]
    report = verify(request, folder, plan, rows)
    names = run(folder, plan.source.location, monkeypatch, ["one two"])

    assert (report.num_rows, report.num_prediction_mismatches) == (12, 0)
    assert report.metric_value == report.recorded_metric_value
    assert isinstance(names["printed"], str)
    assert names["tokens"].shape[1] > names["batch"]["input_ids"].shape[1]


def test_another_loss_of_a_language_model_is_noticed(
    make_export: Any, plans: dict[str, WorkerPlan]
) -> None:
    request, folder = make_export("causal-lm", "lora")
    outputs, labels = read_outputs(request.checkpoint)
    outputs[3, 0] += 0.1 * outputs[:, 0].std()
    rows = tiny_lm.make_splits().splits["validation"]
    base = Path(plans["causal-lm"].source.location)
    report = verify_export(folder, rows, (outputs, labels), base_folder=base)

    assert report.num_prediction_mismatches == 1


@pytest.mark.parametrize("methods", ["lora", "ln-tuning", "prefix", "lora+serial-adapter"])
def test_a_base_of_half_precision(
    methods: str, make_export: Any, plans: dict[str, WorkerPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plans["classification"]
    request, folder = make_export("classification", methods, "bfloat16")
    rows = tiny.make_rows(23, 2)
    report = verify(request, folder, plan, rows)
    names = run(folder, plan.source.location, monkeypatch, list(rows.text))
    outputs = read_outputs(request.checkpoint)[0]

    assert (report.num_prediction_mismatches, report.max_abs_difference) == (0, 0.0)
    assert names["model"].dtype is torch.bfloat16
    np.testing.assert_allclose(names["logits"].float().numpy(), outputs, atol=0.1)


@pytest.mark.parametrize("methods", ["lora", "sparse-mask"])
def test_what_merges_is_merged_by_the_readme(
    methods: str, make_export: Any, plans: dict[str, WorkerPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = plans["classification"].source.location
    _, folder = make_export("classification", methods)
    names = run(folder, base, monkeypatch, list(tiny.make_rows(5, 2).text))
    before = names["logits"]
    monkeypatch.chdir(folder.parent)  # an export is read only
    code = blocks(folder, base)[1]
    exec(compile(code, "README.md", "exec"), names)
    with torch.inference_mode():
        after = names["model"](**names["batch"]).logits

    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)
    plain = type(names["model"]).from_pretrained(folder.parent / "merged").eval()
    with torch.inference_mode():
        torch.testing.assert_close(plain(**names["batch"]).logits, after)


@pytest.mark.parametrize("methods", ["serial-adapter", "lora+layer-prefix"])
def test_what_does_not_merge_has_no_such_lines(methods: str, make_export: Any) -> None:
    folder = make_export("classification", methods)[1]
    assert "merge_and_unload" not in (folder / "README.md").read_text()


def test_the_readme_of_a_chat_model_asks_as_in_training(
    make_export: Callable[..., tuple[ExportRequest, Path]],
    plans: dict[str, WorkerPlan],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request, _ = make_export("causal-lm", "lora")
    shutil.copytree(request.assets, tmp_path / "assets")
    facts = json.loads((tmp_path / "assets" / "autopeft.json").read_text())
    (tmp_path / "assets" / "autopeft.json").write_text(
        json.dumps({**facts, "is_conversational": True})
    )
    PeftExporter().write(replace(request, assets=tmp_path / "assets"), tmp_path / "out")
    names = run(tmp_path / "out", plans["causal-lm"].source.location, monkeypatch, [])
    tokenizer = names["tokenizer"]
    asked = "<|im_start|>user\nA question.<|im_end|>\n<|im_start|>assistant\n"

    assert tokenizer.decode(names["batch"]["input_ids"][0]) == asked
    assert facts["stop_ids"] == tokenizer.convert_tokens_to_ids(["</s>", "<|im_end|>"])
    assert isinstance(names["printed"], str)
