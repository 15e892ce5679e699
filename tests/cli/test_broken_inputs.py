"""Broken inputs: each ends with one clear message, exit code 2 and no traceback.

To add one, append a ``Broken`` to the corpus: files to write (text, bytes, or None for a
folder), the command, and what the message must say.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cli.running import Outcome, run_command

GOOD = "model: builtin:minilm\ndata: builtin:docstrings\n"


@dataclass(frozen=True, kw_only=True)
class Broken:
    """One broken input.

    Attributes:
        name: Says what is broken.
        files: What to write: text, bytes, or None for a folder.
        command: Arguments of ``autopeft``; run in the folder of the files.
        expected: What the message must hold.
    """

    name: str
    files: Mapping[str, str | bytes | None] = field(default_factory=dict)
    command: tuple[str, ...] = ("check", "job.yaml")
    expected: tuple[str, ...]


def job(name: str, text: str | bytes, *expected: str, **files: str | bytes | None) -> Broken:
    """Return a broken job file; ``files`` stand beside it."""
    return Broken(name=name, files={"job.yaml": text, **files}, expected=expected)


def addition(name: str, text: str, *expected: str) -> Broken:
    """Return a job file that would be fine without ``text``."""
    return job(name, GOOD + text, *expected)


def flags(name: str, arguments: tuple[str, ...], *expected: str) -> Broken:
    """Return a good job file under broken flags."""
    command = ("search", "job.yaml", *arguments)
    return Broken(name=name, files={"job.yaml": GOOD}, command=command, expected=expected)


ROWS = '{"text": "a", "label": 0}\n{"text": "b", "label": 1}\n'

JOB_FILES = [
    Broken(name="missing", expected=("there is no job file 'job.yaml'", "hint:")),
    Broken(
        name="missing-but-close",
        files={"jobs.yaml": GOOD},
        expected=("there is no job file", "did you mean 'jobs.yaml'?"),
    ),
    Broken(
        name="a-folder",
        files={"job.yaml": None},
        expected=("job.yaml is a folder, expected a job file", "autopeft resume job.yaml"),
    ),
    addition(
        "list-of-batch-sizes",
        "training: {batch_size: [8, 16]}\n",
        "training.batch_size (line 3): expected a whole number, got [8, 16]; to search it, write "
        "space: {preset: default, training: {batch_size: [8, 16]}}",
    ),
    addition(
        "list-of-optimizers",
        "training: {optimizer: [adamw, sgd]}\n",
        "to search it, write space: {preset: default, training: {optimizer: [adamw, sgd]}}",
    ),
    addition(
        "list-of-what-cannot-be-searched",
        "training: {steps: [32, 64]}\n",
        "got [32, 64]; steps cannot be searched, of training settings batch_size, ",
    ),
    job("empty", "", "is empty, expected a mapping"),
    job("comments-only", "# nothing\n", "is empty, expected a mapping"),
    job("a-list", "- model\n- data\n", "holds a list, expected a mapping"),
    job("a-scalar", "builtin:minilm\n", "holds the single value 'builtin:minilm'"),
    job("binary", bytes(range(256)) * 8, "is not a text file in UTF-8"),
    job("nul-bytes", b"model: \x00\x00\n", "is a binary file"),
    job("latin-1", "name: é\n".encode("latin-1"), "is not a text file in UTF-8"),
    job("far-too-large", "# x\n" * 300_000, "holds 1200000 bytes"),
    job("syntax", "model: builtin:minilm\ndata: [a, b\nseed: 1\n", "not valid YAML", "line 3, col"),
    job("tab", "model: x\ntraining:\n\tsteps: 3\n", "not valid YAML", "line 3, column 1", "\\t"),
    job("unbalanced-quote", 'model: "minilm\n', "not valid YAML", "line 2"),
    job("two-documents", GOOD + "---\n" + GOOD, "not valid YAML", "line 3"),
    job("python-tag", "model: !!python/object/apply:os.getcwd []\n", "not valid YAML", "line 1"),
    job("control-character", "model: \x07\n", "not valid YAML", "is not allowed"),
    job("deeply-nested", "data: " + "[" * 40 + "]" * 40, "line 1: data is nested too deeply"),
    job("absurdly-nested", "data: " + "[" * 999 + "]" * 999, "nested too deeply"),
    job("refers-to-itself", "model: &m [*m]\ndata: x\n", "line 1: model.0 refers to itself"),
    addition("duplicate-key", "seed: 1\nseed: 2\n", "line 4: seed occurs twice, first on line 3"),
    addition(
        "duplicate-key-inside",
        "training:\n  steps: 1\n  steps: 2\n",
        "line 5: training.steps occurs twice, first on line 4",
    ),
    addition("number-as-key", "3: x\n", "line 3: the key '3' is not text"),
    job("nothing-required-is-there", "seed: 1\n", "2 problems", "model: missing", "data: missing"),
    addition("unknown-key", "budgett: {trials: 3}\n", "budgett (line 3)", "did you mean 'budget'?"),
    addition(
        "unknown-key-inside",
        "training: {batch_sise: 3}\n",
        "training.batch_sise (line 3): unknown key; did you mean 'training.batch_size'?",
    ),
    addition("key-of-another-section", "batch_size: 3\n", "did you mean 'training.batch_size'?"),
    addition(
        "remote-code-at-the-top",
        "trust_remote_code: true\n",
        "write model: {name: ..., trust_remote_code: true}",
    ),
    addition("learning-rate", "learning_rate: 1e-3\n", "the learning rate is searched"),
    addition("base-is-ours", "base: /tmp\n", "base (line 3): unknown key"),
    addition("text-for-number", "training: {steps: many}\n", "expected a whole number, got 'many'"),
    addition("number-in-quotes", 'seed: "3"\n', "seed (line 3): expected a whole number, got '3'"),
    addition("true-for-number", "budget: {trials: true}\n", "expected a whole number, got true"),
    addition("fraction-for-count", "workers: {num: 1.5}\n", "expected a whole number, got 1.5"),
    addition("number-for-text", "name: 2024\n", "name (line 3): expected text, got 2024"),
    addition("list-for-section", "training: [1, 2]\n", "expected a mapping, got [1, 2]"),
    addition("text-for-list", "objectives: accuracy\n", "expected a list, got 'accuracy'"),
    addition("negative", "training: {steps: -5}\n", "expected at least 1, got -5"),
    addition("zero-trials", "budget: {trials: 0}\n", "expected at least 1, got 0"),
    addition("not-a-number", "budget: {minutes: .nan}\n", "expected a finite number, got nan"),
    addition("infinite", "training: {max_grad_norm: .inf}\n", "a finite number, got inf"),
    addition("negative-seed", "seed: -1\n", "expected at least 0, got -1"),
    addition("no-limit", "budget: {}\n", "budget (line 3): names no limit"),
    addition(
        "fewer-steps-than-a-trial",
        "training: {steps: 50}\nbudget: {steps: 49}\n",
        "49 is less than training.steps (50)",
    ),
    addition("unknown-schedule", "training: {schedule: cosin}\n", "'cosine', 'linear'", "'cosin'"),
    addition("unknown-proposer", "proposer: mobbo\n", "unknown proposer 'mobbo'", "'mobo'?"),
    addition("unknown-stopper", "stopper: halfing\n", "unknown stopper 'halfing'", "'halving'?"),
    addition("unknown-executor", "workers: {executor: in-line}\n", "'in-line'", "'inline'?"),
    addition("unknown-task", "task: clasification\n", "unknown task", "'classification'?"),
    addition("unknown-space", "space: defalt\n", "space (line 3)", "'defalt'", "'default'"),
    addition("missing-space-file", "space: spaces/mine.yaml\n", "space file 'spaces/mine.yaml'"),
    addition("space-of-another-type", "space: 3\n", "expected a preset name, a YAML file or a map"),
    addition(
        "space-with-unknown-method",
        "space: {methods: {lorra: {}}}\n",
        "space (line 3): methods.lorra: unknown key; did you mean 'lora'?",
    ),
    addition(
        "space-with-unknown-value",
        "space: {methods: {lora: {rank: [3]}}}\n",
        "space (line 3): methods.lora.rank: 3 is none of 1, 2",
    ),
    addition("unknown-objective", "objectives: [acuracy]\n", "'acuracy' is neither", "'accuracy'?"),
    addition("unknown-cost", "objectives: [f1, train_memory]\n", "did you mean 'train_memory_byte"),
    addition(
        "no-metric", "objectives: [train_memory_bytes]\n", "names no metric; add one of accuracy"
    ),
    addition("empty-objectives", "objectives: []\n", "names no metric"),
    addition("two-metrics", "objectives: [accuracy, f1]\n", "names 2 metrics (accuracy, f1)"),
    addition(
        "the-same-twice",
        "objectives: [f1, train_memory_bytes, train_memory_bytes]\n",
        "names train_memory_bytes more than once",
    ),
    addition(
        "metric-of-another-task",
        "task: regression\nobjectives: [accuracy]\n",
        "the metric 'accuracy' does not fit the task 'regression', which has spearman",
    ),
    addition("name-that-is-a-path", "name: a/b\n", "expected letters, digits", "'a/b'"),
    addition("too-many-cores", "workers: {cpus: 99999}\n", "asks for 99999 cores, this machine"),
    addition("too-many-workers", "workers: {num: 99999}\n", "99999 workers", "this machine has"),
    addition("empty-output", "output: ''\n", "output (line 3): is empty, expected a folder"),
    job("output-is-a-file", GOOD + "output: taken\n", "is a file, expected a folder", taken="x"),
    job("output-below-a-file", GOOD + "output: taken/run\n", "taken' is a file", taken="x"),
]

MODELS = [
    job(
        "unknown-built-in-model",
        "model: builtin:minilmm\ndata: builtin:docstrings\n",
        "unknown built-in model 'builtin:minilmm'; did you mean 'builtin:minilm'?",
    ),
    job(
        "missing-model-folder",
        "model: ./models/mine\ndata: builtin:docstrings\n",
        "there is no model folder './models/mine'",
    ),
    job(
        "impossible-model-name",
        "model: 'no such model'\ndata: builtin:docstrings\n",
        "expected a hub name, a folder or builtin:minilm",
    ),
    job(
        "model-is-a-file",
        "model: mine\ndata: builtin:docstrings\n",
        "'mine' is a file, expected a folder with safetensors",
        mine="x",
    ),
    job(
        "model-folder-without-weights",
        "model: mine\ndata: builtin:docstrings\n",
        "holds no config.json",
        "holds no safetensors",
        mine=None,
    ),
    job(
        "unknown-model-key",
        "model: {name: builtin:minilm, revison: main}\ndata: builtin:docstrings\n",
        "did you mean 'model.revision'?",
    ),
    job("model-without-name", "model: {revision: x}\ndata: builtin:docstrings\n", "model.name"),
]

DATA = [
    job(
        "unknown-built-in-data",
        "model: builtin:minilm\ndata: builtin:docstring\n",
        "unknown built-in data 'builtin:docstring'; did you mean 'builtin:docstrings'?",
    ),
    job(
        "built-in-data-with-files",
        "model: builtin:minilm\ndata: {name: builtin:docstrings, train: a.csv}\n",
        "data.train (line 2): built-in data makes its own splits",
    ),
    job(
        "built-in-data-as-a-file",
        "model: builtin:minilm\ndata: {train: builtin:docstrings}\n",
        "data.train (line 2): 'builtin:docstrings' is no file but built-in data: "
        "write data: {name: builtin:docstrings}",
    ),
    job(
        "unknown-built-in-data-as-a-file",
        "model: builtin:minilm\ndata: {train: builtin:docs}\n",
        "'builtin:docs' is neither a file nor built-in data, which data.name takes; did you mean",
    ),
    job(
        "all-files-missing",
        "model: builtin:minilm\ndata: {train: a.csv, validation: b.csv, test: c.csv}\n",
        "3 problems",
        "there is no file 'a.csv'",
        "there is no file 'b.csv'",
        "there is no file 'c.csv'",
    ),
    Broken(
        name="missing-file-but-close",
        files={
            "job.yaml": "model: builtin:minilm\ndata: {train: trian.jsonl}\n",
            "train.jsonl": ROWS,
        },
        expected=("there is no file 'trian.jsonl'", "did you mean 'train.jsonl'?"),
    ),
    Broken(
        name="the-same-file-twice",
        files={
            "job.yaml": "model: builtin:minilm\ndata: {train: a.jsonl, test: ./a.jsonl}\n",
            "a.jsonl": ROWS,
        },
        expected=("'./a.jsonl' is the train file too; splits must not share rows",),
    ),
    Broken(
        name="empty-data-file",
        files={"job.yaml": "model: builtin:minilm\ndata: a.jsonl\n", "a.jsonl": ""},
        expected=("data.train (line 2): 'a.jsonl' is empty",),
    ),
    Broken(
        name="data-file-is-a-folder",
        files={"job.yaml": "model: builtin:minilm\ndata: {train: rows}\n", "rows": None},
        expected=("'rows' is a folder, expected a file",),
    ),
    Broken(
        name="unknown-ending",
        files={"job.yaml": "model: builtin:minilm\ndata: {train: a.xlsx}\n", "a.xlsx": "x"},
        expected=("'a.xlsx' has no known ending", ".jsonl"),
    ),
    job("no-data", "model: builtin:minilm\ndata: {limit: {train: 3}}\n", "data", "names no data"),
    job(
        "path-for-hub-name",
        "model: builtin:minilm\ndata: ./rows\n",
        "'./rows' is a path, expected a hub name",
    ),
    job(
        "file-in-hub-data",
        "model: builtin:minilm\ndata: {name: glue, train: a.csv}\n",
        "'a.csv' looks like a file",
    ),
    job(
        "unset-variable",
        "model: builtin:minilm\ndata: {train: '${AUTOPEFT_NO_SUCH}/a.csv'}\n",
        "needs the environment variable AUTOPEFT_NO_SUCH, which is not set",
    ),
    job(
        "unknown-user",
        "model: builtin:minilm\ndata: {train: ~no-such-user/a.csv}\n",
        "names the home folder of a user that does not exist",
    ),
    job(
        "endless-path",
        "model: builtin:minilm\ndata: {train: " + "a" * 300 + ".csv}\n",
        "cannot be a path: too long",
    ),
    job(
        "column-named-twice",
        "model: builtin:minilm\ndata: {name: builtin:docstrings, columns: {text: a, label: a}}\n",
        "data.columns (line 2): the column 'a' is named twice",
    ),
    job(
        "no-rows",
        "model: builtin:minilm\ndata: {name: builtin:docstrings, limit: {train: 0}}\n",
        "data.limit.train (line 2): expected at least 1, got 0",
    ),
]

FLAGS = [
    flags("set-without-value", ("--set", "seed"), "--set got 'seed', expected key.path=value"),
    flags("set-without-key", ("--set", "=3"), "expected key.path=value"),
    flags("set-unknown-key", ("--set", "training.step=3"), "did you mean 'training.steps'?"),
    flags("set-bad-yaml", ("--set", "seed=[1"), "--set seed: the value '[1' is not valid YAML"),
    flags("set-bad-value", ("--set", "seed=x"), "seed: expected a whole number, got 'x'"),
    flags("set-into-a-value", ("--set", "seed.x=1"), "seed.x: unknown key"),
    flags(
        "set-into-a-preset", ("--set", "space.deploy=vlm"), "deploy: 'vlm' is neither", "'vllm'?"
    ),
    flags(
        "set-into-a-space-file",
        ("--set", "space=mine.yaml", "--set", "space.deploy=vllm"),
        "space.deploy: cannot be set: space is 'mine.yaml', not a mapping; set it in that file",
    ),
    flags(
        "set-unknown-constraint",
        ("--set", "constraints.retentoin.max=0.1"),
        "constraints.retentoin: 'retentoin' is neither a cost nor a metric",
        "did you mean 'retention'?",
    ),
    flags(
        "set-unknown-limit",
        ("--set", "constraints.retention.mx=0.1"),
        "unknown key; did you mean 'constraints.retention.max'?",
    ),
    flags(
        "set-limit-without-a-side",
        ("--set", "constraints.retention=0.1"),
        "constraints.retention: expected {max: 0.1} or {min: 0.1}, got 0.1",
    ),
    flags(
        "one-typo-among-objectives",
        ("--set", "objectives=[accuracy, num_trainable_paramters]"),
        "has 1 problem",
        "did you mean 'num_trainable_parameters'?",
    ),
    flags("zero-trials-flag", ("--trials", "0"), "budget.trials: expected at least 1, got 0"),
    flags(
        "word-for-number",
        ("--trials", "many"),
        "Invalid value for '--trials': expected a valid integer, got 'many'",
    ),
    flags("unknown-flag", ("--trails", "3"), "No such option: --trails; did you mean '--trials'?"),
    flags("unknown-proposer-flag", ("--proposer", "zzz"), "unknown proposer 'zzz'; valid: "),
]

COMMANDS = [
    Broken(name="unknown-command", command=("serch", "x"), expected=("No such command 'serch'",)),
    Broken(name="no-job-file", command=("search",), expected=("Missing argument 'JOB.yaml'",)),
    Broken(name="nothing-to-check", command=("check",), expected=("give either a job file or",)),
    Broken(
        name="two-things-to-check",
        files={"job.yaml": GOOD},
        command=("check", "job.yaml", "--schema"),
        expected=("not both",),
    ),
    Broken(
        name="unknown-format",
        command=("methods", "--format", "yaml"),
        expected=("'yaml' is not one of",),
    ),
]

FOLDERS = [
    Broken(
        name=f"{command[0]}-{what}",
        files={"empty": None, "file": "x"},
        command=(command[0], folder, *command[1:]),
        expected=(message,),
    )
    for command in (("show",), ("resume",), ("export", "out"), ("confirm",))
    for what, folder, message in (
        ("missing-folder", "nowhere", "there is no folder 'nowhere'"),
        ("foreign-folder", "empty", "'empty' is not a job folder"),
        ("file-for-folder", "file", "'file' is not a job folder"),
    )
]

CORPUS = [*JOB_FILES, *MODELS, *DATA, *FLAGS, *COMMANDS, *FOLDERS]


def write_files(files: Mapping[str, str | bytes | None], folder: Path) -> None:
    for name, content in files.items():
        path = folder / name
        if content is None:
            path.mkdir(parents=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def assert_clear(outcome: Outcome, expected: tuple[str, ...]) -> None:
    """One message, everything expected in it, exit code 2, no traceback."""
    flat = " ".join(outcome.stderr.split())
    assert outcome.code == 2, outcome
    assert outcome.stdout == ""
    assert "Traceback" not in outcome.stderr
    assert outcome.stderr.lower().count("error: ") == 1
    for fragment in expected:
        assert fragment in flat


@pytest.mark.parametrize("broken", [pytest.param(b, id=b.name) for b in CORPUS])
def test_a_broken_input_ends_with_one_clear_message(
    broken: Broken,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_files(broken.files, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert_clear(run_command(capsys, *broken.command), broken.expected)
    assert not (tmp_path / "runs").exists()


def test_the_corpus_names_each_case_once() -> None:
    names = [broken.name for broken in CORPUS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ["unknown-key", "show-missing-folder"])
def test_a_real_process_ends_the_same_way(name: str, tmp_path: Path) -> None:
    broken = next(broken for broken in CORPUS if broken.name == name)
    write_files(broken.files, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "autopeft", *broken.command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert_clear(Outcome(done.returncode, done.stdout, done.stderr), broken.expected)


def test_every_problem_of_a_job_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        "model: builtin:minilmm\n"
        "data: {train: a.csv, test: b.csv}\n"
        "training: {steps: no, batch_sise: 8}\n"
        "budget: {trials: -1}\n"
        "proposer: mobbo\n"
        "objectives: [spearman, accuracy]\n"
        "output: taken\n"
    )
    write_files({"job.yaml": text, "taken": "x"}, tmp_path)
    monkeypatch.chdir(tmp_path)
    outcome = run_command(capsys, "check", "job.yaml")
    lines = [line for line in outcome.stderr.splitlines() if line.startswith("  - ")]
    starts = [line.removeprefix("  - ").split(" ")[0] for line in lines]
    assert starts == [
        "model.name", "data.train", "data.test", "training.steps", "training.batch_sise",
        "budget.trials", "proposer", "objectives", "output",
    ]  # fmt: skip
    assert "has 9 problems" in outcome.stderr
