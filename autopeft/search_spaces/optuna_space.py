"""A search space in Optuna's words: conditional, typed parameters, and back.

The parameters are those of :class:`~autopeft.search_spaces.config_space.ConfigSpaceView`, under
the same names, and each is there exactly while its condition holds:

=========================== ==============================================================
there                       Optuna's
=========================== ==============================================================
one of several, no order    ``CategoricalDistribution``
one of several, ordered     ``IntDistribution``: its place, 0 for the smallest; Optuna has no
                            ordered categories, and a sampler should know that 8 is near 16
whole number                ``IntDistribution``
``learning_rate``           ``FloatDistribution`` from 0 to 1: where it lies between the ends
                            of what the chosen methods allow, on a log scale
=========================== ==============================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autopeft.search_spaces.config_space import LEARNING_RATE, ConfigSpaceView
from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial


class OptunaView:
    """One space as Optuna's parameters.

    Args:
        space: The space.

    Attributes:
        space: The same.
        distributions: Every parameter there can be, parents before their children.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._view = ConfigSpaceView(space)
        declared = self._view.config_space
        self._sequences: dict[str, tuple[Any, ...]] = {}
        self._conditions: dict[str, list[tuple[str, Any]]] = {}
        self.distributions: dict[str, BaseDistribution] = {}
        for name in declared:
            self.distributions[name] = self._distribution(name, declared[name])
            self._conditions[name] = [
                (condition.parent.name, _plain(condition.value))
                for condition in declared.parent_conditions_of.get(name, ())
            ]

    def suggest(self, trial: BaseTrial) -> Configuration:
        """Ask a trial for every parameter that matters, and return what they stand for."""
        found: dict[str, Any] = {}
        for name in self.distributions:
            if self._is_active(name, found):
                found[name] = self._suggest(trial, name)
        return self._view.configuration(found)

    def parameters(self, configuration: Configuration) -> dict[str, Any]:
        """Return Optuna's values of the parameters that stand for a member of the space."""
        values = self._view.values(configuration)
        found: dict[str, Any] = {}
        for name in self.distributions:
            if name not in values:
                continue
            value = _plain(values[name])
            if name in self._sequences:
                value = self._sequences[name].index(value)
            found[name] = min(1.0, max(0.0, float(value))) if name == LEARNING_RATE else value
        return found

    def configuration(self, parameters: Mapping[str, Any]) -> Configuration | None:
        """Return what Optuna's values stand for; None where one that matters is missing.

        Parameters of other names are passed over.
        """
        found: dict[str, Any] = {}
        for name in self.distributions:
            if self._is_active(name, found):
                if name not in parameters:
                    return None
                found[name] = self._read(name, parameters[name])
        return self._view.configuration(found)

    def _is_active(self, name: str, found: Mapping[str, Any]) -> bool:
        """Tell whether a parameter matters, given the values of those before it."""
        return all(
            parent in found and found[parent] == value for parent, value in self._conditions[name]
        )

    def _suggest(self, trial: BaseTrial, name: str) -> Any:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        distribution = self.distributions[name]
        if isinstance(distribution, CategoricalDistribution):
            return trial.suggest_categorical(name, distribution.choices)
        if isinstance(distribution, IntDistribution):
            return self._read(name, trial.suggest_int(name, distribution.low, distribution.high))
        assert isinstance(distribution, FloatDistribution)
        return trial.suggest_float(name, distribution.low, distribution.high)

    def _read(self, name: str, value: Any) -> Any:
        """Return ConfigSpace's value of a parameter."""
        sequence = self._sequences.get(name)
        return value if sequence is None else sequence[value]

    def _distribution(self, name: str, declared: Any) -> BaseDistribution:
        from ConfigSpace import (
            CategoricalHyperparameter,
            OrdinalHyperparameter,
            UniformIntegerHyperparameter,
        )
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if isinstance(declared, CategoricalHyperparameter):
            return CategoricalDistribution([_plain(choice) for choice in declared.choices])
        if isinstance(declared, OrdinalHyperparameter):
            self._sequences[name] = tuple(_plain(value) for value in declared.sequence)
            return IntDistribution(0, len(self._sequences[name]) - 1)
        if isinstance(declared, UniformIntegerHyperparameter):
            return IntDistribution(int(declared.lower), int(declared.upper))
        return FloatDistribution(float(declared.lower), float(declared.upper))


def suggest_configuration(trial: BaseTrial, space: SearchSpace) -> Configuration:
    """Ask one of Optuna's trials for a member of a space, whatever its sampler.

    Where it is asked often, an :class:`OptunaView` that is kept saves the work of declaring.
    """
    return OptunaView(space).suggest(trial)


def _plain(value: Any) -> Any:
    """Return the Python value behind a NumPy scalar."""
    return value.item() if hasattr(value, "item") else value
