"""``autopeft plan``: what fits, from a configuration alone, and how wrong input is answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from autopeft.service.job_spec import load_job
from autopeft.service.planning import COMPONENTS, Plan, make_plan
from tests.cli.running import run_command

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "vocab_size": 128, "max_position_embeddings": 256,
}  # fmt: skip
JOB = """\
model: {name: tiny/config.json}
data: {train: not-there.jsonl}
space: {methods: {lora: {dora: false, rslora: false}, ia3: null}}
training: {batch_size: 4, max_tokens: 64}
"""
#: What makes a plan quick.
SMALL = ("--set", "space={methods: {ia3: {sites: [[k, v]]}}}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a job whose model is a config.json and whose data are missing."""
    folder = tmp_path_factory.mktemp("plan")
    (folder / "tiny").mkdir()
    (folder / "tiny" / "config.json").write_text(json.dumps(CONFIG))
    (folder / "job.yaml").write_text(JOB)
    return folder


@pytest.fixture(scope="module")
def plan(folder: Path) -> Plan:
    """Return a plan for a memory that a few examples fit in."""
    spec = load_job(folder / "job.yaml", shapes_only=True)
    return make_plan(spec, limit_bytes=3 * 2**20, tokens=32)


def test_every_method_comes_in_its_sizes(plan: Plan) -> None:
    assert {row.method for row in plan.rows} == {"ia3", "lora"}
    counts = [row.num_trainable_parameters for row in plan.rows if row.method == "lora"]
    assert counts == sorted(counts)
    assert len(set(counts)) == 3


def test_components_add_up_and_tell_what_is_left(plan: Plan) -> None:
    for_each = [
        (sum(row.components[name] for name in COMPONENTS), row.total_bytes, row.left_bytes)
        for row in plan.rows
    ]
    assert all(parts == total for parts, total, _ in for_each)
    assert all(left == 3 * 2**20 - total for _, total, left in for_each)


def test_largest_batch_fits_and_about_one_more_does_not(plan: Plan, folder: Path) -> None:
    spec = load_job(folder / "job.yaml", shapes_only=True)
    row = next(row for row in plan.rows if row.method == "lora" and row.size == "default")
    assert row.largest_batch is not None
    assert row.largest_batch > 4
    totals = []
    for batch in (row.largest_batch, round(1.1 * row.largest_batch) + 1):
        training = spec.training.model_copy(update={"batch_size": batch})
        rows = make_plan(spec.model_copy(update={"training": training}), tokens=32).rows
        totals.append(next(r.total_bytes for r in rows if r.configuration == row.configuration))
    assert totals[0] <= 1.01 * 3 * 2**20
    assert totals[1] > 3 * 2**20


def test_the_table_is_checked_by_following_every_tensor(plan: Plan) -> None:
    assert plan.check is not None
    assert plan.check.estimated_bytes == pytest.approx(plan.check.exact_bytes, rel=0.05)


def test_what_is_missing_is_told(plan: Plan) -> None:
    assert plan.notes == ("the task is taken to be causal-lm, by the model's architecture",)


def test_json_and_chart(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    options = ("--gpu-memory", "1GiB", "--format", "json", "--plot", "memory.svg")
    outcome = run_command(capsys, "plan", "job.yaml", *options, *SMALL)
    assert outcome.code == 0
    facts: dict[str, Any] = json.loads(outcome.stdout)
    assert (facts["limit_bytes"], facts["tokens"]) == (2**30, 64)
    assert all(row["fits"] for row in facts["rows"])
    svg = ElementTree.fromstring((folder / "memory.svg").read_text())
    titles = [e.text or "" for e in svg.iter("{http://www.w3.org/2000/svg}title")]
    bars = [title for title in titles if title.startswith("activations")]
    assert len(bars) == len(facts["rows"])


def test_where_nothing_fits_the_table_says_what_is_needed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")
    outcome = run_command(capsys, "plan", "job.yaml", "--gpu-memory", "10KiB", *SMALL)
    assert outcome.code == 0
    assert "Nothing fits into 10.0 KiB: the least, " in outcome.stdout
    assert "too much" in outcome.stdout
    assert "none" in outcome.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gpu-memory", "lots"), "--gpu-memory: expected a size such as 24GiB or 80GB"),
        (("--gpu-memory", "0GiB"), "--gpu-memory: expected a size"),
        (("--plot", "memory.png"), "--plot: expected a file that ends in .svg or .html"),
        (("--tokens", "300"), "examples of 300 tokens do not fit tiny, which takes at most 256"),
        (("--set", "model.name=nowhere/config.json/x"), "it cannot be a hub name"),
        (("--set", "space=nothing"), "space"),
    ],
)
def test_wrong_input_gives_one_error(
    arguments: tuple[str, ...],
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    outcome = run_command(capsys, "plan", "job.yaml", *arguments)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert message in outcome.stderr
    assert outcome.stderr.count("error: ") == 1


def test_a_model_that_cannot_be_had_says_what_to_put_in_its_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("autopeft.workers.model_sources.is_hub_reachable", lambda: False)
    monkeypatch.setattr("autopeft.workers.models.is_hub_reachable", lambda: False)
    outcome = run_command(capsys, "plan", "job.yaml", "--set", "model.name=some/gated-model")
    assert outcome.code == 2
    assert "a plan needs the config.json of some/gated-model" in outcome.stderr
    assert "save config.json from the model's page" in outcome.stderr
