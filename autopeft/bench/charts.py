"""Results of a comparison as pictures: what arms need to reach the target, how long they think."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

WIDTH, LEFT, RIGHT, TOP, ROW = 860, 210, 90, 64, 20
INK, FAINT, GRID, OURS, THEIRS = "#24292f", "#57606a", "#e6e9ec", "#D55E00", "#0072B2"
FONT = 'font-family="sans-serif" font-size="12"'


def targets_svg(results: Mapping[str, Any]) -> str:
    """Return a panel for each table: steps to the target by arm, median and quartiles.

    A hollow dot is an arm of which fewer than half the searches got there within the budget.

    Args:
        results: As in ``results.json``.
    """
    lines: list[str] = []
    y = TOP
    for table, worlds in results["tables"].items():
        for world, arms in worlds.items():
            shown = {arm: each for arm, each in arms.items() if "skipped" not in each}
            if shown:
                panel = list(_panel(f"{table}, {world}", shown, y, str(results["default"])))
                lines += panel
                y += ROW * (len(shown) + 3)
    title = "Steps until the best of every budget is found to half a point"
    return _svg(title, "median and quartiles over seeds, log scale", lines, y)


def _panel(title: str, arms: Mapping[str, Any], y: float, default: str) -> Iterator[str]:
    values = [each["steps_to_target"] for each in arms.values()]
    low = min(max(1.0, each["q25"]) for each in values)
    high = max(each["q75"] for each in values)
    low, high = low / 1.3, max(high * 1.3, 2 * low)

    def x(steps: float) -> float:
        share = math.log(max(steps, low) / low) / math.log(high / low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    yield f'<text x="10" y="{y}" {FONT} font-weight="bold" fill="{INK}">{escape(title)}</text>'
    order = sorted(arms, key=lambda arm: (arms[arm]["steps_to_target"]["median"], arm))
    for k, arm in enumerate(order):
        told = arms[arm]["steps_to_target"]
        at = y + ROW * (k + 1)
        colour = OURS if arm == default else THEIRS
        weight = ' font-weight="bold"' if arm == default else ""
        fill = colour if told["reached"] >= 0.5 else "white"
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}" stroke="{GRID}"/>'
        yield (
            f'<text x="{LEFT - 8}" y="{at + 4}" {FONT} text-anchor="end" fill="{INK}"{weight}>'
            f"{escape(arm)}</text>"
        )
        yield (
            f'<line x1="{x(told["q25"]):.1f}" x2="{x(told["q75"]):.1f}" y1="{at}" y2="{at}" '
            f'stroke="{colour}" stroke-width="3"/>'
        )
        yield (
            f'<circle cx="{x(told["median"]):.1f}" cy="{at}" r="5" fill="{fill}" '
            f'stroke="{colour}" stroke-width="2"/>'
        )
        yield (
            f'<text x="{WIDTH - RIGHT + 8}" y="{at + 4}" {FONT} fill="{FAINT}">'
            f"{told['median']:,.0f} ({told['reached']:.0%})</text>"
        )


def suggestions_svg(results: Mapping[str, Any]) -> str:
    """Return seconds of one suggestion by number of observed trials, a line for each proposer."""
    lines: list[str] = []
    curves = {
        proposer: {int(n): seconds for n, seconds in told.items() if seconds > 0}
        for proposer, told in results["seconds_per_suggestion"].items()
    }
    points = [(n, s) for told in curves.values() for n, s in told.items()]
    bottom = TOP + 320
    if points:
        first, last = min(n for n, _ in points), max(n for n, _ in points)
        least, most = min(s for _, s in points), max(s for _, s in points)
        last, most = max(last, 2 * first), max(most, 2 * least)

        def at(n: float, seconds: float) -> tuple[float, float]:
            right = math.log(n / first) / math.log(last / first)
            up = math.log(seconds / least) / math.log(most / least)
            return 80 + right * (WIDTH - 80 - 200), bottom - up * 300

        for exponent in range(math.ceil(math.log10(least)), math.floor(math.log10(most)) + 1):
            _, y = at(first, 10.0**exponent)
            lines.append(
                f'<line x1="80" x2="{WIDTH - 200}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>'
                f'<text x="72" y="{y + 4:.1f}" {FONT} text-anchor="end" fill="{FAINT}">'
                f"{10.0**exponent:g} s</text>"
            )
        for n in sorted({n for n, _ in points}):
            x, _ = at(n, least)
            lines.append(
                f'<text x="{x:.1f}" y="{bottom + 18}" {FONT} text-anchor="middle" '
                f'fill="{FAINT}">{n}</text>'
            )
        ours = str(results["default"]).partition("+")[0]
        for proposer, told in sorted(curves.items()):
            places = [at(n, seconds) for n, seconds in sorted(told.items())]
            if not places:
                continue
            colour = OURS if proposer == ours else THEIRS
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            lines.append(
                f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
                f'<text x="{places[-1][0] + 8:.1f}" y="{places[-1][1] + 4:.1f}" {FONT} '
                f'fill="{colour}">{escape(proposer)}</text>'
            )
    return _svg(
        "Seconds of one suggestion by number of observed trials",
        "processor time, median over searches",
        lines,
        bottom + 40,
    )


def _svg(title: str, subtitle: str, lines: list[str], height: float) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
            f'role="img"><rect width="100%" height="100%" fill="white"/>',
            f'<text x="10" y="24" font-family="sans-serif" font-size="16" fill="{INK}">'
            f"{escape(title)}</text>",
            f'<text x="10" y="42" {FONT} fill="{FAINT}">{escape(subtitle)}</text>',
            *lines,
            "</svg>\n",
        ]
    )
