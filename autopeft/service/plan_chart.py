"""A plan as a picture: a stacked bar for each configuration, the memory as a line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path

from autopeft.errors import InvalidJobError
from autopeft.results.report import bytes_text, count_text
from autopeft.service.planning import COMPONENTS, Plan, Row

WIDTH, LEFT, RIGHT, TOP = 860, 190, 110, 96
BAR, GAP = 18, 8
INK, FAINT, GRID, LIMIT = "#24292f", "#57606a", "#e6e9ec", "#D55E00"
#: Of the Okabe-Ito set, which colour-blind readers can tell apart.
COLOURS = {
    "weights": "#8C8C8C",
    "adapter": "#0072B2",
    "gradients": "#56B4E9",
    "optimizer_state": "#009E73",
    "activations": "#E69F00",
    "transients": "#CC79A7",
}


def write_chart(plan: Plan, path: Path) -> None:
    """Write the chart to a new or existing file, as its ending says.

    Raises:
        InvalidJobError: another ending than .svg or .html, or it cannot be written.
    """
    check_ending(path)
    svg = plan_svg(plan)
    text = svg
    if path.suffix.casefold() == ".html":
        title = escape(_title(plan))
        text = (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f"</head>\n<body>\n{svg}</body></html>\n"
        )
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidJobError(
            f"--plot: cannot write {str(path)!r}: {error.strerror or error}",
            hint="name a file in a folder that exists and that you may write to",
        ) from error


def check_ending(path: Path) -> None:
    """Raise ``InvalidJobError`` where a chart cannot be written in such a file."""
    if path.suffix.casefold() not in (".svg", ".html"):
        raise InvalidJobError(
            f"--plot: expected a file that ends in .svg or .html, got {str(path)!r}",
            hint="--plot memory.svg",
        )


def plan_svg(plan: Plan) -> str:
    """Return the chart as one self-contained SVG; the same plan gives the same text."""
    height = TOP + len(plan.rows) * (BAR + GAP) + 46
    most = max([row.total_bytes for row in plan.rows] + [plan.limit_bytes or 0] + [1]) * 1.04
    bottom = height - 40

    def x(num_bytes: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * num_bytes / most

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" font-size="12" fill="{INK}" '
        'font-family="-apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
        f"<title>{escape(_title(plan))}</title>",
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
        f'<text x="16" y="28" font-size="16" font-weight="600">{escape(_title(plan))}</text>',
        f'<text x="16" y="46" fill="{FAINT}">{escape(subtitle(plan))}</text>',
        *_legend(),
    ]
    for value in _ticks(most):
        parts.append(
            f'<line x1="{x(value):.1f}" y1="{TOP - 6}" x2="{x(value):.1f}" y2="{bottom}" '
            f'stroke="{GRID}"/>'
        )
        parts.append(
            f'<text x="{x(value):.1f}" y="{bottom + 18}" text-anchor="middle" fill="{FAINT}">'
            f"{bytes_text(value) if value else 0}</text>"
        )
    for number, row in enumerate(plan.rows):
        parts += _bar(row, TOP + number * (BAR + GAP), x)
    if plan.limit_bytes is not None:
        at = x(plan.limit_bytes)
        parts.append(
            f'<line x1="{at:.1f}" y1="{TOP - 14}" x2="{at:.1f}" y2="{bottom}" stroke="{LIMIT}" '
            'stroke-width="2" stroke-dasharray="5 3"/>'
        )
        parts.append(
            f'<text x="{at:.1f}" y="{TOP - 18}" text-anchor="middle" fill="{LIMIT}">'
            f"{bytes_text(plan.limit_bytes)}</text>"
        )
    return "\n".join([*parts, "</svg>", ""])


def subtitle(plan: Plan) -> str:
    """Say what the bytes are of."""
    stored = f"{plan.quantization} base" if plan.quantization else f"{plan.dtype} base"
    return (
        f"Peak of one training step: {stored}, batch of {plan.batch_size}, {plan.tokens} tokens "
        f"an example, {plan.task}"
    )


def _title(plan: Plan) -> str:
    return f"Training memory on {plan.model}"


def _bar(row: Row, y: float, x: Callable[[float], float]) -> Iterator[str]:
    label = escape(f"{row.method}, {row.size}")
    yield f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end">{label}</text>'
    start = 0
    for name in COMPONENTS:
        size = row.components[name]
        told = escape(f"{name.replace('_', ' ')}: {bytes_text(size)}; {row.configuration}")
        yield (
            f'<rect x="{x(start):.1f}" y="{y}" width="{x(start + size) - x(start):.1f}" '
            f'height="{BAR}" fill="{COLOURS[name]}"><title>{told}</title></rect>'
        )
        start += size
    fate = "" if row.fits is None else (" fits" if row.fits else " too much")
    colour = LIMIT if row.fits is False else INK
    yield (
        f'<text x="{x(start) + 6:.1f}" y="{y + 13}" fill="{colour}">'
        f"{bytes_text(row.total_bytes)}{fate}<title>"
        f"{count_text(row.num_trainable_parameters)} parameters</title></text>"
    )


def _legend() -> Iterator[str]:
    x = 16.0
    for name in COMPONENTS:
        title = name.replace("_", " ")
        yield f'<rect x="{x:.0f}" y="56" width="11" height="11" fill="{COLOURS[name]}"/>'
        yield f'<text x="{x + 16:.0f}" y="66">{title}</text>'
        x += 34 + 6.6 * len(title)


def _ticks(most: float) -> list[float]:
    """Return about six round numbers of bytes up to ``most``, in powers of two."""
    step = 1.0
    while most / step > 8:
        step *= 2
    return [i * step for i in range(int(most / step) + 1)]
