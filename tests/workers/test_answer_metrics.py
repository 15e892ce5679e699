"""Metrics of generated answers: closed forms, and messages for a user's broken function."""

from __future__ import annotations

from pathlib import Path

import pytest

from autopeft.errors import InvalidJobError
from autopeft.workers.answer_metrics import (
    BUILT_IN,
    AnswerMetric,
    exact_match,
    has_changed,
    read_metric,
    token_f1,
)

GOOD = "def share(predictions, references):\n    return sum(map(len, predictions)) / 100\n"


def write(folder: Path, text: str, name: str = "metrics.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("prediction", "reference", "value"),
    [
        ("Return it.", "Return it.", 1.0),
        ("  Return \n it. ", "Return it.", 1.0),
        ("return it.", "Return it.", 0.0),
        ("Return it", "Return it.", 0.0),
        ("", "", 1.0),
        ("", "a", 0.0),
    ],
)
def test_exact_match_leaves_white_space_out(prediction: str, reference: str, value: float) -> None:
    assert exact_match([prediction], [reference]) == value
    assert exact_match([prediction, "x"], [reference, "y"]) == value / 2


@pytest.mark.parametrize(
    ("prediction", "reference", "value"),
    [
        ("Return the sum.", "return THE sum", 1.0),
        ("a b", "a c", 0.5),
        ("a a b", "a b", 0.8),
        ("a", "b c", 0.0),
        ("", "a", 0.0),
        ("...", "", 1.0),
    ],
)
def test_token_f1_is_that_of_shared_words(prediction: str, reference: str, value: float) -> None:
    assert token_f1([prediction], [reference]) == pytest.approx(value)
    assert token_f1([reference], [prediction]) == pytest.approx(value)


@pytest.mark.parametrize("name", BUILT_IN)
def test_lists_of_different_lengths_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="zip"):
        BUILT_IN[name](["a"], ["a", "b"])


def test_a_function_of_the_users_is_read_and_called(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    metric = read_metric("metrics.py:share", tmp_path)
    assert metric.name == "share"
    assert metric(["ab", "c"], ["", ""]) == 0.03
    assert metric.digest != AnswerMetric(name="share", source=f"{GOOD}\n").digest


def test_the_copy_of_a_job_counts(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    kept = write(tmp_path, GOOD, "kept.py")
    assert not has_changed("metrics.py:share", tmp_path, kept)
    path.write_text("def share(predictions, references):\n    return 7.0\n")
    assert has_changed("metrics.py:share", tmp_path, kept)
    assert read_metric("metrics.py:share", tmp_path, kept)(["ab"], [""]) == 0.02
    assert read_metric("metrics.py:share", tmp_path)(["ab"], [""]) == 7.0
    path.unlink()
    assert not has_changed("metrics.py:share", tmp_path, kept)
    assert read_metric("metrics.py:share", tmp_path, kept)(["ab"], [""]) == 0.02
    assert not has_changed("exact_match", tmp_path, kept)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exact_mach", "neither a metric of generated answers.*did you mean 'exact_match'"),
        ("metrics.txt:share", "neither a metric of generated answers nor file.py:function"),
        ("metrics.py:", "neither a metric"),
        ("metrics.py:a b", "neither a metric"),
        ("metric.py:share", "'metric.py' below .* cannot be read.*did you mean 'metrics.py'"),
        ("metrics.py:shares", "has no function 'shares'; did you mean 'share'"),
        ("metrics.py:number", "'number' in metrics.py is a int; expected a function"),
        ("metrics.py:raises", "raised KeyError: 'x'"),
        ("metrics.py:text", "returned 'good' of type str; expected a finite number"),
        ("metrics.py:nan", "returned nan of type float"),
        ("metrics.py:nothing", "returned None of type NoneType"),
        ("metrics.py:takes_one", "raised TypeError"),
        ("metrics.py:loss", "name 'loss' is taken"),
        ("metrics.py:retention", "name 'retention' is taken"),
        ("metrics.py:token_f1", "name 'token_f1' is taken"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, message: str) -> None:
    write(
        tmp_path,
        GOOD + "number = 3\n"
        "def raises(predictions, references):\n    return {}['x']\n"
        "def text(predictions, references):\n    return 'good'\n"
        "def nan(predictions, references):\n    return float('nan')\n"
        "def nothing(predictions, references):\n    pass\n"
        "def takes_one(predictions):\n    return 1.0\n",
    )
    with pytest.raises(InvalidJobError, match=message):
        read_metric(text, tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def share(:\n", "cannot be run: SyntaxError"),
        ("import no_such_package_at_all\n", "cannot be run: ModuleNotFoundError"),
        ("1 / 0\n", "cannot be run: ZeroDivisionError"),
    ],
)
def test_a_file_that_cannot_be_run_is_refused(tmp_path: Path, source: str, message: str) -> None:
    write(tmp_path, source)
    with pytest.raises(InvalidJobError, match=message):
        read_metric("metrics.py:share", tmp_path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.py").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidJobError, match="cannot be read"):
        read_metric("metrics.py:share", tmp_path)
