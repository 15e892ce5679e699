"""What a good job file becomes; broken ones are in ``tests/cli/test_broken_inputs.py``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from autopeft.errors import InvalidJobError
from autopeft.search_spaces.space_files import preset_names
from autopeft.service import job_schema
from autopeft.service.job_checks import find_warnings
from autopeft.service.job_problems import key_paths
from autopeft.service.job_settings import JobSettings
from autopeft.service.job_spec import JobSpec, load_job, parse_job
from autopeft.service.raw_job import parse_override

GOOD: dict[str, Any] = {"model": "builtin:minilm", "data": "builtin:docstrings"}
SCHEMA_FILE = Path(job_schema.__file__).with_name("job.schema.json")
EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


def parse(**more: Any) -> JobSpec:
    return parse_job({**GOOD, **more}, base=Path("/base"))


def write(folder: Path, text: str, name: str = "sst2.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_everything_but_model_and_data_has_a_default(tmp_path: Path) -> None:
    spec = load_job(write(tmp_path, "model: builtin:minilm\ndata: builtin:docstrings\n"))
    assert spec.name == "sst2"
    assert spec.output == "runs/sst2"
    assert spec.base == tmp_path
    assert (spec.task, spec.space, spec.proposer, spec.stopper) == (
        "auto",
        "default",
        "mobo",
        "extrapolate",
    )
    assert spec.budget.limits == {"trials": 24}
    assert spec.budget.end_early
    assert spec.workers.executor == "ray"
    assert spec.score_metric is None
    assert spec.cost_names == ("num_trainable_parameters", "train_memory_bytes")
    assert spec.seed == 0


def test_the_whole_format_is_read(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text('{"text": "a", "label": 0}\n')
    text = """
        name: mine
        model: {name: builtin:minilm, trust_remote_code: true}
        data:
          train: train.jsonl
          validation: validation.jsonl
          test: test.jsonl
          columns: {text: text, label: label}
          limit: {train: 2000, validation: 800}
        task: classification
        space: lora
        objectives: [f1, num_adapter_parameters]
        training: {batch_size: 8, max_tokens: 64, steps: 10, schedule: linear, weight_decay: 1e-2}
        budget: {trials: 3, steps: 300, minutes: 5}
        proposer: random
        stopper: halving
        workers: {executor: inline, num: 1, cpus: 1, gpus: 0}
        seed: 7
        output: out
    """
    spec = load_job(write(tmp_path, text))
    assert spec.model.trust_remote_code
    assert spec.data.limit.validation == 800
    assert spec.training.weight_decay == 0.01
    assert spec.score_metric == "f1"
    assert spec.cost_names == ("num_adapter_parameters",)
    assert spec.budget.minutes == 5
    assert spec.folder == Path.cwd() / "out"


def test_a_data_file_alone_is_the_training_split(tmp_path: Path) -> None:
    (tmp_path / "rows.CSV").write_text("text,label\na,0\n")
    spec = load_job(write(tmp_path, "model: builtin:minilm\ndata: rows.CSV\n"))
    assert (spec.data.train, spec.data.name) == ("rows.CSV", None)


def test_variables_and_home_are_expanded_once_and_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,0\n")
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    spec = parse(data={"train": "${HERE}/rows.csv"}, output="~/out")
    assert spec.data.train == f"{tmp_path}/rows.csv"
    assert spec.output == f"{tmp_path}/out"
    assert parse(data="$HERE/rows.csv").data.train == f"{tmp_path}/rows.csv"


def test_a_space_file_travels_with_the_job(tmp_path: Path) -> None:
    space = tmp_path / "mine.yaml"
    space.write_text("methods:\n  lora: {rank: [4, 8]}\n")
    text = "model: builtin:minilm\ndata: builtin:docstrings\nspace: mine.yaml\n"
    spec = load_job(write(tmp_path, text))
    space.unlink()
    assert spec.space == {"methods": {"lora": {"rank": [4, 8]}}}
    assert JobSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("space", preset_names())
def test_every_preset_can_be_named(space: str) -> None:
    assert parse(space=space).space == space


def test_json_round_trip_needs_no_job_file() -> None:
    spec = parse(
        objectives=["loss", "train_memory_bytes"],
        budget={"minutes": 1.5},
        space={"methods": {"ia3": None}},
    )
    text = json.dumps(spec.to_json(), allow_nan=False)
    assert JobSpec.from_json(json.loads(text)) == spec


def test_a_recorded_job_of_another_version_is_refused() -> None:
    with pytest.raises(InvalidJobError, match="schema version 99, this AutoPEFT reads 1"):
        JobSpec.from_json({**parse().to_json(), "schema_version": 99})


def test_a_damaged_recorded_job_is_refused() -> None:
    with pytest.raises(InvalidJobError, match="recorded job is damaged") as caught:
        JobSpec.from_json({**parse().to_json(), "seed": "x"})
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith("seed: expected a valid integer")


def test_a_job_can_get_a_larger_budget() -> None:
    spec = parse(budget={"trials": 4, "minutes": 2})
    larger = spec.with_budget(trials=8)
    assert larger.budget.limits == {"trials": 8, "minutes": 2}
    assert spec.budget.trials == 4
    assert larger.model_copy(update={"budget": spec.budget}) == spec


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ({"trials": 0}, "budget.trials: expected at least 1, got 0"),
        ({"steps": -1}, "budget.steps: expected at least 1, got -1"),
        ({"hours": 1}, "budget.hours: unknown key"),
    ],
)
def test_a_wrong_budget_is_refused(limits: dict[str, float], problem: str) -> None:
    with pytest.raises(InvalidJobError, match=re.escape(problem)):
        parse().with_budget(**limits)


def test_a_key_without_a_value_counts_as_absent(tmp_path: Path) -> None:
    text = "model: builtin:minilm\ndata:\n  name: builtin:docstrings\n  limit:\ntraining:\nseed:\n"
    spec = load_job(write(tmp_path, text))
    assert spec == load_job(
        write(tmp_path, "model: builtin:minilm\ndata: builtin:docstrings\n", "sst2.yml")
    )


def test_overrides_replace_and_add() -> None:
    values = {**GOOD, "training": {"steps": 5, "batch_size": 4}}
    changes = {"training.steps": 7, "budget.minutes": 3, "data.limit.train": 9, "seed": 2}
    spec = parse_job(values, base=Path(), overrides=changes)
    assert (spec.training.steps, spec.training.batch_size) == (7, 4)
    assert spec.budget.limits == {"minutes": 3}
    assert (spec.data.name, spec.data.limit.train) == ("builtin:docstrings", 9)
    assert spec.seed == 2
    assert values["training"] == {"steps": 5, "batch_size": 4}


def test_an_override_reaches_into_an_inline_space() -> None:
    values = {**GOOD, "space": {"methods": {"lora": None}}}
    spec = parse_job(values, base=Path(), overrides={"space.combine": "any"})
    assert spec.space == {"methods": {"lora": None}, "combine": "any"}


def test_a_problem_of_an_override_blames_no_line(tmp_path: Path) -> None:
    path = write(tmp_path, "model: builtin:minilm\ndata: builtin:docstrings\nseed: 1\n")
    with pytest.raises(InvalidJobError) as caught:
        load_job(path, {"seed": -1})
    assert caught.value.problems == ("seed: expected at least 0, got -1",)


def test_inline_with_many_workers_warns() -> None:
    spec = parse(workers={"executor": "inline", "num": 4})
    assert find_warnings(spec) == [
        "workers.num is 4, but the inline executor runs one trial at a time"
    ]
    assert find_warnings(parse(workers={"executor": "inline"})) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("seed=3", 3),
        ("training.weight_decay=1e-3", 0.001),
        ("objectives=[f1, train_memory_bytes]", ["f1", "train_memory_bytes"]),
        ("model.trust_remote_code=true", True),
        ("budget.trials=null", None),
        ("name=a=b", "a=b"),
        ("name=2024-01-31", "2024-01-31"),
        ("name=", None),
    ],
)
def test_set_reads_values_as_yaml(text: str, value: Any) -> None:
    assert parse_override(text) == (text.partition("=")[0], value)


PLAIN_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=("C", "Zl", "Zp"))),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.from_regex("[a-z]+", fullmatch=True), inner, max_size=3)
    ),
    max_leaves=6,
)
PATHS = st.sampled_from([".".join(path) for path in key_paths(JobSettings)])


@given(path=PATHS, value=PLAIN_VALUES)
def test_set_reads_back_whatever_yaml_can_write(path: str, value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False)  # JSON is YAML on one line
    assert parse_override(f"{path}={text}") == (path, value)


@given(path=PATHS, value=PLAIN_VALUES)
def test_an_override_is_the_same_as_a_line_of_the_file(path: str, value: Any) -> None:
    nested: Any = value
    for key in reversed(path.split(".")):
        nested = {key: nested}
    opened = {"model": {"name": "builtin:minilm"}, "data": {"name": "builtin:docstrings"}}
    (top, inner), *_ = nested.items()
    if top in opened and isinstance(inner, dict) and "." in path:
        inner = {**opened[top], **inner}
    written = {**GOOD, top: inner}
    assert outcome(written, {}) == outcome(GOOD, {path: value})


def outcome(values: dict[str, Any], overrides: dict[str, Any]) -> Any:
    """Return the job, or the keys that are wrong."""
    try:
        return parse_job(values, base=Path("/base"), overrides=overrides)
    except InvalidJobError as error:
        return sorted(error.problems)


def test_the_schema_file_is_up_to_date() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == job_schema.schema_text(), (
        "run: autopeft check --schema > autopeft/service/job.schema.json"
    )


def test_the_schema_is_a_valid_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(job_schema.job_schema())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_fits_the_schema_and_loads(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in re.findall(r"\$\{AUTOPEFT_DATA\}/(\S+)", example.read_text()):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text('{"text": "a", "label": 0}\n')
    monkeypatch.setenv("AUTOPEFT_DATA", str(tmp_path))
    jsonschema.validate(yaml.safe_load(example.read_text()), job_schema.job_schema())
    assert load_job(example).name == example.stem


@pytest.mark.parametrize(
    "job",
    [
        {**GOOD, "batch_size": 3},
        {**GOOD, "training": {"batch_sise": 3}},
        {**GOOD, "seed": -1},
        {"model": "builtin:minilm"},
    ],
    ids=["unknown", "unknown-inside", "negative", "incomplete"],
)
def test_the_schema_refuses_what_validation_refuses(job: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, job_schema.job_schema())
    with pytest.raises(InvalidJobError, match="problem"):
        parse_job(job, base=Path("/base"))


def test_what_is_wrong_with_a_job_file_is_told_before_anything_heavy_is_imported(
    tmp_path: Path,
) -> None:
    text = "model: builtin:minilm\ndata: builtin:docstrings\nobjectives: [acuracy]\n"
    path = write(tmp_path, text)
    code = (
        "import sys; from autopeft.cli import main; "
        f"assert main(['check', {str(path)!r}]) == 2; "
        "print(sorted({'torch', 'transformers', 'ray', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize(
    ("name", "written", "limit"),
    [
        ("train_memory_bytes", "24GiB", 24 * 2**30),
        ("adapter_file_bytes", "1.5 GB", 1.5e9),
        ("train_memory_bytes", 8e9, 8e9),
        ("num_trainable_parameters", "2M", 2e6),
        ("inference_extra_flops", "0.5k", 500.0),
    ],
)
def test_limits_take_units(name: str, written: Any, limit: float) -> None:
    spec = parse(constraints={name: {"max": written}})
    assert spec.constraints[name].max == limit
    # What is stored with the job is read again on a resume.
    assert JobSpec.from_json(spec.to_json()).constraints == spec.constraints


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("train_memory_bytes", "24Gi"),
        ("train_memory_bytes", "lots"),
        ("train_memory_bytes", "2M"),
        ("num_trainable_parameters", "2GiB"),
    ],
)
def test_limits_in_unsuitable_units_are_refused(name: str, written: str) -> None:
    with pytest.raises(InvalidJobError, match=rf"constraints.{name}.max: expected a number such"):
        parse(constraints={name: {"max": written}})


@pytest.mark.parametrize("name", ["llama-70b", "qwen2-0.5b"])
def test_examples_of_plans_need_neither_data_nor_weights(name: str) -> None:
    folder = EXAMPLES[0].parent / "plan"
    spec = load_job(folder / f"{name}.yaml", shapes_only=True)
    assert (spec.base / spec.model.name).is_file()
    assert spec.task == "causal-lm"
