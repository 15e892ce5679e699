"""The front as a table: what is marked, and that nothing is torn apart in a narrow terminal."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from autopeft.records import Costs
from autopeft.results.front_table import WholeWords, front_table
from autopeft.results.job_log import JobLog
from autopeft.search_spaces.configuration import Configuration, Module
from tests.results.jobs import SCALE, Scribe, example_job, make_trial

SITES = ("k", "v", "attention_output", "ffn_gate", "ffn_in", "ffn_out")


def printed(log: JobLog, width: int) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(front_table(log))
    return [line.rstrip() for line in capture.get().splitlines()]


@pytest.fixture(scope="module")
def language_model() -> JobLog:
    """A job with every column there can be and a configuration of many long words."""
    scribe = Scribe()
    scribe.add("job", {"spec": {"name": "sft", "metric": "token_f1"}, "versions": {}})
    names = ("num_trainable_parameters", "retention")
    scribe.prepared(replace(SCALE, metric="loss", cost_names=names), greater_is_better=False)
    module = Module.of("ia3", [0, 1, 2, 3], sites=SITES)
    trial = replace(
        make_trial(0),
        configuration=Configuration(modules=(module,), learning_rate=0.01),
        costs=Costs(
            num_trainable_parameters=14_592,
            num_adapter_parameters=14_592,
            train_memory_bytes=398 * 2**20,
        ),
    )
    scribe.propose(trial)
    metrics = {"loss": 3.8467, "token_f1": 0.1532, "retention": 0.1801}
    scribe.measure(0, 96, -3.8467, metrics=metrics)
    scribe.decide(0, "complete", "trained to the end")
    return scribe.log


def test_it_marks_the_baseline() -> None:
    lines = printed(example_job().log, 200)
    assert lines[0] == "Front of sst2: 3 trials"
    assert [line.split()[0] for line in lines[3:6]] == ["0*", "1", "2"]
    assert {"0.9200", "900", "400", "MiB"} <= set(lines[3].split())
    assert lines[6] == "* LoRA on all linear layers, learning rate swept (the baseline)"


def test_an_empty_job_explains_no_mark() -> None:
    table = front_table(JobLog())
    assert table.row_count == 0
    assert table.caption is None


@pytest.mark.parametrize("width", [80, 100, 140])
def test_it_fits_and_keeps_words_whole(language_model: JobLog, width: int) -> None:
    lines = printed(language_model, width)
    words = {word for line in lines for part in line.split() for word in part.split(",")}
    assert max(map(len, lines)) <= width
    assert {f"sites={SITES[0]}", *SITES[1:], "lr=0.01", "ia3[0-3]"} <= words
    assert {"token_f1", "retention", "0.1532", "+0.1801"} <= words


def test_a_wide_terminal_takes_one_line_a_trial(language_model: JobLog) -> None:
    assert len(printed(language_model, 140)) == 4


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (40, ["ia3[0] sites=k,attention_output lr=0.01"]),
        (30, ["ia3[0]", "sites=k,attention_output", "lr=0.01"]),
        (18, ["ia3[0]", "sites=k,", "attention_output", "lr=0.01"]),
        (8, ["ia3[0]", "sites=k,", "attentio", "n_output", "lr=0.01"]),
    ],
)
def test_words_break_at_spaces_then_after_commas(width: int, lines: list[str]) -> None:
    assert WholeWords("ia3[0] sites=k,attention_output lr=0.01").lines(width) == lines
