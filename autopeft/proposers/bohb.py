"""BOHB's proposer: kernel densities of good and bad configurations, at the largest step known."""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from autopeft.errors import AutopeftError
from autopeft.proposers.base import PROPOSERS
from autopeft.proposers.one_by_one import OneByOneProposer
from autopeft.proposers.outcomes import Array, Outcomes
from autopeft.records import Proposal, TrialState
from autopeft.search_spaces.configuration import Configuration

#: Weight of the sum beside the largest term in the scalarised objective.
RHO = 0.05


@PROPOSERS.register("bohb")
class BohbProposer(OneByOneProposer):
    """Propose by hpbandster's kernel density estimators, on a scalarised objective.

    Source: Falkner et al., "BOHB: Robust and efficient hyperparameter optimization at scale",
    ICML 2018, algorithm 2. It has one objective: each proposal draws weights for score and costs
    and looks at ``max_i w_i f_i + 0.05 sum_i w_i f_i`` of what is normalised over the trials
    (Knowles, "ParEGO", IEEE Transactions on Evolutionary Computation 2006, equation 2). Its
    densities want one more trial at a step than there are hyperparameters, so the hyperparameters
    are the dimensions of the encoded space, each a number from 0 to 1: fewer than half of the
    conditional ones. It draws from NumPy's global generator, which is seeded for the draw and put
    back as it was.

    Raises:
        AutopeftError: hpbandster is not installed.
    """

    def propose_one(self, states: Sequence[TrialState]) -> Proposal | None:
        """Return its first suggestion that is not known, or a neighbour of it."""
        outcomes = Outcomes.of(self, states)
        found = self.settle(self._suggestions(outcomes, len(states)), states)
        return self.sobol(states, "bohb") if found is None else self.proposal(found, "bohb")

    def _suggestions(self, outcomes: Outcomes, k: int) -> Iterator[Configuration]:
        try:
            from ConfigSpace import ConfigurationSpace, UniformFloatHyperparameter

            bohb = importlib.import_module("hpbandster.optimizers.config_generators.bohb")
        except ImportError as error:
            raise AutopeftError(
                "proposer 'bohb' needs hpbandster, which is not installed",
                hint="pip install 'autopeft[bohb]'; it builds a C extension, for which a "
                "compiler has to be there",
            ) from error
        generator = self.generator(k)
        losses = scalarised(outcomes, generator)
        names = [f"x{i:03d}" for i in range(self.space.num_dimensions)]
        declared = ConfigurationSpace(seed=int(generator.integers(2**31)))
        for name in names:
            declared.add(UniformFloatHyperparameter(name, 0.0, 1.0))
        X = self.space.encode(outcomes.configurations) if len(outcomes) else np.empty((0, 0))
        logger = logging.getLogger("autopeft.proposers.bohb.quiet")
        logger.setLevel(logging.CRITICAL)
        with _numpy_seeded(int(generator.integers(2**31))), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kde = bohb.BOHB(declared, logger=logger)
            # Smaller steps first: it models the largest at which it has seen enough. All trials
            # of a step but the last only enter; the last one lets it fit.
            for step in sorted(set(outcomes.steps.tolist())):
                rows = np.flatnonzero(outcomes.steps == step)
                for row in rows:
                    job = SimpleNamespace(
                        kwargs={
                            "budget": float(step),
                            "config": dict(zip(names, map(float, X[row]), strict=True)),
                        },
                        result={"loss": float(losses[row])},
                        exception=None,
                        id=None,
                    )
                    kde.new_result(job, update_model=bool(row == rows[-1]))
            for _ in range(4):
                drawn, _ = kde.get_config(float(self.max_steps))
                yield self.space.decode([[drawn[name] for name in names]])[0]


def scalarised(outcomes: Outcomes, generator: np.random.Generator) -> Array:
    """Return ``n`` losses under random weights: augmented Tchebycheff of normalised objectives."""
    if not len(outcomes):
        return np.empty(0)
    values = np.column_stack([-outcomes.scores, outcomes.costs])
    weights = generator.dirichlet(np.ones(values.shape[1]))
    width = np.ptp(values, axis=0)
    terms = weights * (values - values.min(axis=0)) / np.where(width > 0, width, 1.0)
    losses: Array = terms.max(axis=1) + RHO * terms.sum(axis=1)
    return losses


@contextlib.contextmanager
def _numpy_seeded(seed: int) -> Iterator[Any]:
    """Seed NumPy's global generator, and put it back afterwards."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
