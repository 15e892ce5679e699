from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from autopeft.results.front import ObjectiveScale
from autopeft.results.job_log import JobLog
from autopeft.results.plots import front_points, plot_curves, plot_front
from autopeft.results.svg import _linear_ticks, _log_ticks, front_svg
from tests.results.jobs import SCALE, Scribe, example_job, make_trial

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def log() -> JobLog:
    return example_job().log


def one_trial(score: float = 0.5, parameters: int = 1000) -> JobLog:
    scribe = Scribe()
    scribe.job("<one> & only")
    scribe.prepared()
    scribe.completed(make_trial(0, parameters=parameters), (score,))
    return scribe.log


def test_trials_are_sorted_by_what_became_of_them(log: JobLog) -> None:
    points = front_points(log)

    assert [state.trial.number for state in points.front] == [2, 1, 0]
    assert [state.trial.number for state in points.dominated] == [3]
    assert [state.trial.number for state in points.stopped] == [4, 5]
    assert (points.cost_name, points.score_title) == ("num_trainable_parameters", "accuracy")


def test_the_stairs_rise_along_the_front(log: JobLog) -> None:
    xs, ys = front_points(log).stairs()

    assert xs == [2_000, 40_000, 40_000, 900_000, 900_000]
    assert ys == [0.7, 0.7, 0.9, 0.9, 0.92]


def test_plot_front_shows_every_measured_trial(log: JobLog) -> None:
    figure = plot_front(log)
    shown = {trace.name: list(trace.customdata or ()) for trace in figure.data}

    assert shown["front"] == [2, 1, 0]
    assert shown["completed"] == [3]
    assert shown["not completed"] == [4, 5]
    assert figure.layout.xaxis.type == "log"
    front = next(trace for trace in figure.data if trace.name == "front")
    assert list(front.marker.color) == [150.0, 220.0, 400.0]
    assert list(front.marker.symbol) == ["circle", "circle", "diamond"]
    assert str(log.states[2].trial.configuration) in front.text[0]
    assert min(front.y) == 0.7


def test_plot_curves_shows_each_curve(log: JobLog) -> None:
    figure = plot_curves(log)
    curves = {trace.customdata[0]: list(trace.y) for trace in figure.data}

    assert set(curves) == {0, 1, 2, 3, 4, 5}
    assert curves[0] == [0.8, 0.92]
    assert sum(bool(trace.showlegend) for trace in figure.data) == 3


@pytest.mark.parametrize("log", [JobLog(), one_trial()], ids=["empty", "one"])
def test_small_jobs_can_be_drawn(log: JobLog) -> None:
    json.loads(plot_front(log).to_json())
    json.loads(plot_curves(log).to_json())
    ElementTree.fromstring(front_svg(log))


def test_pictures_show_a_loss_as_it_is() -> None:
    values = {name: getattr(SCALE, name) for name in SCALE.__slots__}
    scribe = Scribe()
    scribe.prepared(ObjectiveScale(**{**values, "metric": "loss"}), greater_is_better=False)
    scribe.completed(make_trial(0, parameters=40), (-3.5, -2.25))
    points = front_points(scribe.log)

    assert points.score_title == "loss (less is better)"
    assert points.stairs()[1] == [2.25]
    assert "loss 2.2500 at step" in points.hover_text(points.front[0])
    front = next(trace for trace in plot_front(scribe.log).data if trace.name == "front")
    assert list(front.y) == [2.25]
    assert list(plot_curves(scribe.log).data[0].y) == [3.5, 2.25]


def test_svg_is_well_formed_and_shows_every_point(log: JobLog) -> None:
    root = ElementTree.fromstring(front_svg(log))
    tooltips = [element.text or "" for element in root.iter(f"{SVG}title")]
    shapes = [*root.iter(f"{SVG}circle"), *root.iter(f"{SVG}polygon")]
    # 6 trials and 4 marks of the legend; only trials have tooltips, and the picture its title.
    assert len(shapes) == 6 + 4
    assert len(tooltips) == 1 + 6
    assert any(str(log.states[0].trial.configuration) in text for text in tooltips)
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert {"Front of sst2", "accuracy", "trainable parameters (log scale)"} <= set(texts)
    assert {"front", "completed", "not completed", "LoRA sweep"} <= set(texts)


def test_svg_draws_points_inside_its_axes(log: JobLog) -> None:
    root = ElementTree.fromstring(front_svg(log))
    circles = [c for c in root.iter(f"{SVG}circle") if c.find(f"{SVG}title") is not None]
    xs = [float(circle.attrib["cx"]) for circle in circles]
    ys = [float(circle.attrib["cy"]) for circle in circles]

    assert len(circles) == 5
    assert all(72 <= x <= 590 for x in xs)
    assert all(56 <= y <= 402 for y in ys)


def test_svg_is_the_same_every_time_and_needs_nothing_from_outside(log: JobLog) -> None:
    text = front_svg(log)

    assert text == front_svg(example_job().log)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "nan" not in text


def test_svg_escapes_names() -> None:
    root = ElementTree.fromstring(front_svg(one_trial()))
    assert root.find(f"{SVG}title").text == "Front of <one> & only"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.48, 0.93, [0.5, 0.6, 0.7, 0.8, 0.9]),
        (-1.0, 1.0, [-1.0, -0.5, 0.0, 0.5, 1.0]),
        (0.901, 0.909, [0.902, 0.904, 0.906, 0.908]),
    ],
)
def test_linear_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert _linear_ticks(low, high) == ticks


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (3.0, 5.0, [1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5]),
        (3.0, 6.0, [1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6]),
        (2.9, 7.2, [1e3, 1e4, 1e5, 1e6, 1e7]),
        (0.0, 20.0, [1.0, 1e3, 1e6, 1e9, 1e12, 1e15, 1e18]),
    ],
)
def test_log_ticks_are_thinned(low: float, high: float, ticks: list[float]) -> None:
    assert _log_ticks(low, high) == ticks
