"""A picture of a front as one self-contained SVG, for documents: no browser, no dependency."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from autopeft.records import TrialState
from autopeft.results.job_log import JobLog
from autopeft.results.plots import FrontPoints, front_points
from autopeft.results.report import bytes_text, cost_text, cost_title, is_baseline

WIDTH, HEIGHT = 760, 460
LEFT, RIGHT, TOP, BOTTOM = 72, 170, 56, 58
INK, FAINT, GRID = "#24292f", "#8c959f", "#e6e9ec"
LINE = "#0072B2"
#: Five stops of Viridis, dark to light, as in the interactive picture.
VIRIDIS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
MAX_POINTS = 2000


@dataclass(frozen=True, slots=True)
class _Axis:
    """A linear axis between two values, drawn between two pixels."""

    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        part = (value - self.low) / (self.high - self.low)
        return self.first + part * (self.last - self.first)


def front_svg(log: JobLog) -> str:
    """Return a picture of a job's front: the metric against the first cost, coloured by memory.

    The same job gives the same text. Each point carries its configuration as a tooltip.
    """
    points = front_points(log)
    shown = [*points.front, *points.dominated, *points.stopped][:MAX_POINTS]
    logs = [math.log10(points.cost(state)) for state in shown] or [3.0, 6.0]
    scores = [points.value(state.score) for state in shown] or [0.0, 1.0]
    x_axis = _Axis(*_padded(logs, 0.06, 0.15), LEFT, WIDTH - RIGHT)
    y_axis = _Axis(*_padded(scores, 0.07, 0.01), HEIGHT - BOTTOM, TOP)
    memory = [state.trial.costs.train_memory_bytes for state in points.front]
    colour = _colours(memory)

    def place(state: TrialState) -> tuple[float, float]:
        return x_axis(math.log10(points.cost(state))), y_axis(points.value(state.score))

    title = f"Front of {log.name or 'the job'}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img" font-size="12" fill="{INK}" '
        f'font-family="-apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="30" font-size="17" font-weight="600">{escape(title)}</text>',
        *_grid(x_axis, y_axis, points),
        *_stairs(points, x_axis, y_axis),
    ]
    for state in points.stopped[:MAX_POINTS]:
        parts.append(_mark(points, state, place(state), 3.5, f'fill="{FAINT}" fill-opacity="0.45"'))
    for state in points.dominated[:MAX_POINTS]:
        style = f'fill="#ffffff" stroke="{FAINT}" stroke-width="1.6"'
        parts.append(_mark(points, state, place(state), 4.5, style))
    for state in points.front[:MAX_POINTS]:
        fill = colour(state.trial.costs.train_memory_bytes)
        style = f'fill="{fill}" stroke="{INK}" stroke-width="1"'
        parts.append(_mark(points, state, place(state), 6.5, style))
    parts += _legend(memory, any(is_baseline(state) for state in shown))
    return "\n".join([*parts, "</svg>", ""])


def _padded(values: Sequence[float], part: float, least: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = max(least, part * (high - low))
    return low - pad, high + pad


def _grid(x_axis: _Axis, y_axis: _Axis, points: FrontPoints) -> Iterable[str]:
    left, right, bottom, top = LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM, TOP
    for value in _linear_ticks(y_axis.low, y_axis.high):
        y = y_axis(value)
        yield _line(left, y, right, y, GRID)
        yield _text(left - 8, y + 4, f"{value:g}", anchor="end")
    for value in _log_ticks(x_axis.low, x_axis.high):
        x = x_axis(math.log10(value))
        yield _line(x, top, x, bottom, GRID)
        yield _text(x, bottom + 18, _tick_text(points.cost_name, value), anchor="middle")
    yield _line(left, bottom, right, bottom, INK)
    yield _line(left, bottom, left, top, INK)
    yield _text((left + right) / 2, HEIGHT - 16, f"{cost_title(points.cost_name)} (log scale)",
                anchor="middle")  # fmt: skip
    middle = (top + bottom) / 2
    yield (
        f'<text x="20" y="{middle:.1f}" text-anchor="middle" '
        f'transform="rotate(-90 20 {middle:.1f})">{escape(points.score_title)}</text>'
    )


def _stairs(points: FrontPoints, x_axis: _Axis, y_axis: _Axis) -> Iterable[str]:
    xs, ys = points.stairs()
    if len(xs) > 1:
        corners = " ".join(
            f"{x_axis(math.log10(x)):.1f},{y_axis(y):.1f}" for x, y in zip(xs, ys, strict=True)
        )
        yield f'<polyline points="{corners}" fill="none" stroke="{LINE}" stroke-width="1.6"/>'


def _legend(memory: Sequence[int], has_baseline: bool) -> Iterable[str]:
    x, y = WIDTH - RIGHT + 22, TOP + 8
    marks = [
        ("front", f'fill="{LINE}" stroke="{INK}"', False),
        ("completed", f'fill="#ffffff" stroke="{FAINT}" stroke-width="1.6"', False),
        ("not completed", f'fill="{FAINT}" fill-opacity="0.45"', False),
    ]
    if has_baseline:
        marks.append(("LoRA sweep", f'fill="#ffffff" stroke="{INK}"', True))
    for index, (name, style, diamond) in enumerate(marks):
        row = y + 22 * index
        yield _shape(x, row, 5.5, style, diamond=diamond)
        yield _text(x + 14, row + 4, name)
    if memory:
        top = y + 22 * len(marks) + 24
        yield _text(x - 6, top - 8, "training memory")
        stops = "".join(
            f'<stop offset="{100 * i // (len(VIRIDIS) - 1)}%" stop-color="{_hex(stop)}"/>'
            for i, stop in enumerate(reversed(VIRIDIS))
        )
        yield (
            f'<defs><linearGradient id="memory" x1="0" y1="0" x2="0" y2="1">{stops}'
            "</linearGradient></defs>"
        )
        yield (
            f'<rect x="{x - 6}" y="{top}" width="14" height="110" fill="url(#memory)" '
            f'stroke="{INK}" stroke-width="0.5"/>'
        )
        yield _text(x + 16, top + 10, bytes_text(max(memory)))
        yield _text(x + 16, top + 110, bytes_text(min(memory)))


def _mark(
    points: FrontPoints, state: TrialState, place: tuple[float, float], size: float, style: str
) -> str:
    tooltip = f"<title>{escape(points.hover_text(state, chr(10)))}</title>"
    return _shape(*place, size, style, diamond=is_baseline(state), inside=tooltip)


def _shape(x: float, y: float, size: float, style: str, *, diamond: bool, inside: str = "") -> str:
    if diamond:
        r = size * 1.25
        corners = f"{x:.1f},{y - r:.1f} {x + r:.1f},{y:.1f} {x:.1f},{y + r:.1f} {x - r:.1f},{y:.1f}"
        return f'<polygon points="{corners}" {style}>{inside}</polygon>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" {style}>{inside}</circle>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        'stroke-width="1"/>'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _colours(memory: Sequence[int]) -> Callable[[int], str]:
    low, high = (min(memory), max(memory)) if memory else (0, 1)

    def colour(value: int) -> str:
        part = 0.5 if high == low else (value - low) / (high - low)
        grid = np.linspace(0.0, 1.0, len(VIRIDIS))
        return _hex([round(float(np.interp(part, grid, c))) for c in zip(*VIRIDIS, strict=True)])

    return colour


def _hex(channels: Sequence[int]) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in channels)


def _tick_text(cost_name: str, value: float) -> str:
    """Write a cost without trailing zeros, e.g. ``3 k``."""
    number, _, unit = cost_text(cost_name, value).partition(" ")
    return f"{float(number):g} {unit}".rstrip()


def _linear_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Return round values inside ``[low, high]``, about ``count`` of them."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * (1 - 1e-9))
    first = math.ceil(low / step)
    return [round(i * step, 12) for i in range(first, math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Return 1, 2 and 5 times powers of ten inside ``10 ** [low, high]``, thinned to ``most``."""
    exponents = range(math.floor(low), math.ceil(high) + 1)
    for multiples in ((1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**e for e in exponents for m in multiples]
        ticks = [tick for tick in ticks if low <= math.log10(tick) <= high]
        if len(ticks) <= most:
            break
    return ticks[:: max(1, math.ceil(len(ticks) / most))]
