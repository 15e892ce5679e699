"""What stopping saves, what it costs, and whether the posterior behind it is calibrated.

    python benchmarks/stopping/run.py [--seeds 10] [--tables banking77,stsb] [--jobs 2]

On each recorded table every configuration is proposed, in random order; a stopper decides which go
on. Saved steps, members of the true front that are still found and regret at each budget are
compared with training everything to the end. Lines that exist are not computed again.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from autopeft.bench.comparison import Arm, Search, open_bench, read_lines, run_searches
from autopeft.bench.lookup import LookupWorld
from autopeft.records import Measurement, Trial, TrialState, TrialStatus
from autopeft.surrogates.curves import CurveModel

HERE = Path(__file__).parent
STOPPERS = ("none", "median", "hyperband", "mo-asha", "halving", "extrapolate")
#: Rungs at which curves are cut for the calibration, as parts of the full steps.
RUNGS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)
#: Trials trained to the end, and trials cut, in one job of the calibration.
NUM_WHOLE, NUM_CUT, NUM_JOBS = 20, 30, 10


def main() -> None:
    """Run what is missing, write and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--tables", default="")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    folder = HERE.parent / "tables"
    names = options.tables.split(",") if options.tables else None
    files = [f for f in sorted(folder.glob("*.parquet")) if names is None or f.stem in names]
    results: dict[str, Any] = {}
    for file in files:
        num_rows = len(open_bench(file, "lookup").space.rows)
        searches = [
            Search(
                table=file,
                world="lookup",
                arm=Arm(proposer="random", stopper=stopper),
                seed=seed,
                budget=num_rows,
            )
            for seed in range(options.seeds)
            for stopper in STOPPERS
        ]
        for done, _ in run_searches(searches, HERE / "runs.jsonl", jobs=options.jobs):
            print(f"\r{file.stem}: {done} of {len(searches)}", end="", flush=True)
        known = {search.key for search in searches}
        lines = [line for line in read_lines(HERE / "runs.jsonl") if line["key"] in known]
        max_steps = open_bench(file, "lookup").table.max_steps
        results[file.stem] = {
            "stopping": stopping(lines, num_rows * max_steps),
            "calibration": calibration(file),
        }
        show(file.stem, results[file.stem])
        path = HERE / "results.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**before, **results}, indent=1) + "\n")


def stopping(lines: Sequence[dict[str, Any]], all_steps: int) -> dict[str, Any]:
    """Return what each stopper saved and lost: means over seeds, with 95 % intervals."""
    regret_of_none = {
        line["seed"]: line["regret"] for line in lines if line["arm"] == "random+none"
    }
    found = {}
    for stopper in STOPPERS:
        mine = [line for line in lines if line["arm"] == f"random+{stopper}"]
        lost = [
            max(
                a - b
                for a, b in zip(line["regret"], regret_of_none[line["seed"]], strict=True)
                if a is not None and b is not None
            )
            for line in mine
        ]
        found[stopper] = {
            "steps_saved": _mean([1 - line["steps"] / all_steps for line in mine]),
            "front_recall": _mean([line["front_recall"] for line in mine]),
            "regret_beyond_none": _mean(lost),
            "hypervolume": _mean([line["final_hypervolume"] for line in mine]),
            "num_seeds": len(mine),
        }
    return found


def calibration(file: Path) -> dict[str, Any]:
    """Return coverage and log-likelihood of final scores, foretold from curves cut at a rung.

    Both in the units of the model's scores. ``by_line`` is the naive forecast: the rung's score
    carried on by the rung's line, with the spread of that among the trials trained to the end.
    """
    bench = open_bench(file, "lookup")
    world, table = bench.world, bench.table
    assert isinstance(world, LookupWorld)
    states = []
    for configuration in world.configurations():
        curve = world.curves[configuration.key][0]
        if curve.failure is None:
            states.append(_state(len(states), configuration, curve, world))
    found: dict[str, Any] = {}
    for rung in RUNGS:
        step = max(4, round(table.max_steps * rung))
        told, naive = [], []
        for job in range(NUM_JOBS):
            order = np.random.default_rng([job, step]).permutation(len(states))
            whole = [states[i] for i in order[:NUM_WHOLE]]
            ended = [states[i] for i in order[NUM_WHOLE : NUM_WHOLE + NUM_CUT]]
            cut = [
                replace(
                    state,
                    status=TrialStatus.PAUSED,
                    curve=tuple(m for m in state.curve if m.step <= step),
                )
                for state in ended
            ]
            model = CurveModel(bench.space, [*whole, *cut], max_steps=table.max_steps)
            mean, variance = model.process.predict(model.points_of(cut))
            sd = np.sqrt(variance + model.process.hyperparameters.noise)
            final = np.array([model.value(s.score, table.max_steps) for s in ended])
            told.append(np.column_stack([final, mean, sd]))
            errors = np.array(
                [
                    model.value(s.score, table.max_steps) - model.value(s.score_at(step), step)
                    for s in whole
                ]
            )
            at = np.array([model.value(s.score, step) for s in cut])
            spread = max(float(errors.std(ddof=1)), 1e-6)
            naive.append(np.column_stack([final, at + errors.mean(), np.full(len(at), spread)]))
        found[f"{rung:.4g}"] = {
            "step": step,
            "posterior": _told(np.vstack(told)),
            "by_line": _told(np.vstack(naive)),
        }
    return found


def _state(number: int, configuration: Any, curve: Any, world: LookupWorld) -> TrialState:
    trial = Trial(
        number=number,
        configuration=configuration,
        seed=0,
        origin="table",
        costs=world.costs([configuration])[0],
    )
    rows = tuple(
        Measurement(
            trial=number,
            step=step,
            score=score,
            metrics={},
            seconds=seconds,
            memory_bytes=None,
            checkpoint="",
        )
        for step, score, seconds in zip(curve.steps, curve.scores, curve.seconds, strict=True)
    )
    return TrialState(trial=trial, status=TrialStatus.COMPLETED, curve=rows)


def _told(table: np.ndarray) -> dict[str, float]:
    final, mean, sd = table.T
    z = np.abs(final - mean) / sd
    return {
        **{f"coverage_{p}": float((z <= norm.ppf(0.5 + p / 200)).mean()) for p in (50, 80, 95)},
        "log_likelihood": float(norm.logpdf(final, mean, sd).mean()),
        "root_mean_square_error": float(np.sqrt(((final - mean) ** 2).mean())),
    }


def _mean(values: Sequence[float]) -> dict[str, float]:
    draws = np.random.default_rng(0).choice(np.array(values), size=(2000, len(values)))
    low, high = np.quantile(draws.mean(axis=1), [0.025, 0.975])
    return {"mean": float(np.mean(values)), "low": float(low), "high": float(high)}


def show(name: str, found: dict[str, Any]) -> None:
    """Print one table's results."""
    print(f"\n{name}: stopper, steps saved, front recall, regret beyond none, hypervolume")
    for stopper, told in found["stopping"].items():
        cells = [told[key] for key in list(told)[:4]]
        text = "  ".join(f"{c['mean']:7.4f} ({c['low']:.4f} to {c['high']:.4f})" for c in cells)
        print(f"  {stopper:12s} {text}")
    print("  rung: coverage of 50, 80 and 95 % intervals, log-likelihood; the same by line")
    for rung, told in found["calibration"].items():
        text = " | ".join(
            "  ".join(f"{told[who][key]:6.3f}" for key in list(told[who])[:4])
            for who in ("posterior", "by_line")
        )
        print(f"  {rung:6s} {text}")
    assert math.isfinite(found["stopping"]["none"]["hypervolume"]["mean"])


if __name__ == "__main__":
    main()
