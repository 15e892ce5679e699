from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autopeft.errors import ExportError
from autopeft.records import Costs, Trial, TrialState, TrialStatus
from autopeft.results.exporters import _peft_texts
from autopeft.results.exporters.base import Exporter, ExportRequest
from autopeft.results.exporters.peft import PeftExporter
from autopeft.workers.adapter_tensors import trainable_parameters
from autopeft.workers.assets import write_assets
from autopeft.workers.checkpoints import write_checkpoint
from autopeft.workers.dataset import Rows
from autopeft.workers.injection import inject
from autopeft.workers.models import load_config, load_model
from autopeft.workers.tasks.base import TASKS
from autopeft.workers.training import evaluate
from autopeft.workers.verify import verify_export
from autopeft.workers.worker import WorkerPlan
from tests.results.exporters.contract import ExporterContract, tree
from tests.results.jobs import make_measurement
from tests.workers import tiny

BASE_MODEL = "tiny-org/tiny-bert"
MakeRequest = Callable[[str], ExportRequest]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> WorkerPlan:
    return tiny.make_plan(tiny.write_model(tmp_path_factory.mktemp("models") / "tiny-bert"))


@pytest.fixture(scope="module")
def regression_plan(plan: WorkerPlan) -> WorkerPlan:
    return tiny.make_plan(Path(plan.source.location), id2label=None)


@pytest.fixture(scope="module")
def make_request(plan: WorkerPlan, tmp_path_factory: pytest.TempPathFactory) -> MakeRequest:
    folder = tmp_path_factory.mktemp("jobs")
    made: dict[str, ExportRequest] = {}

    def make(name: str) -> ExportRequest:
        if name not in made:
            made[name] = build_request(plan, name, folder / name)
        return made[name]

    return make


def build_request(
    plan: WorkerPlan, name: str, folder: Path, *, columns: tuple[str, ...] = ("sentence",)
) -> ExportRequest:
    """Write what a job leaves of one trial whose trained weights are random numbers."""
    is_regression = plan.id2label is None
    task = "regression" if is_regression else "classification"
    num_outputs = len(plan.id2label or "1")
    chosen = tiny.configuration(name)
    base = load_model(plan.source, load_config(plan.source, num_outputs, plan.id2label, task))
    model = inject(base, chosen, plan.shape, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    split = plan.data.validation
    outputs = evaluate(model, split, TASKS.get(task)(), batch_size=8, pad_token_id=0)
    checkpoint = write_checkpoint(
        folder / "checkpoints",
        model,
        plan.shape,
        trial=0,
        step=96,
        seed=1,
        configuration=chosen,
        optimizer={},
        outputs=outputs,
        labels=split.labels,
    )
    source = replace(plan.source, public_name=BASE_MODEL, is_local_only=False)
    facts = {
        "task": task,
        "metric": "spearman" if is_regression else "accuracy",
        "id2label": None if plan.id2label is None else list(plan.id2label),
        "num_labels": num_outputs,
        "max_tokens": 12,
        "text_columns": list(columns),
    }
    write_assets(folder / "assets", source, facts=facts)
    num_trainable = tiny.num_parameters(plan.shape, chosen)
    trial = Trial(
        number=0,
        configuration=chosen,
        seed=1,
        origin="sobol",
        costs=Costs(
            num_trainable_parameters=num_trainable,
            num_adapter_parameters=num_trainable - plan.shape.num_head_parameters,
            train_memory_bytes=2**20,
            adapter_file_bytes=4 * num_trainable,
        ),
    )
    metrics = {facts["metric"]: 0.75, "loss": float("nan")}
    measurement = make_measurement(0, 96, 0.75, metrics=metrics, checkpoint=checkpoint)
    return ExportRequest(
        state=TrialState(trial=trial, status=TrialStatus.COMPLETED, curve=(measurement,)),
        checkpoint=folder / "checkpoints" / checkpoint,
        assets=folder / "assets",
        job={"name": "tiny", "data": {"train": str(folder / "train.jsonl")}},
    )


def readme_code(folder: Path) -> str:
    match = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert match is not None
    return match.group(1)


def run_readme(folder: Path, base: str, monkeypatch: pytest.MonkeyPatch, texts: Rows) -> Any:
    """Run the README's lines as they stand, but for the base model's name and the texts."""
    facts = folder / "autopeft.json"
    facts.write_text(facts.read_text().replace(BASE_MODEL, base))  # what load.py reads
    code = readme_code(folder).replace(f'"{BASE_MODEL}"', repr(base))
    code = code.replace('["A text."]', "TEXTS").replace('["A first text."]', "TEXTS")
    code = code.replace('["A second text."]', "PAIRS")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    names: dict[str, Any] = {"TEXTS": texts.text, "PAIRS": texts.text_pair}
    names["print"] = lambda value: names.update(printed=value)
    exec(compile(code, "README.md", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def forget_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each export bring its own ``load.py``."""
    monkeypatch.delitem(__import__("sys").modules, "load", raising=False)


class TestPeftExporter(ExporterContract):
    @pytest.fixture
    def exporter(self) -> Exporter:
        return PeftExporter()

    @pytest.fixture(params=["lora", "mixture-with-prefix"])
    def request_(self, request: pytest.FixtureRequest, make_request: MakeRequest) -> ExportRequest:
        return make_request(request.param)


@pytest.mark.parametrize("name", sorted(tiny.CONFIGURATIONS))
def test_the_readme_reproduces_what_was_recorded(
    name: str,
    make_request: MakeRequest,
    plan: WorkerPlan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = make_request(name)
    PeftExporter().write(request, tmp_path / "out")
    rows = tiny.make_rows(23, 2)  # the plan's validation rows
    names = run_readme(tmp_path / "out", plan.source.location, monkeypatch, rows)

    outputs = recorded_outputs(request)
    np.testing.assert_allclose(names["logits"].numpy(), outputs, atol=1e-5)
    expected = [tiny.CLASSES[i] for i in outputs.argmax(axis=1)]
    assert names["printed"] == expected
    assert np.ptp(outputs, axis=0).min() > 1e-3  # rows that are all alike would prove nothing


@pytest.mark.parametrize("name", ["lora", "mixture"])
def test_the_workers_verify_it(
    name: str, make_request: MakeRequest, plan: WorkerPlan, tmp_path: Path
) -> None:
    request = make_request(name)
    PeftExporter().write(request, tmp_path / "out")
    report = verify_export(
        tmp_path / "out",
        tiny.make_rows(23, 2),
        request.checkpoint / "validation.safetensors",
        base_folder=Path(plan.source.location),
    )
    assert report.is_exact


def test_regression_and_pairs_have_their_own_lines(
    regression_plan: WorkerPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = build_request(regression_plan, "lora", tmp_path / "job", columns=("one", "two"))
    PeftExporter().write(request, tmp_path / "out")
    first = tiny.make_rows(5, 2)
    rows = Rows.of_texts(first.text, first.label, tiny.make_rows(5, 3).text)
    names = run_readme(tmp_path / "out", regression_plan.source.location, monkeypatch, rows)

    assert names["logits"].shape == (5, 1)
    assert names["printed"] == names["logits"][:, 0].tolist()
    assert names["batch"]["token_type_ids"].max() == 1


@pytest.mark.parametrize(
    ("noted", "model", "is_local"),
    [
        (True, "tiny-bert", True),
        (False, "tiny-bert", False),
        # Assets from before it was noted.
        (None, "../models/tiny-bert", True),
        (None, "tiny-bert", False),
        (None, "builtin:docstring-lm", False),
    ],
)
def test_a_local_base_model_is_told_from_a_published_one(
    noted: bool | None, model: str, is_local: bool, make_request: MakeRequest, tmp_path: Path
) -> None:
    request = make_request("lora")
    assets = shutil.copytree(request.assets, tmp_path / "assets")
    facts = json.loads((assets / "autopeft.json").read_text())
    facts |= {"base_model": "tiny-bert", "is_local_model": noted}
    (assets / "autopeft.json").write_text(json.dumps(facts))
    job = {**request.job, "model": {"name": model}}
    PeftExporter().write(replace(request, assets=assets, job=job), tmp_path / "out")

    assert ("PATH/TO/tiny-bert" in readme_code(tmp_path / "out")) is is_local


def test_the_lines_to_load_are_few(make_request: MakeRequest, tmp_path: Path) -> None:
    PeftExporter().write(make_request("lora"), tmp_path / "out")
    code = readme_code(tmp_path / "out")

    assert len(code.splitlines()) <= 12
    assert "autopeft" not in code


def test_many_class_names_are_read_from_the_facts(
    make_request: MakeRequest,
    plan: WorkerPlan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_peft_texts, "MAX_NAMES", 2)
    PeftExporter().write(make_request("lora"), tmp_path / "out")
    rows = tiny.make_rows(4, 2)
    names = run_readme(tmp_path / "out", plan.source.location, monkeypatch, rows)

    assert "'none'" not in readme_code(tmp_path / "out")
    assert set(names["printed"]) <= set(tiny.CLASSES)


def test_holds_adapter_tokenizer_and_facts(make_request: MakeRequest, tmp_path: Path) -> None:
    request = make_request("lora")
    PeftExporter().write(request, tmp_path / "out")
    files = set(tree(tmp_path / "out"))

    assert files == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "autopeft.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    facts = json.loads((tmp_path / "out" / "autopeft.json").read_text())
    assert facts["base_model"] == BASE_MODEL
    assert facts["id2label"] == list(tiny.CLASSES)
    assert facts["max_tokens"] == 12
    assert facts["padding"] == {"side": "right", "pad_token_id": 0}
    assert facts["job"] == "tiny"
    trial = facts["trial"]
    assert (trial["number"], trial["seed"], trial["steps"]) == (0, 1, 96)
    assert trial["metric_value"] == 0.75
    assert trial["metrics"] == {"accuracy": 0.75, "loss": None}
    assert trial["configuration"] == request.state.trial.configuration.to_json()
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == BASE_MODEL


def test_a_log_from_before_file_sizes_can_be_exported(
    make_request: MakeRequest, tmp_path: Path
) -> None:
    request = make_request("lora")
    costs = replace(request.state.trial.costs, adapter_file_bytes=0)
    state = replace(request.state, trial=replace(request.state.trial, costs=costs))
    PeftExporter().write(replace(request, state=state), tmp_path / "out")
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_several_methods_are_a_folder_each(make_request: MakeRequest, tmp_path: Path) -> None:
    PeftExporter().write(make_request("mixture-with-prefix"), tmp_path / "out")
    files = set(tree(tmp_path / "out"))

    assert {"load.py", "head.safetensors"} <= files
    parts = {"ia3", "lora", "prefix"}
    assert {f"{part}/adapter_config.json" for part in parts} <= files
    assert {f"{part}/adapter_model.safetensors" for part in parts} <= files


def test_no_path_of_this_machine_leaks(make_request: MakeRequest, tmp_path: Path) -> None:
    PeftExporter().write(make_request("lora"), tmp_path / "out")
    for name, content in tree(tmp_path / "out").items():
        assert str(tmp_path.parent).encode() not in content, name


@pytest.fixture
def copied(make_request: MakeRequest, tmp_path: Path) -> ExportRequest:
    """Return a request on files of its own, to be damaged."""
    request = make_request("lora")
    shutil.copytree(request.checkpoint, tmp_path / "job" / "checkpoint")
    shutil.copytree(request.assets, tmp_path / "job" / "assets")
    return replace(
        request,
        checkpoint=tmp_path / "job" / "checkpoint",
        assets=tmp_path / "job" / "assets",
    )


def refuses(request: ExportRequest, target: Path, match: str) -> None:
    """Check that the export fails with a message and leaves nothing behind."""
    before = sorted(target.parent.iterdir())
    with pytest.raises(ExportError, match=match):
        PeftExporter().write(request, target)
    assert sorted(target.parent.iterdir()) == before


def edit(path: Path, **changes: Any) -> None:
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not ...}))


def test_refuses_a_leaking_tokenizer(copied: ExportRequest, tmp_path: Path) -> None:
    edit(copied.assets / "tokenizer_config.json", origin=str(copied.assets / "x"))
    refuses(copied, tmp_path / "out", "would carry a path of this machine")


def test_refuses_a_path_into_the_home_folder(
    copied: ExportRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me/someone")
    edit(copied.checkpoint / "adapter" / "adapter_config.json", note="/home/me/someone/models")
    refuses(copied, tmp_path / "out", "would carry a path of this machine")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_refuses_a_checkpoint_with_a_missing_file(
    copied: ExportRequest, tmp_path: Path, name: str
) -> None:
    (copied.checkpoint / "adapter" / name).unlink()
    refuses(copied, tmp_path / "out", "holds no adapter|is missing from")


def test_refuses_a_config_without_a_type(copied: ExportRequest, tmp_path: Path) -> None:
    edit(copied.checkpoint / "adapter" / "adapter_config.json", peft_type=...)
    refuses(copied, tmp_path / "out", "names no peft_type")


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_refuses_a_config_that_is_no_json_object(
    copied: ExportRequest, tmp_path: Path, text: str
) -> None:
    (copied.checkpoint / "adapter" / "adapter_config.json").write_text(text)
    refuses(copied, tmp_path / "out", "is not valid JSON|is not a JSON object")


def test_refuses_weights_that_are_damaged(copied: ExportRequest, tmp_path: Path) -> None:
    weights = copied.checkpoint / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    refuses(copied, tmp_path / "out", "is missing or damaged")


def test_refuses_weights_without_a_tensor(copied: ExportRequest, tmp_path: Path) -> None:
    weights = copied.checkpoint / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(struct.pack("<Q", 2) + b"{}")
    refuses(copied, tmp_path / "out", "holds no tensor")


def test_refuses_weights_of_another_trial(
    copied: ExportRequest, make_request: MakeRequest, tmp_path: Path
) -> None:
    other = make_request("dora").checkpoint / "adapter" / "adapter_model.safetensors"
    shutil.copy(other, copied.checkpoint / "adapter")
    refuses(copied, tmp_path / "out", r"holds \d+ numbers, trial 0 saves \d+")


@pytest.mark.parametrize("fact", ["base_model", "max_tokens", "id2label"])
def test_refuses_assets_that_lack_a_fact(copied: ExportRequest, tmp_path: Path, fact: str) -> None:
    edit(copied.assets / "autopeft.json", **{fact: ...})
    refuses(copied, tmp_path / "out", f"lacks {fact}")


@pytest.mark.parametrize("name", ["autopeft.json", "tokenizer_config.json"])
def test_refuses_assets_without_a_file(copied: ExportRequest, tmp_path: Path, name: str) -> None:
    (copied.assets / name).unlink()
    refuses(copied, tmp_path / "out", name)


def test_refuses_a_folder_that_cannot_be_written(make_request: MakeRequest, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot write"):
        PeftExporter().write(make_request("lora"), tmp_path / "file" / "out")


def recorded_outputs(request: ExportRequest) -> NDArray[np.float32]:
    from safetensors.numpy import load_file

    outputs: NDArray[np.float32] = load_file(request.checkpoint / "validation.safetensors")[
        "outputs"
    ]
    return outputs
