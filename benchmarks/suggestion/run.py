"""Measure the seconds of one suggestion, everything included, beside Ax's default.

    python benchmarks/suggestion/run.py [--observed 50 100 200] [--without-ax]

"Everything" is what happens between asking and having the next configuration: building the
proposer from the stored states of a job, encoding, fitting, the pool with its costs, the
acquisition and the local search. Both run on the same two threads, in one process, on the same
observations of the same analytic objective over the default space of a BERT-base shape.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import time
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from autopeft.proposers.mobo import MoboProposer
from autopeft.records import (
    Costs,
    Measurement,
    ModelShape,
    SiteShape,
    Trial,
    TrialState,
    TrialStatus,
)
from autopeft.results.front import ObjectiveScale
from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.space import SearchSpace, load_space

THREADS = 2
MAX_STEPS = 96
RUNGS = (16, 48, 96)
REPETITIONS = 5
COST_NAMES = ("num_trainable_parameters", "train_memory_bytes")


def bert_base() -> ModelShape:
    """Return the shape of BERT base: 12 layers, 768 wide."""
    layer, width = "bert.encoder.layer.{layer}", 768
    sites = (
        ("q", "attention.self.query", width, width),
        ("k", "attention.self.key", width, width),
        ("v", "attention.self.value", width, width),
        ("attention_output", "attention.output.dense", width, width),
        ("ffn_in", "intermediate.dense", width, 4 * width),
        ("ffn_out", "output.dense", 4 * width, width),
    )
    return ModelShape(
        name="bert-base-uncased",
        model_type="bert",
        num_layers=12,
        hidden_size=width,
        num_attention_heads=12,
        num_key_value_heads=12,
        head_size=64,
        sites=tuple(
            SiteShape(site=s, path=f"{layer}.{p}", in_features=i, out_features=o, has_bias=True)
            for s, p, i, o in sites
        ),
        num_base_parameters=109_482_240,
        num_head_parameters=2 * (width + 1),
        head_paths=("classifier",),
    )


class Objective:
    """A smooth made-up score over encoded configurations, and costs from shapes."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        generator = np.random.default_rng(0)
        self._slopes = generator.normal(size=space.num_dimensions)
        self._centre = generator.random(space.num_dimensions)

    def costs(self, configurations: Sequence[Configuration]) -> list[Costs]:
        """Return exact parameters and a memory that grows with them and with depth."""
        found = []
        for c in configurations:
            adapter = self.space.num_adapter_parameters(c)
            lowest = min((min(m.layers) for m in c.modules), default=12)
            found.append(
                Costs(
                    num_trainable_parameters=adapter + self.space.shape.num_head_parameters,
                    num_adapter_parameters=adapter,
                    train_memory_bytes=450_000_000 + 16 * adapter + 60_000_000 * (12 - lowest),
                )
            )
        return found

    def curve(self, number: int, configuration: Configuration) -> list[float]:
        """Return noisy scores at the rungs."""
        x = self.space.encode([configuration])[0]
        quality = float(self._slopes @ x - 2 * np.sum((x - self._centre)[:6] ** 2))
        final = 0.5 + 0.45 / (1 + np.exp(-0.5 * quality))
        noise = np.random.default_rng([1, number]).normal(scale=0.005, size=len(RUNGS))
        shares = 1 - np.exp(-4 * np.array(RUNGS) / MAX_STEPS)
        return [float(v) for v in 0.5 + (final - 0.5) * shares + noise]


def observed_states(objective: Objective, n: int) -> list[TrialState]:
    """Return ``n`` trials as a job leaves them: two in five stopped at the first rung."""
    members = [proposal.configuration for proposal in objective.space.portfolio()]
    members = list(dict.fromkeys(members + objective.space.sample(n, np.random.default_rng(3))))[:n]
    states = []
    for number, (configuration, cost) in enumerate(
        zip(members, objective.costs(members), strict=True)
    ):
        is_stopped = number % 5 in (1, 3)
        scores = objective.curve(number, configuration)[: 1 if is_stopped else None]
        trial = Trial(
            number=number, configuration=configuration, seed=0, origin="random", costs=cost
        )
        curve = tuple(
            Measurement(
                trial=number,
                step=step,
                score=score,
                metrics={},
                seconds=1.0,
                memory_bytes=None,
                checkpoint="",
            )
            for step, score in zip(RUNGS, scores, strict=False)
        )
        status = TrialStatus.STOPPED if is_stopped else TrialStatus.COMPLETED
        states.append(TrialState(trial=trial, status=status, curve=curve))
    return states


def scale_of(objective: Objective) -> ObjectiveScale:
    """Return the scale of a job on this space."""
    costs = objective.costs(objective.space.sample(1000, np.random.default_rng(0)))
    table = [[getattr(cost, name) for name in COST_NAMES] for cost in costs]
    return ObjectiveScale(
        metric="accuracy",
        cost_names=COST_NAMES,
        score_reference=0.5,
        score_ideal=1.0,
        cost_ideal=tuple(np.min(table, axis=0).tolist()),
        cost_reference=tuple(np.max(table, axis=0).tolist()),
    )


def time_ours(objective: Objective, states: Sequence[TrialState], seed: int) -> float:
    """Return the seconds from stored states to the next configuration."""
    scale = scale_of(objective)
    start = time.perf_counter()
    proposer = MoboProposer(objective.space, scale, objective.costs, max_steps=MAX_STEPS, seed=seed)
    for state in states:
        proposer.observe(state)
    (proposal,) = proposer.propose(1)
    assert proposal.origin == "mobo"
    return time.perf_counter() - start


def time_ax(objective: Objective, states: Sequence[TrialState], seed: int) -> float:
    """Return the seconds of Ax's default strategy for its next trial.

    Ax gets the encoded configurations as continuous parameters, which spares it the conditional
    and discrete structure, the last score of each trial, and both costs as further objectives.
    """
    from ax.api.client import Client
    from ax.api.configs import RangeParameterConfig

    names = [f"x{i}" for i in range(objective.space.num_dimensions)]
    client = Client(random_seed=seed)
    client.configure_experiment(
        parameters=[
            RangeParameterConfig(name=name, parameter_type="float", bounds=(0.0, 1.0))
            for name in names
        ]
    )
    client.configure_optimization(objective="score, -parameters, -memory")
    X = objective.space.encode([state.trial.configuration for state in states])
    for x, state in zip(X, states, strict=True):
        index = client.attach_trial(dict(zip(names, (float(v) for v in x), strict=True)))
        cost = state.trial.costs
        client.complete_trial(
            index,
            raw_data={
                "score": state.score,
                "parameters": float(np.log(cost.num_trainable_parameters)),
                "memory": float(np.log(cost.train_memory_bytes)),
            },
        )
    # The first suggestions may come from its initial design, at no cost; time a modelled one.
    for _ in range(10):
        start = time.perf_counter()
        (index,) = client.get_next_trials(max_trials=1)
        seconds = time.perf_counter() - start
        run = client._experiment.trials[index].generator_runs[0]
        if run._generation_node_name == "MBM":
            return seconds
    raise AssertionError("Ax did not leave its initial design in ten suggestions")


def hardware() -> dict[str, Any]:
    """Return what the figures were measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((x.split(":", 1)[1].strip() for x in lines if "model name" in x), model)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": THREADS,
        "load_before": load,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("numpy", "scipy", "torch", "ax-platform")},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def main() -> None:
    """Measure, print and write ``results.json`` beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--observed", type=int, nargs="+", default=[50, 100, 200])
    parser.add_argument("--without-ax", action="store_true", help="measure ours alone")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results.json")
    arguments = parser.parse_args()
    machine = hardware()
    objective = Objective(load_space("default", bert_base()))
    has_ax = machine["versions"]["ax-platform"] is not None and not arguments.without_ax
    threadpool_limits(limits=THREADS)
    torch.set_num_threads(THREADS)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    rows = []
    time_ours(objective, observed_states(objective, 30), seed=0)  # imports and caches
    for n in arguments.observed:
        states = observed_states(objective, n)
        ours = [time_ours(objective, states, seed) for seed in range(REPETITIONS)]
        row = {
            "observed": n,
            "dimensions": objective.space.num_dimensions,
            "measurements": sum(len(state.curve) for state in states),
            "autopeft_seconds": {"median": statistics.median(ours), "all": ours},
            "ax_seconds": time_ax(objective, states, seed=0) if has_ax else None,
        }
        rows.append(row)
        print(json.dumps(row))
        found = {"hardware": machine, "rows": rows}
        arguments.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
