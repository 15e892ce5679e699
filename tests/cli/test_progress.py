"""What a person sees while a job runs, from logs written in code and a clock of our own."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from autopeft.cli.progress import (
    Lines,
    Screen,
    TimeLeft,
    create_progress,
    duration_text,
    spent_fraction,
)
from autopeft.results.job_log import JobLog
from tests.results.jobs import SCALE, Scribe, make_trial


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal:
    """A terminal of 120 columns that keeps what was printed."""

    def __init__(self, *, is_terminal: bool = False) -> None:
        self.file = StringIO()
        self.console = Console(
            file=self.file, width=120, force_terminal=is_terminal, color_system=None
        )

    def show(self, screen: Screen) -> str:
        with self.console.capture() as capture:
            self.console.print(screen.render())
        return capture.get()


def started(**budget: float) -> Scribe:
    scribe = Scribe()
    spec = {"name": "sst2", "budget": budget, "training": {"steps": 96}}
    scribe.add("job", {"spec": spec, "versions": {}})
    scribe.prepared()
    return scribe


def test_plain_lines_are_chosen_where_there_is_no_terminal() -> None:
    assert isinstance(create_progress(Terminal().console), Lines)
    assert isinstance(create_progress(Terminal(is_terminal=True).console), Screen)


def test_plain_lines_tell_of_phases_segments_and_decisions() -> None:
    terminal, clock, scribe = Terminal(), Clock(), started(trials=4)
    with Lines(terminal.console, clock) as lines:
        lines.on_phase("reading the data")
        scribe.propose(make_trial(0))
        lines.on_log(scribe.log, None)
        clock.now += 75
        scribe.measure(0, 48, 0.8125)
        lines.on_log(scribe.log, None)
        scribe.decide(0, "continue", "best of 1")
        lines.on_log(scribe.log, "trial 0: continue: best of 1")
    assert terminal.file.getvalue().splitlines() == [
        "[  0:00] reading the data",
        "[  1:15] trial 0: step 48 of 96: accuracy 0.8125 in 1.5 s",
        "[  1:15] trial 0: continue: best of 1",
    ]


def test_plain_lines_tell_how_far_something_is_now_and_then() -> None:
    terminal, clock = Terminal(), Clock()
    lines = Lines(terminal.console, clock)
    lines.on_phase("predicting memory")
    for number in range(1, 26):
        clock.now += 1
        lines.on_progress(f"predicting memory: method {number} of 60, lora")
    assert terminal.file.getvalue().splitlines() == [
        "[  0:00] predicting memory",
        "[  0:10] predicting memory: method 10 of 60, lora",
        "[  0:20] predicting memory: method 20 of 60, lora",
    ]


def test_the_screen_tells_how_far_something_is_until_it_is_over() -> None:
    terminal, scribe = Terminal(), started(trials=4)
    screen = Screen(terminal.console, Clock())
    screen.on_phase("searching")
    screen.on_progress("predicting memory: method 3 of 60, lora")
    assert "predicting memory: method 3 of 60, lora" in terminal.show(screen)
    scribe.propose(make_trial(0))
    screen.on_log(scribe.log, None)
    shown = terminal.show(screen)
    assert "searching" in shown
    assert "predicting memory" not in shown


def language_model() -> Scribe:
    """Return a job on the loss that scores answers, with a trial under way."""
    scribe = Scribe()
    spec = {"name": "sft", "metric": "token_f1", "budget": {"trials": 4}, "training": {"steps": 96}}
    scribe.add("job", {"spec": spec, "versions": {}})
    scribe.prepared(replace(SCALE, metric="loss"), greater_is_better=False)
    scribe.propose(make_trial(0))
    return scribe


def test_what_is_measured_at_the_last_step_is_told() -> None:
    terminal, scribe = Terminal(), language_model()
    lines = Lines(terminal.console, Clock())
    lines.on_log(scribe.log, None)
    metrics = {"loss": 3.5, "token_f1": 0.25, "retention": 0.125}
    scribe.measure(0, 96, -3.5, metrics=metrics)
    lines.on_log(scribe.log, None)
    assert terminal.file.getvalue() == (
        "[  0:00] trial 0: step 96 of 96: loss 3.5000, token_f1 0.2500, retention 0.1250 in 1.5 s\n"
    )


def test_the_screen_gives_a_metric_as_it_is_known() -> None:
    terminal, scribe = Terminal(), language_model()
    screen = Screen(terminal.console, Clock())
    scribe.measure(0, 48, -5.1, metrics={"loss": 5.1})
    scribe.decide(0, "continue", "good")
    scribe.segment(0, 96)
    screen.on_log(scribe.log, None)
    assert "trial 0 to step 96 of 96, loss 5.1000 at step 48" in terminal.show(screen)


def test_a_resumed_job_does_not_repeat_what_was_measured_before() -> None:
    terminal, scribe = Terminal(), started(trials=4)
    scribe.completed(make_trial(0), (0.7, 0.9))
    lines = Lines(terminal.console, Clock())
    scribe.propose(make_trial(1))
    lines.on_log(scribe.log, None)
    scribe.measure(1, 48, 0.6)
    lines.on_log(scribe.log, None)
    printed = terminal.file.getvalue().splitlines()
    assert printed == ["[  0:00] trial 1: step 48 of 96: accuracy 0.6000 in 1.5 s"]


def test_plain_lines_keep_brackets_and_stay_on_one_line() -> None:
    terminal = Terminal()
    Lines(terminal.console, Clock()).on_phase("odd [bold] text\nin two " + "long " * 60)
    (line,) = terminal.file.getvalue().splitlines()
    assert line.startswith("[  0:00] odd [bold] text in two long")


def test_the_screen_begins_with_the_phase() -> None:
    terminal, clock = Terminal(), Clock()
    screen = Screen(terminal.console, clock)
    screen.on_phase("reading the data")
    clock.now += 3
    assert terminal.show(screen).strip() == "job  reading the data  3 s"


def test_the_screen_shows_trials_rungs_best_hypervolume_and_budget() -> None:
    terminal, clock, scribe = Terminal(), Clock(), started(trials=4)
    screen = Screen(terminal.console, clock)
    screen.on_phase("searching")
    scribe.completed(make_trial(0, parameters=50_000, memory=200 * 2**20), (0.7, 0.9))
    screen.on_log(scribe.log, None)
    clock.now += 60
    scribe.propose(make_trial(1))
    scribe.measure(1, 48, 0.6)
    scribe.decide(1, "pause", "waits")
    screen.on_log(scribe.log, "trial 1: pause: waits")
    scribe.propose(make_trial(2))
    scribe.measure(2, 48, 0.65)
    scribe.decide(2, "continue", "good")
    scribe.segment(2, 96)
    screen.on_log(scribe.log, None)
    shown = terminal.show(screen)
    assert "sst2  searching  1 min 0 s" in shown
    assert "3 trials  1 completed  1 running  1 paused" in shown
    assert "trial 2 to step 96 of 96, accuracy 0.6500 at step 48" in shown
    assert "best accuracy 0.9000 (trial 0, 50.0 k parameters, 200 MiB); front of 1" in shown
    assert "hypervolume 0." in shown
    assert "50 % of the budget" in shown
    assert "about 2 min 0 s left" in shown
    assert "trial 1: pause: waits" in shown


def test_the_screen_says_when_nothing_completed_yet() -> None:
    terminal, scribe = Terminal(), started(trials=4)
    screen = Screen(terminal.console, Clock())
    scribe.propose(make_trial(0))
    screen.on_log(scribe.log, None)
    shown = terminal.show(screen)
    assert "no trial completed yet" in shown
    assert "0 % of the budget" in shown


def test_the_screen_keeps_only_the_latest_lines() -> None:
    terminal, scribe = Terminal(), started(trials=4)
    screen = Screen(terminal.console, Clock())
    scribe.propose(make_trial(0))
    for number in range(9):
        screen.on_log(scribe.log, f"message {number}")
    shown = [line for line in terminal.show(screen).splitlines() if "message" in line]
    assert shown == [f"message {number}" for number in range(4, 9)]


def test_the_screen_is_gone_when_it_is_left() -> None:
    terminal, scribe = Terminal(is_terminal=True), started(trials=4)
    with Screen(terminal.console) as screen:
        screen.on_log(scribe.log, "a message")
    assert terminal.file.getvalue().endswith("\x1b[2K") or "\x1b[1A" in terminal.file.getvalue()


@pytest.mark.parametrize(
    ("budget", "fraction"),
    [
        ({"trials": 4}, 0.5),
        ({"trials": 1}, 1.0),
        ({"steps": 1440}, 0.1),
        ({"minutes": 2}, 0.25),
        ({"trials": 4, "minutes": 0.6}, 0.5 / 0.6),
        ({"trials": None, "steps": None, "minutes": None}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_limit_nearest_its_end_counts(budget: dict[str, float], fraction: float) -> None:
    scribe = started(**budget)
    scribe.completed(make_trial(0), (0.7, 0.9))
    scribe.propose(make_trial(1))
    scribe.measure(1, 48, 0.6)
    scribe.decide(1, "stop", "")
    scribe.add("spent", {"seconds": 30.0})
    assert spent_fraction(scribe.log) == pytest.approx(fraction)


def test_a_budget_given_at_a_resume_replaces_the_first() -> None:
    scribe = started(trials=2)
    scribe.completed(make_trial(0), (0.7, 0.9))
    scribe.add("budget", {"trials": 4})
    assert spent_fraction(scribe.log) == pytest.approx(0.25)


def test_time_left_is_judged_by_this_run_alone() -> None:
    clock, scribe = Clock(), started(trials=4)
    scribe.completed(make_trial(0), (0.9,))
    left = TimeLeft(clock)
    assert left.seconds() is None
    left.observe(scribe.log)
    assert left.seconds() is None
    clock.now += 10
    scribe.completed(make_trial(1), (0.8,))
    left.observe(scribe.log)
    assert left.seconds() == pytest.approx(20.0)
    clock.now += 5
    assert left.seconds() == pytest.approx(15.0)
    clock.now += 500
    assert left.seconds() == 0.0


def test_time_left_knows_nothing_before_the_first_trial() -> None:
    left = TimeLeft(Clock())
    left.observe(JobLog(scale=SCALE))
    assert left.seconds() is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
