"""Optuna's samplers as proposers: TPE, NSGA-II and its Gaussian process.

A study is made anew for each proposal from what was observed, so that a proposer is rebuilt by
replay; its sampler is seeded with the job's seed and the proposal's number. Optuna refuses
pruning with several objectives: a stopped trial enters as complete with its last score, a pending
one as running.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from autopeft.errors import AutopeftError
from autopeft.proposers.base import PROPOSERS
from autopeft.proposers.one_by_one import OneByOneProposer
from autopeft.proposers.outcomes import Outcomes
from autopeft.records import Proposal, TrialState
from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.optuna_space import OptunaView

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

#: Times a sampler is asked before a neighbour of what it said is taken.
MAX_ASKED = 4


class OptunaProposer(OneByOneProposer):
    """Propose what one of Optuna's samplers suggests.

    Raises:
        AutopeftError: Optuna is not installed.
    """

    #: What proposals say where they come from.
    origin: str
    _view: OptunaView | None = None

    def propose_one(self, states: Sequence[TrialState]) -> Proposal | None:
        """Return the sampler's first suggestion that is not known, or a neighbour of it."""
        outcomes = Outcomes.of(self, states)
        found = self.settle(self._suggestions(outcomes, len(states)), states)
        return (
            self.sobol(states, self.origin) if found is None else self.proposal(found, self.origin)
        )

    @property
    def view(self) -> OptunaView:
        """The space in Optuna's words."""
        if self._view is None:
            try:
                self._view = OptunaView(self.space)
            except ImportError as error:
                raise AutopeftError(
                    f"proposer {self.origin!r} needs Optuna, which is not installed",
                    hint="pip install 'autopeft[optuna]'",
                ) from error
        return self._view

    @abstractmethod
    def sampler(self, seed: int) -> BaseSampler:
        """Return the sampler."""

    def attributes(self, place: int) -> dict[str, Any]:
        """Return what the sampler itself would have noted of the trial at a place."""
        return {}

    def parameters(self, configuration: Configuration) -> dict[str, Any]:
        """Return the parameters by which a trial enters the study."""
        return self.view.parameters(configuration)

    def suggest(self, study: Study) -> Configuration:
        """Ask the study for one configuration."""
        return self.view.suggest(study.ask())

    def _suggestions(self, outcomes: Outcomes, k: int) -> Iterator[Configuration]:
        view = self.view
        import optuna

        level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                seed = int(self.generator(k).integers(2**31))
                directions = ["maximize", *("minimize" for _ in self.scale.cost_names)]
                study = optuna.create_study(sampler=self.sampler(seed), directions=directions)
                study.add_trials(self._trials(view, outcomes))
                for _ in range(MAX_ASKED):
                    # A space with some of its members only has one nearby.
                    found = self.space.nearest(self.suggest(study))
                    if found is not None:
                        yield found
        finally:
            optuna.logging.set_verbosity(level)

    def _trials(self, view: OptunaView, outcomes: Outcomes) -> Iterator[FrozenTrial]:
        from optuna.trial import TrialState as State
        from optuna.trial import create_trial

        for place, configuration in enumerate(outcomes.configurations):
            parameters = self.parameters(configuration)
            yield create_trial(
                params=parameters,
                distributions={name: view.distributions[name] for name in parameters},
                values=[float(outcomes.scores[place]), *map(float, outcomes.costs[place])],
                system_attrs=self.attributes(place),
            )
        for configuration in outcomes.pending:
            parameters = self.parameters(configuration)
            yield create_trial(
                state=State.RUNNING,
                params=parameters,
                distributions={name: view.distributions[name] for name in parameters},
            )


@PROPOSERS.register("optuna-tpe")
class OptunaTpeProposer(OptunaProposer):
    """Optuna's tree-structured Parzen estimator, multivariate and by groups of conditions.

    Source: Ozaki et al., "Multiobjective tree-structured Parzen estimator", JAIR 2022; pending
    trials count as bad ones (``constant_liar``).
    """

    origin = "optuna-tpe"

    def sampler(self, seed: int) -> BaseSampler:
        """Return the sampler."""
        from optuna.samplers import TPESampler

        return TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)


@PROPOSERS.register("optuna-nsga2")
class OptunaNsga2Proposer(OptunaProposer):
    """Optuna's NSGA-II (Deb et al., 2002), its population as small as our budgets are.

    Which generation a trial belongs to is reckoned from its place among those that ended.
    """

    origin = "optuna-nsga2"
    #: Members of a generation; Optuna's 50 would be all that most jobs train.
    population = 20

    def sampler(self, seed: int) -> BaseSampler:
        """Return the sampler."""
        from optuna.samplers import NSGAIISampler

        return NSGAIISampler(population_size=self.population, seed=seed)

    def attributes(self, place: int) -> dict[str, Any]:
        """Return the generation."""
        from optuna.samplers import NSGAIISampler

        return {NSGAIISampler._get_generation_key(): place // self.population}


@PROPOSERS.register("optuna-gp")
class OptunaGpProposer(OptunaProposer):
    """Optuna's Gaussian process with its expected hypervolume improvement.

    It models only parameters that every trial has. So that conditional ones count, all of them
    are asked for always, and those that do not matter enter at the middle of their range.
    """

    origin = "optuna-gp"
    _filled: dict[str, Any] | None = None

    def sampler(self, seed: int) -> BaseSampler:
        """Return the sampler."""
        from optuna.samplers import GPSampler

        return GPSampler(seed=seed, deterministic_objective=False)

    def parameters(self, configuration: Configuration) -> dict[str, Any]:
        """Return every parameter there is."""
        if self._filled is None:
            self._filled = {
                name: middle(distribution) for name, distribution in self.view.distributions.items()
            }
        return self._filled | self.view.parameters(configuration)

    def suggest(self, study: Study) -> Configuration:
        """Ask for every parameter there is."""
        trial = study.ask(self.view.distributions)
        found = self.view.configuration(trial.params)
        assert found is not None
        return found


def middle(distribution: Any) -> Any:
    """Return the middle of a distribution's range; the first of choices without an order."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    if isinstance(distribution, IntDistribution):
        return (distribution.low + distribution.high) // 2
    return (distribution.low + distribution.high) / 2
