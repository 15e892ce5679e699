"""A world for simulated jobs: an analytic landscape, with no model and no data.

The landscape is made up, but has what real ones have: a learning rate that must fit the method
and its size, returns that diminish with capacity, layers near the output that matter more, curves
that saturate, noise, and divergence at rates far too large.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autopeft.proposers.expected_hypervolume_improvement import (
    LevelPartition,
    log_expected_hypervolume_improvement,
)
from autopeft.records import (
    Costs,
    FailureKind,
    Measurement,
    ModelShape,
    SiteShape,
    Trial,
    TrialState,
    TrialStatus,
)
from autopeft.results.front import ObjectiveScale
from autopeft.results.live_front import LiveFront
from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.search_spaces.method import get_method
from autopeft.search_spaces.space import SearchSpace, load_space
from autopeft.service.simulation import simulate
from autopeft.workers.executors.simulated import Outcome

SITE_VALUE = {
    "q": 0.12,
    "k": 0.08,
    "v": 0.30,
    "attention_output": 0.15,
    "ffn_in": 0.20,
    "ffn_out": 0.15,
}
METHOD_VALUE = {"lora": 1.0, "ia3": 0.88, "beft": 0.85, "prefix": 0.8}
MAX_STEPS = 96


def bert_shape(*, num_layers: int = 6, width: int = 384, num_outputs: int = 2) -> ModelShape:
    """Return the shape of a BERT-like encoder."""
    layer = "bert.encoder.layer.{layer}"
    sites = (
        ("q", f"{layer}.attention.self.query", width, width),
        ("k", f"{layer}.attention.self.key", width, width),
        ("v", f"{layer}.attention.self.value", width, width),
        ("attention_output", f"{layer}.attention.output.dense", width, width),
        ("ffn_in", f"{layer}.intermediate.dense", width, 4 * width),
        ("ffn_out", f"{layer}.output.dense", 4 * width, width),
    )
    return ModelShape(
        name="synthetic",
        model_type="bert",
        num_layers=num_layers,
        hidden_size=width,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        head_size=32,
        sites=tuple(
            SiteShape(site=s, path=p, in_features=i, out_features=o, has_bias=True)
            for s, p, i, o in sites
        ),
        num_base_parameters=30_000 * width + num_layers * 12 * width**2,
        num_head_parameters=num_outputs * (width + 1),
        head_paths=("classifier",),
    )


@dataclass
class Landscape:
    """Scores and costs of any configuration of a space.

    Args:
        space: The space.
        seed: Seeds the noise.
        noise: Standard deviation of a trial's offset; that of a measurement is about as large.
        cost_names: The costs among the objectives.
    """

    space: SearchSpace
    seed: int = 0
    noise: float = 0.004
    cost_names: tuple[str, ...] = ("num_trainable_parameters", "train_memory_bytes")
    _scale: ObjectiveScale | None = None

    def costs(self, configurations: Sequence[Configuration]) -> list[Costs]:
        """Return exact parameters and a made-up memory: activations down to the lowest module."""
        shape = self.space.shape
        found = []
        for c in configurations:
            adapter = self.space.num_adapter_parameters(c)
            lowest = min((min(m.layers) for m in c.modules), default=shape.num_layers)
            placed = sum(len(m.layers) * _num_sites(m) for m in c.modules)
            activations = 3e7 * (shape.num_layers - lowest) + 4e6 * placed + 2e7
            memory = 4 * shape.num_base_parameters + 16 * adapter + activations
            found.append(
                Costs(
                    num_trainable_parameters=adapter + shape.num_head_parameters,
                    num_adapter_parameters=adapter,
                    train_memory_bytes=int(memory),
                )
            )
        return found

    def misfit(self, c: Configuration) -> float:
        """Return how far log10 of the learning rate lies above its optimum."""
        optima = []
        for m in c.modules:
            settings = m.as_dict()
            optimum = math.log10(get_method(m.method).learning_rate.default)
            rank, ratio = settings.get("rank", 8), settings.get("alpha_ratio", 2.0)
            assert isinstance(rank, int)
            assert isinstance(ratio, (int, float))
            optima.append(optimum - 0.2 * math.log10(rank / 8) - 0.4 * math.log10(ratio / 2.0))
        return math.log10(c.learning_rate) - (sum(optima) / len(optima) if optima else -3.0)

    def final(self, c: Configuration) -> float:
        """Return the noise-free score after the last step, chance being 0.5."""
        if not c.modules:
            return 0.55
        shape = self.space.shape
        adapter = self.space.num_adapter_parameters(c)
        capacity = 1 - math.exp(-math.log10(max(10, adapter)) / 1.8)
        weights = 1.0 + np.arange(shape.num_layers)
        layers = {layer for m in c.modules for layer in m.layers}
        depth = sum(weights[layer] for layer in layers) / weights.sum()
        value = max(METHOD_VALUE[m.method] for m in c.modules)
        sites = max(_site_value(m) for m in c.modules)
        fit = math.exp(-0.5 * (self.misfit(c) / 0.55) ** 2)
        return float(0.5 + 0.5 * value * capacity * depth**0.2 * sites**0.15 * fit)

    def diverges(self, c: Configuration) -> bool:
        """Return whether training ends in NaN."""
        return self.misfit(c) > 1.2

    def score(self, c: Configuration, step: int) -> float:
        """Return the measured score at a step."""
        progress = step / MAX_STEPS
        pace = 4.0 * 10 ** (0.4 * min(0.5, self.misfit(c)))
        share = (1 - math.exp(-pace * progress)) / (1 - math.exp(-pace))
        name = int(c.key, 16) % 2**32
        offset = np.random.default_rng([self.seed, name]).standard_normal()
        wobble = np.random.default_rng([self.seed, name, step]).standard_normal()
        jitter = self.noise * (offset + 0.7 * wobble * (1.5 - progress))
        return float(np.clip(0.5 + (self.final(c) - 0.5) * share + jitter, 0.0, 1.0))

    def outcome(self, trial: Trial, from_step: int, to_step: int) -> Outcome:
        """Return what a segment brings; a step takes a second."""
        seconds = float(to_step - from_step)
        if self.diverges(trial.configuration):
            failure = FailureKind.DIVERGED
            return Outcome(seconds=seconds, failure=failure, message="the loss is NaN")
        score = self.score(trial.configuration, to_step)
        return Outcome(seconds=seconds, score=score, metrics={"accuracy": score})

    def scale(self) -> ObjectiveScale:
        """Return the scale that a job would fix at its start."""
        if self._scale is None:
            self._scale = self._measure_scale()
        return self._scale

    def _measure_scale(self) -> ObjectiveScale:
        members = self.space.sample(1000, np.random.default_rng(0))
        costs = self.costs([*members, *(p.configuration for p in self.space.portfolio())])
        table = np.array([[getattr(cost, name) for name in self.cost_names] for cost in costs])
        return ObjectiveScale(
            metric="accuracy",
            cost_names=self.cost_names,
            score_reference=0.5,
            score_ideal=1.0,
            cost_ideal=tuple(np.min(table, axis=0).tolist()),
            cost_reference=tuple(np.max(table, axis=0).tolist()),
        )


@dataclass
class JobResult:
    """What a simulated job left behind.

    Attributes:
        states: Final states, paused trials counted as stopped.
        steps: Steps trained in all.
        trace: (steps trained so far, hypervolume of the front), at each completion.
    """

    states: list[TrialState]
    steps: int
    trace: list[tuple[int, float]] = field(default_factory=list)

    @property
    def share_stopped(self) -> float:
        """Share of trials that were stopped."""
        stopped = sum(s.status is TrialStatus.STOPPED for s in self.states)
        return stopped / len(self.states)

    def hypervolume_at(self, steps: int) -> float:
        """Return the hypervolume after so many steps."""
        return max((hv for at, hv in self.trace if at <= steps), default=0.0)


def run_job(
    landscape: Landscape,
    *,
    proposer: str,
    stopper: str,
    trials: int = 24,
    workers: int = 1,
    seed: int = 0,
    **options: Any,
) -> JobResult:
    """Simulate a job to the end of its trials; ``options`` are those of a simulation."""
    scale = landscape.scale()
    done = simulate(
        landscape.space,
        scale,
        landscape.costs,
        landscape,
        max_steps=MAX_STEPS,
        proposer=proposer,
        stopper=stopper,
        num_workers=workers,
        trials=trials,
        seed=seed,
        **options,
    )
    result = JobResult(states=done.log.trials, steps=done.log.total_steps)
    front = LiveFront(scale)
    for moment in done.trace:
        if moment.what == "complete":
            front.add(done.log.states[moment.trial])
            result.trace.append((moment.steps, hypervolume(front.members, scale)))
    return result


def measurement(trial: int, step: int, score: float) -> Measurement:
    """Return a row of a curve with nothing else to say."""
    return Measurement(
        trial=trial,
        step=step,
        score=score,
        metrics={"accuracy": score},
        seconds=1.0,
        memory_bytes=None,
        checkpoint=f"{trial}-{step}",
    )


def hypervolume(front: Sequence[TrialState], scale: ObjectiveScale) -> float:
    """Return the dominated volume over log costs, as the gains of its members one by one."""
    costs = scale.costs([state.trial.costs for state in front])
    scores = np.array([state.score for state in front])
    reference = scale.cost_reference_point + 0.1
    span = float(np.prod(reference - scale.cost_ideal_point))
    total = 0.0
    for k in range(len(front)):
        partition = LevelPartition.of(scores[:k], costs[:k], scale.score_reference, reference)
        gain = log_expected_hypervolume_improvement(
            scores[k : k + 1], np.zeros(1), costs[k : k + 1], partition
        )
        total += math.exp(gain[0])
    return total / (span * (scale.score_ideal - scale.score_reference))


def default_landscape(seed: int = 0, *, space: str = "default") -> Landscape:
    """Return a landscape over a preset on a MiniLM-like model."""
    return Landscape(space=load_space(space, bert_shape()), seed=seed)


def _num_sites(module: Module) -> int:
    sites = module.as_dict().get("sites")
    return len(sites) if isinstance(sites, tuple) else 1


def _site_value(module: Module) -> float:
    sites = module.as_dict().get("sites")
    if not isinstance(sites, tuple):
        return 0.6
    return sum(SITE_VALUE[site] for site in sites if site in SITE_VALUE)
