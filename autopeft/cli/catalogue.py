"""``autopeft spaces`` and ``autopeft methods``: what can be named in a job file."""

from __future__ import annotations

import json
from typing import Any

import typer
from rich.console import Console
from rich.table import Table


def spaces(format_: str) -> None:
    """Print the preset spaces as ``table`` or ``json``."""
    from autopeft.search_spaces.space_files import preset_description, preset_names, preset_text

    rows = [
        {"name": name, "description": preset_description(name), "yaml": preset_text(name)}
        for name in preset_names()
    ]
    if format_ == "json":
        _print_json(rows)
        return
    table = Table("space", "what it holds", title="Search spaces", title_justify="left")
    for row in rows:
        table.add_row(row["name"], row["description"])
    Console().print(table)
    typer.echo(
        "\nIn a job file: `space: NAME`, or a YAML file of your own, for example:\n\n"
        "methods:\n"
        "  lora:\n"
        "    rank: [4, 8, 16]\n"
        "    sites: [q, v]\n"
        "    learning_rate: [2.0e-4, 5.0e-3]\n"
        "  ia3:\n"
    )


def methods(format_: str) -> None:
    """Print the methods as ``table`` or ``json``."""
    from autopeft.search_spaces.method import METHODS, get_method

    rows: list[dict[str, Any]] = []
    for name in METHODS.names():
        method = get_method(name)
        rates = method.learning_rate
        rows.append(
            {
                "name": name,
                "title": method.title,
                "family": method.family,
                "paper": method.paper,
                "saved_as": method.saved_as,
                "is_mergeable": method.is_mergeable,
                "is_placeable": method.is_placeable,
                "is_combinable": method.is_combinable,
                "learning_rate": {
                    "low": rates.low,
                    "default": rates.default,
                    "high": rates.high,
                },
            }
        )
    if format_ == "json":
        _print_json(rows)
        return
    table = Table(title="PEFT methods", title_justify="left")
    for heading in ("method", "title", "family", "merges", "layers", "learning rate", "paper"):
        table.add_column(heading)
    for row in rows:
        rate = row["learning_rate"]
        table.add_row(
            row["name"],
            row["title"],
            row["family"],
            "yes" if row["is_mergeable"] else "no",
            "any" if row["is_placeable"] else "all",
            f"{rate['low']:g} to {rate['high']:g}",
            row["paper"],
        )
    Console().print(table)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
