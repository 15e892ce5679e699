"""Interactive pictures of a job (Plotly): the front and the learning curves.

Colours are of the Okabe-Ito set, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autopeft.records import (
    NUM_TRAINABLE_PARAMETERS,
    TRAIN_MEMORY_BYTES,
    TrialState,
    TrialStatus,
)
from autopeft.results.front import MEASURED_ENDS
from autopeft.results.job_log import JobLog
from autopeft.results.report import bytes_text, cost_text, cost_title, front_of, is_baseline

if TYPE_CHECKING:
    import plotly.graph_objects as go

BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#8C8C8C"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoints:
    """What a picture of a front shows.

    Attributes:
        front: Members of the front, by growing cost.
        dominated: Completed trials that are not on it.
        stopped: Measured trials that did not complete, at their latest score.
        cost_name: The cost along the x axis.
        metric: Name of the metric along the y axis.
        greater_is_better: Its orientation; pictures show the metric's own values.
    """

    front: list[TrialState]
    dominated: list[TrialState]
    stopped: list[TrialState]
    cost_name: str
    metric: str
    greater_is_better: bool

    @property
    def score_title(self) -> str:
        """Name of the y axis."""
        return self.metric if self.greater_is_better else f"{self.metric} (less is better)"

    def value(self, score: float) -> float:
        """Return the metric's own value of a score, which is oriented so that more is better."""
        return score if self.greater_is_better else -score

    def cost(self, state: TrialState) -> float:
        """Return a trial's cost along the x axis, at least 1."""
        return shown_cost(state, self.cost_name)

    def stairs(self) -> tuple[list[float], list[float]]:
        """Return the best value to be had at each cost, as a line of steps."""
        xs: list[float] = []
        ys: list[float] = []
        best = -math.inf
        for state in self.front:
            if state.score > best:
                best = state.score
                xs += [self.cost(state)] * (2 if ys else 1)
                ys += [ys[-1], self.value(best)] if ys else [self.value(best)]
        return xs, ys

    def hover_text(self, state: TrialState, separator: str = "<br>") -> str:
        """Describe a trial in a few lines."""
        costs = state.trial.costs
        lines = [
            f"trial {state.trial.number} ({state.trial.origin}), {state.status.value}",
            str(state.trial.configuration),
            f"{self.metric} {self.value(state.score):.4f} at step {state.step}",
            f"{cost_text(NUM_TRAINABLE_PARAMETERS, costs.num_trainable_parameters)} parameters, "
            f"{cost_text(TRAIN_MEMORY_BYTES, costs.train_memory_bytes)}",
        ]
        measured = max((m.memory_bytes or 0 for m in state.curve), default=0)
        if measured:
            lines.append(f"measured peak {bytes_text(measured)}")
        if state.reason:
            lines.append(state.reason)
        return separator.join(lines)


def shown_cost(state: TrialState, name: str) -> float:
    """Return a trial's cost where a picture on a log scale can show it: more than 0."""
    value = getattr(state.costs, name)
    if name in MEASURED_ENDS:
        low, high = MEASURED_ENDS[name]
        return max(float(high if value is None else value), low, 1e-3)
    return max(1, int(value))


def front_points(log: JobLog) -> FrontPoints:
    """Sort a job's trials by what a picture does with them; trials without a score are left out."""
    measured = [state for state in log.trials if np.isfinite(state.score)]
    members = {state.trial.number for state in front_of(log)}
    costs = () if log.scale is None else log.scale.cost_names
    name = costs[0] if costs else NUM_TRAINABLE_PARAMETERS
    metric = "score" if log.scale is None else log.scale.metric
    return FrontPoints(
        front=sorted(
            (state for state in measured if state.trial.number in members),
            key=lambda state: (shown_cost(state, name), state.score),
        ),
        dominated=[
            state
            for state in measured
            if state.status is TrialStatus.COMPLETED and state.trial.number not in members
        ],
        stopped=[state for state in measured if state.status is not TrialStatus.COMPLETED],
        cost_name=name,
        metric=metric,
        greater_is_better=(log.prepared or {}).get("greater_is_better") is not False,
    )


def plot_front(log: JobLog) -> go.Figure:
    """Draw the metric against the first cost (log scale), coloured by training memory.

    The front is joined by a line of steps; completed trials off the front are hollow, trials
    that did not complete are faint at their latest score. Hovering shows the configuration.
    Members of the ``lora-sweep`` portfolio are diamonds.
    """
    import plotly.graph_objects as go

    points = front_points(log)
    figure = go.Figure()
    completed = points.front + points.dominated
    memory = [state.trial.costs.train_memory_bytes / 2**20 for state in completed] or [0.0, 1.0]
    limits = {"cmin": min(memory), "cmax": max(max(memory), min(memory) + 1e-6)}
    groups: list[tuple[str, list[TrialState], dict[str, Any]]] = [
        ("not completed", points.stopped, {"color": GREY, "size": 7, "opacity": 0.35}),
        ("completed", points.dominated, {"size": 9, "opacity": 0.55, "color": GREY}),
        (
            "front",
            points.front,
            {
                "size": 13,
                "color": [s.trial.costs.train_memory_bytes / 2**20 for s in points.front],
                "colorscale": "Viridis",
                "colorbar": {"title": {"text": "training<br>memory, MiB"}},
                "line": {"width": 1, "color": "black"},
                **limits,
            },
        ),
    ]
    xs, ys = points.stairs()
    figure.add_scatter(
        x=xs, y=ys, mode="lines", line={"color": BLUE, "width": 1.5}, hoverinfo="skip",
        showlegend=False, name="best at this cost",
    )  # fmt: skip
    for name, states, marker in groups:
        symbols = ["diamond" if is_baseline(state) else "circle" for state in states]
        figure.add_scatter(
            x=[points.cost(state) for state in states],
            y=[points.value(state.score) for state in states],
            mode="markers",
            name=name,
            marker={**marker, "symbol": symbols},
            customdata=[state.trial.number for state in states],
            text=[points.hover_text(state) for state in states],
            hovertemplate="%{text}<extra></extra>",
        )
    figure.update_layout(
        title={"text": f"Front of {log.name or 'the job'}"},
        xaxis={"title": {"text": cost_title(points.cost_name)}, "type": "log"},
        yaxis={"title": {"text": points.score_title}},
        template="plotly_white",
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0.0},
    )
    return figure


def plot_curves(log: JobLog) -> go.Figure:
    """Draw the metric of every trial over its optimiser steps.

    Front members are coloured, other completed trials grey, all others faint.
    """
    import plotly.graph_objects as go

    points = front_points(log)
    figure = go.Figure()
    styles: list[tuple[str, Sequence[TrialState], str, float, float]] = [
        ("not completed", points.stopped, GREY, 1.0, 0.3),
        ("completed", points.dominated, GREY, 1.5, 0.7),
        ("front", points.front, BLUE, 2.5, 1.0),
    ]
    for name, states, colour, width, opacity in styles:
        for index, state in enumerate(states):
            baseline = is_baseline(state)
            figure.add_scatter(
                x=[m.step for m in state.curve],
                y=[points.value(m.score) for m in state.curve],
                mode="lines+markers",
                name=name,
                legendgroup=name,
                showlegend=index == 0,
                opacity=opacity,
                line={"color": VERMILION if baseline and name == "front" else colour,
                      "width": width},
                marker={"symbol": "diamond" if baseline else "circle"},
                customdata=[state.trial.number] * len(state.curve),
                text=[points.hover_text(state)] * len(state.curve),
                hovertemplate="step %{x}: %{y:.4f}<br>%{text}<extra></extra>",
            )  # fmt: skip
    figure.update_layout(
        title={"text": f"Learning curves of {log.name or 'the job'}"},
        xaxis={"title": {"text": "optimiser steps"}},
        yaxis={"title": {"text": points.score_title}},
        template="plotly_white",
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0.0},
    )
    return figure
