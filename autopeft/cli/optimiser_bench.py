"""``autopeft bench optimisers``: run the searches that are missing, then tell who won."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from autopeft.cli import failures
from autopeft.cli.benching import hardware_text
from autopeft.errors import InvalidJobError

#: The folder in which tables lie where none is named.
TABLES = Path("benchmarks/tables")
#: Arms that are compared where none are named: proposers that take no more than about a second a
#: suggestion, each with every stopper that they can share, so that the 2 x 2 of proposers and
#: stoppers is whole; `random+mo-asha` is multi-objective halving as it is published.
PROPOSERS = (
    "mobo",
    "random",
    "lora-sweep",
    "evolution",
    "local",
    "optuna-tpe",
    "optuna-nsga2",
    "bohb",
)
STOPPERS = ("none", "mo-asha")
OTHER_ARMS = (
    "mobo+halving",
    "mobo+extrapolate",
    "random+halving",
    "random+extrapolate",
    "random+hyperband",
    "random+median",
)


def compare(
    tables: Sequence[Path],
    arms: Sequence[str],
    *,
    num_seeds: int,
    budget: int,
    workers: int,
    world: str,
    jobs: int,
    folder: Path,
) -> None:
    """Run every missing search of tables x arms x seeds and write the results.

    Raises:
        AutopeftError: an arm, a table or a number is wrong.
    """
    from autopeft.bench.charts import suggestions_svg, targets_svg
    from autopeft.bench.comparison import Arm, Search, open_bench, read_lines, run_searches
    from autopeft.bench.table import read_table

    for name, number in (("seeds", num_seeds), ("budget", budget), ("jobs", jobs)):
        if number < 1:
            raise InvalidJobError(f"--{name} {number}: expected at least 1")
    files = _files(tables)
    parsed = [Arm.parse(arm) for arm in arms or _default_arms()]
    worlds = ("lookup", "surrogate") if world == "both" else (world,)
    if unknown := {*worlds} - {"lookup", "surrogate"}:
        raise InvalidJobError(
            f"--world {unknown.pop()}: expected lookup, surrogate or both",
            hint="lookup searches the rows of a table, surrogate the whole space",
        )
    for file in files:
        read_table(file)
    searches = [
        Search(table=file, world=each, arm=arm, seed=seed, budget=budget, workers=workers)
        for file in files
        for each in worlds
        for seed in range(num_seeds)
        for arm in parsed
    ]
    lines_file = folder / "runs.jsonl"
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("searches", total=len(searches))
            for done, line in run_searches(searches, lines_file, jobs=jobs):
                progress.update(task, completed=done, description=str(line["arm"]))
            progress.update(task, completed=len(searches), description="searches")
    except KeyboardInterrupt:
        typer.echo(
            "\ninterrupted; the searches that ended are kept, the same command goes on", err=True
        )
        raise typer.Exit(failures.INTERRUPTED) from None
    lines = read_lines(lines_file)
    known = {search.key for search in searches}
    results = results_of(lines, files, jobs=jobs)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (folder / "steps-to-target.svg").write_text(targets_svg(results), encoding="utf-8")
    (folder / "seconds-per-suggestion.svg").write_text(suggestions_svg(results), encoding="utf-8")
    print_results([line for line in lines if line["key"] in known], Console())
    typer.echo(f"Results: {folder / 'results.json'}, with plots beside it")
    open_bench.cache_clear()


def results_of(
    lines: Sequence[Mapping[str, Any]], files: Sequence[Path], *, jobs: int
) -> dict[str, Any]:
    """Return what ``results.json`` holds of all searches that were ever run in its folder."""
    import platform
    from importlib.metadata import version

    from autopeft.bench.comparison import ratios, summarise
    from autopeft.bench.measures import preset_budgets
    from autopeft.bench.surrogate import MIN_CONFIGURATIONS, cross_validate
    from autopeft.bench.table import read_table

    tables = {}
    for file in files:
        table = read_table(file)
        tables[file.stem] = {
            "configurations": int(table.rows["key"].nunique()),
            "trials": int(table.rows["trial"].nunique()),
            "max_steps": table.max_steps,
            "metric": table.facts["metric"],
            "budgets": [budget.name for budget in preset_budgets(table.scale)],
            "signal_to_noise": table.noise().ratio,
            "surrogate": cross_validate(table)
            if table.rows["key"].nunique() >= MIN_CONFIGURATIONS
            else None,
        }
    single = [line for line in lines if line["workers"] == 1]
    default = default_arm()
    arms = sorted({line["arm"] for line in single if "skipped" not in line} - {default})
    compared = {
        world: {
            arm: ratios([line for line in single if line["world"] == world], default, arm)
            for arm in arms
        }
        for world in sorted({line["world"] for line in single})
    }
    timed: dict[str, dict[str, float]] = {}
    summary = summarise(single)
    for worlds in summary.values():
        for told in worlds.values():
            for arm, each in told.items():
                place = timed.setdefault(arm.partition("+")[0], {})
                for number, seconds in each.get("seconds_per_suggestion", {}).items():
                    place[number] = max(seconds, place.get(number, 0.0))
    return {
        "default": default,
        "described": tables,
        "tables": summary,
        "steps_to_target_of_default_over": compared,
        "seconds_per_suggestion": {
            proposer: dict(sorted(told.items(), key=lambda item: int(item[0])))
            for proposer, told in timed.items()
        },
        "hardware": hardware_text(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "scipy", "scikit-learn")},
        },
    }


def default_arm() -> str:
    """Return the arm that a job has where it names none."""
    from autopeft.service.job_spec import JobSpec

    fields = JobSpec.model_fields
    return f"{fields['proposer'].default}+{fields['stopper'].default}"


def print_results(lines: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print a table for each recorded table and world, the arm that is there first on top."""
    from autopeft.bench.comparison import summarise

    default = default_arm()
    for table, worlds in summarise(lines).items():
        for world, arms in worlds.items():
            shown = Table(
                title=f"{table}, {world}", title_justify="left", box=SIMPLE_HEAD, padding=0
            )
            shown.add_column("arm", no_wrap=True)
            for name in ("steps to target", "reached", "to 95 %", "volume", "recall", "regret"):
                shown.add_column(name, justify="right", no_wrap=True)
            told = {arm: each for arm, each in arms.items() if "skipped" not in each}
            for arm in sorted(told, key=lambda arm: told[arm]["steps_to_target"]["median"]):
                each = told[arm]
                target = each["steps_to_target"]
                shown.add_row(
                    f"[bold]{arm}[/bold]" if arm == default else arm,
                    f"{target['median']:,.0f} ({target['q25']:,.0f}-{target['q75']:,.0f})",
                    f"{target['reached']:.0%}",
                    f"{each['steps_to_95']['median']:,.0f}",
                    f"{each['final_hypervolume']['median']:.3f}",
                    f"{each['front_recall']['median']:.2f}",
                    f"{max(one['median'] for one in each['regret']):.4f}",
                )
            console.print(shown)
            for arm, each in arms.items():
                if "skipped" in each:
                    console.print(f"{arm}: {each['skipped']}", markup=False)


def _files(tables: Sequence[Path]) -> list[Path]:
    """Return the tables' files: named as files, or by name in the usual folder."""
    if not tables:
        found = sorted(TABLES.glob("*.parquet"))
        if not found:
            raise InvalidJobError(
                f"there are no tables in {str(TABLES)!r}",
                hint="name one with --table FILE, recorded with `autopeft bench table JOB.yaml`",
            )
        return found
    return [
        table if table.suffix else TABLES / f"{table}.parquet" for table in dict.fromkeys(tables)
    ]


def _default_arms() -> list[str]:
    crossed = [f"{proposer}+{stopper}" for proposer in PROPOSERS for stopper in STOPPERS]
    return [*crossed, *OTHER_ARMS]
