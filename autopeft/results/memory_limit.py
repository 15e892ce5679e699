"""What fits into a limit of memory, as far as predictions and the job's trials tell.

The factor by which trial i needs more than predicted is modelled as log-normal, centred for the
set of methods s it trains::

    log(needed_i / predicted_i) ~ Normal(m + d_s, sd ** 2)

* ``m`` is the median over all trials, ``d_s`` the median of what the trials of one set of methods
  deviate from it. Both are shrunk towards 0 as the mean of n normal observations is: by
  ``n / (n + w)``, where ``w`` is the variance of an observation over the prior's;
* ``sd`` is the root mean square of what is left, with ``PRIOR_TRIALS`` residuals of
  ``PRIOR_SPREAD``; single residuals count ``MOST_RESIDUAL`` at the most.

A trial that ran out of memory is a censored observation: it needs at least what its worker found,
or the limit. Where the model expects more than that anyway it teaches nothing; where it expects
less, the observation counts as if it were the bound itself, the least that agrees with it.

What is expected to need more than the limit is not sent. What is expected to need less is sent in
the order of its gain times the probability that it fits, ``Phi(log(limit / expected) / sd)``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from autopeft.records import Costs, TrialState, TrialStatus
from autopeft.results.calibration import measured_bytes, measured_memory
from autopeft.search_spaces.configuration import Configuration

#: Error of a prediction before anything is measured, in nats: what differs from configuration to
#: configuration, what is common to all of a job, and to all with the same methods.
PRIOR_SPREAD = 0.03
PRIOR_COMMON = 0.1
PRIOR_OF_METHODS = 0.06
#: Residuals of the prior's spread that count beside those of the trials.
PRIOR_TRIALS = 4
#: A residual, in nats, beyond which a trial counts no further.
MOST_RESIDUAL = 0.25
#: Name of the limit that the workers' memory is.
WORKER_MEMORY = "workers.memory"
#: Part of the limit from which on a quick prediction is checked by exact accounting.
NEAR = 0.85

Methods = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLimit:
    """A limit in bytes, and what trials need of what is predicted for them.

    Attributes:
        limit_bytes: What a trial may need at the most.
        factor: Needed / predicted, of any configuration.
        by_methods: The further factor of configurations with just these methods.
        spread: Standard deviation of log(needed / predicted).
        num_out_of_memory: Trials that ran out of it.
    """

    limit_bytes: float
    factor: float = 1.0
    by_methods: Mapping[Methods, float] = field(default_factory=dict)
    spread: float = PRIOR_SPREAD
    num_out_of_memory: int = 0

    @classmethod
    def of(cls, states: Iterable[TrialState], limit_bytes: float) -> MemoryLimit:
        """Learn from the trials of a job."""
        states = list(states)
        measured = {s.trial.number: log for s in states if (log := _log_ratio(s)) is not None}
        centre = _shrunk(measured.values(), PRIOR_COMMON)
        failed = [s for s in states if s.status is TrialStatus.INFEASIBLE and s.num_failures]
        logs: dict[Methods, list[float]] = {}
        for state in states:
            number, methods = state.trial.number, state.trial.configuration.methods
            if number in measured:
                logs.setdefault(methods, []).append(measured[number])
            elif (bound := _log_bound(state, limit_bytes)) is not None:
                logs.setdefault(methods, []).append(max(bound, centre))
        apart = {
            methods: _shrunk([each - centre for each in found], PRIOR_OF_METHODS)
            for methods, found in logs.items()
        }
        residuals = [
            max(-MOST_RESIDUAL, min(MOST_RESIDUAL, each - centre - apart[methods]))
            for methods, found in logs.items()
            for each in found
        ]
        squares = PRIOR_TRIALS * PRIOR_SPREAD**2 + math.fsum(each**2 for each in residuals)
        return cls(
            limit_bytes=limit_bytes,
            factor=math.exp(centre),
            by_methods={methods: math.exp(each) for methods, each in apart.items()},
            spread=math.sqrt(squares / (PRIOR_TRIALS + len(residuals))),
            num_out_of_memory=len(failed),
        )

    def expected_bytes(self, configuration: Configuration, costs: Costs) -> float:
        """Return what a configuration will probably need, in bytes."""
        more = self.by_methods.get(configuration.methods, 1.0)
        return self.factor * more * costs.train_memory_bytes

    def fits(self, configuration: Configuration, costs: Costs) -> bool:
        """Tell whether it will probably need no more than the limit."""
        return self.expected_bytes(configuration, costs) <= self.limit_bytes

    def is_near(self, configuration: Configuration, costs: Costs) -> bool:
        """Tell whether a prediction from sizes alone is too close to the limit to be relied on."""
        return NEAR <= self.expected_bytes(configuration, costs) / self.limit_bytes <= 1 / NEAR

    def log_probability(
        self, configurations: Sequence[Configuration], costs: Sequence[Costs]
    ) -> NDArray[np.float64]:
        """Return ``n`` log probabilities of fitting; ``-inf`` where it probably does not."""
        expected = np.array(
            [
                self.expected_bytes(each, cost)
                for each, cost in zip(configurations, costs, strict=True)
            ]
        )
        room = math.log(self.limit_bytes) - np.log(np.maximum(expected, 1.0))
        found: NDArray[np.float64] = np.where(room >= 0.0, log_ndtr(room / self.spread), -np.inf)
        return found


def needed_bytes(state: TrialState) -> int | None:
    """Return what a trial was measured to take of the device, in bytes.

    That is what the allocator of a GPU held, which is what has to fit there, and on the CPU the
    live tensors.
    """
    memory = measured_memory(state)
    measured = measured_bytes(state)
    if memory is None or measured is None:
        return measured
    return max(measured, memory.reserved_bytes or 0)


def _log_ratio(state: TrialState) -> float | None:
    needed, predicted = needed_bytes(state), state.trial.costs.train_memory_bytes
    return math.log(needed / predicted) if needed and predicted > 0 else None


def _log_bound(state: TrialState, limit_bytes: float) -> float | None:
    """Return the least that log(needed / predicted) can be of a trial that ran out of memory."""
    predicted = state.trial.costs.train_memory_bytes
    if state.status is not TrialStatus.INFEASIBLE or predicted <= 0:
        return None
    least = state.least_memory_bytes or limit_bytes
    return math.log(least / predicted)


def _shrunk(logs: Iterable[float], prior: float) -> float:
    """Return the median of normal observations, shrunk towards a prior of mean 0."""
    found = list(logs)
    weight = (PRIOR_SPREAD / prior) ** 2
    return len(found) / (len(found) + weight) * statistics.median(found) if found else 0.0
