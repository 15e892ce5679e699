"""Comparisons: each search is run once, results say what the lines say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from autopeft.bench import surrogate
from autopeft.bench.charts import suggestions_svg, targets_svg
from autopeft.bench.comparison import (
    Arm,
    Search,
    open_bench,
    ratios,
    read_lines,
    run_search,
    run_searches,
    summarise,
)
from autopeft.cli.bench_app import bench
from autopeft.errors import AutopeftError


@pytest.fixture(autouse=True)
def quick_surrogates(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fit few trees and look at few members."""
    for name, number in (("NUM_TREES", 8), ("NUM_LOOKED_AT", 60), ("NUM_ROUNDS", 1)):
        monkeypatch.setattr(surrogate, name, number)
    yield
    open_bench.cache_clear()


def searches(folder: Path, *, seeds: int = 2, world: str = "lookup") -> list[Search]:
    return [
        Search(table=folder / "fake.parquet", world=world, arm=Arm.parse(arm), seed=seed, budget=6)
        for arm in ("random+none", "random+halving")
        for seed in range(seeds)
    ]


def test_an_arm_is_a_known_proposer_with_a_known_stopper() -> None:
    assert str(Arm.parse("mobo+halving")) == "mobo+halving"
    with pytest.raises(AutopeftError, match="expected a proposer and a stopper"):
        Arm.parse("mobo")
    with pytest.raises(AutopeftError, match="unknown proposer 'mobbo'"):
        Arm.parse("mobbo+none")
    with pytest.raises(AutopeftError, match="unknown stopper"):
        Arm.parse("mobo+never")


def test_searches_that_ended_are_not_run_again(table_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    wanted = searches(table_folder)
    assert [done for done, _ in run_searches(wanted[:3], path)] == [1, 2, 3]
    with path.open("a") as file:
        file.write('{"key": "cut sho')  # the process was killed while it wrote
    assert [done for done, _ in run_searches(wanted, path)] == [4]
    assert [line["key"] for line in read_lines(path)] == [search.key for search in wanted]


@pytest.mark.parametrize("world", ["lookup", "surrogate"])
def test_the_same_search_finds_the_same(table_folder: Path, world: str) -> None:
    search = searches(table_folder, world=world)[1]
    one = run_search(search)
    open_bench.cache_clear()
    two = run_search(search)
    for line in (one, two):
        line.pop("cpu_seconds")
        line.pop("seconds_per_suggestion")
    assert json.dumps(one) == json.dumps(two)
    assert one["budget"] == 6 * 32
    assert one["num_trials"] > 0


def a_line(arm: str, seed: int, steps: float | None, **changes: Any) -> dict[str, Any]:
    return {
        "key": f"{arm}/{seed}",
        "table": "t",
        "world": "lookup",
        "arm": arm,
        "seed": seed,
        "budget": 1000,
        "workers": 1,
        "steps_to_target": steps,
        "seconds_to_target": steps,
        "steps_to_95": steps,
        "final_hypervolume": 0.97,
        "igd_plus": 0.1,
        "front_recall": 0.5,
        "regret": [0.0, None],
        "steps_by_budget": [steps, None],
        "other_hypervolumes": {"dear": 0.9},
        "seconds": 1000.0,
        "seconds_per_suggestion": {"10": 0.1},
        **changes,
    }


def test_what_was_never_reached_counts_as_the_budget() -> None:
    lines = [a_line("a+none", 0, 100.0), a_line("a+none", 1, None), a_line("a+none", 2, None)]
    told = summarise(lines)["t"]["lookup"]["a+none"]
    assert told["steps_to_target"] == {
        "median": 1000.0,
        "q25": 550.0,
        "q75": 1000.0,
        "reached": pytest.approx(1 / 3),
    }
    assert told["regret"][0]["median"] == 0.0
    assert told["num_seeds"] == 3


def test_ratios_are_over_paired_seeds() -> None:
    lines = [a_line("a+none", k, 100.0 + k) for k in range(5)]
    lines += [a_line("b+none", k, 200.0 + 2 * k) for k in range(4)]
    found = ratios(lines, "a+none", "b+none")
    assert found is not None
    assert found["pairs"] == 4
    assert found["ratio"] == pytest.approx(0.5)
    assert found["low"] == pytest.approx(found["high"])
    assert ratios(lines, "a+none", "c+none") is None


def test_an_arm_that_cannot_run_says_why(table_folder: Path, tmp_path: Path) -> None:
    (search,) = [
        Search(
            table=table_folder / "fake.parquet",
            world="surrogate",
            arm=Arm.parse("random+none"),
            seed=0,
            budget=1,
        )
    ]
    line = run_search(search)
    assert "skipped" not in line
    told = summarise([{**line, "skipped": "no package"}])["fake"]["surrogate"]["random+none"]
    assert told == {"skipped": "no package"}


def test_the_command_writes_results_and_plots(table_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [
        "optimisers", "--table", str(table_folder / "fake.parquet"), "--proposers",
        "random+none,lora-sweep+none", "--seeds", "1", "--budget", "5", "--output", str(out),
    ]  # fmt: skip
    result = CliRunner().invoke(bench, arguments)
    assert result.exit_code == 0, result.output
    assert "random+none" in result.output
    results = json.loads((out / "results.json").read_text())
    assert results["default"] == "mobo+extrapolate"
    told = results["tables"]["fake"]["lookup"]["random+none"]
    assert {"steps_to_target", "steps_to_95", "final_hypervolume", "front_recall"} <= set(told)
    assert results["described"]["fake"]["surrogate"]["all"]["rmse"] > 0
    for svg in (targets_svg(results), suggestions_svg(results)):
        assert svg.startswith("<svg")
    assert "random+none" in targets_svg(results)
    before = (out / "runs.jsonl").read_text()
    assert CliRunner().invoke(bench, arguments).exit_code == 0
    assert (out / "runs.jsonl").read_text() == before
