"""How well does the score at a rung rank configurations by their final score?

    python benchmarks/rungs/run.py

trains the portfolio and a few Sobol points of the default space to the end, on
builtin:docstrings, and writes Kendall's tau from each rung to the last step. It goes on where
it was interrupted.
"""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

from autopeft.workers.openmp import share_cores

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
NUM_SOBOL = 5
PARTS = (1 / 8, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 1.0)
JOB = {
    "model": "builtin:minilm",
    "data": {"name": "builtin:docstrings", "limit": {"train": 1200, "validation": 320}},
    "training": {"batch_size": 16, "max_tokens": 40, "steps": 48},
    "output": "runs/rungs",
}


def main() -> None:
    share_cores()
    from scipy.stats import kendalltau

    from autopeft.records import Segment, SegmentFailed, Trial
    from autopeft.service.job_spec import parse_job
    from autopeft.service.preparation import prepare
    from autopeft.workers.settings import WorkerSettings
    from autopeft.workers.worker import Worker

    spec = parse_job(JOB, base=Path.cwd())
    bench = prepare(spec)
    checkpoints = Path(spec.output) / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    settings = WorkerSettings(
        model=spec.model,
        task=bench.prepared.task,
        metric=bench.prepared.metric,
        training=spec.training,
        num_outputs=bench.prepared.num_outputs,
        seed=0,
        checkpoints=checkpoints,
        num_threads=os.cpu_count() or 1,
    )
    worker = Worker(settings, bench.plan)
    portfolio = [proposal.configuration for proposal in bench.space.portfolio()]
    chosen = [*portfolio, *bench.space.sobol(NUM_SOBOL, seed=0)]
    rungs = [round(spec.training.steps * part) for part in PARTS]
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    for number, configuration in enumerate(chosen):
        if any(row["key"] == configuration.key for row in rows):
            continue
        costs = bench.costs([configuration])[0]
        trial = Trial(
            number=number, configuration=configuration, seed=0, origin="benchmark", costs=costs
        )
        scores: list[float] = []
        step, checkpoint = 0, None
        for rung in rungs:
            segment = Segment(trial=trial, from_step=step, to_step=rung, checkpoint=checkpoint)
            event = worker.run(segment)
            if isinstance(event, SegmentFailed):
                break
            scores.append(event.measurement.score)
            step, checkpoint = rung, event.measurement.checkpoint
        rows.append({"key": configuration.key, "configuration": str(configuration)})
        rows[-1]["scores"] = scores
        complete = [row["scores"] for row in rows if len(row["scores"]) == len(rungs)]
        final = [row[-1] for row in complete]
        tau = {
            f"step {rung} of {rungs[-1]}": round(
                float(kendalltau([row[i] for row in complete], final).statistic), 3
            )
            for i, rung in enumerate(rungs[:-1])
            if len(complete) > 2
        }
        hardware = {"machine": platform.machine(), "cores": os.cpu_count(), "device": "cpu"}
        results = {"hardware": hardware, "job": JOB, "kendall_tau": tau, "rows": rows}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        print(number, configuration, scores, flush=True)
    print(tau)


if __name__ == "__main__":
    main()
