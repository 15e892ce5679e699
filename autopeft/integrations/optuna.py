"""Optuna's guest: a sampler that proposes by a study's proposer, and judges by its stopper.

::

    sampler = PeftSampler(study)

    def objective(trial):
        configuration = sampler.suggest(trial)
        ...
            if sampler.report(trial, step, accuracy):
                raise optuna.TrialPruned()
        return accuracy, num_parameters

    optuna.create_study(directions=["maximize", "minimize"], sampler=sampler).optimize(objective)

Everything follows from what Optuna's storage holds, so another process goes on where this one
ended. Unlike Optuna's own pruners, :meth:`PeftSampler.report` works with several objectives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import wraps
from threading import RLock
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from autopeft.errors import AutopeftError
from autopeft.integrations.asked import Asked
from autopeft.integrations.study import PeftStudy
from autopeft.records import MEASURED_COST_NAMES, TrialStatus
from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.optuna_space import OptunaView

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    P = ParamSpec("P")
    R = TypeVar("R")

#: Names of what a trial's storage holds of a study.
_PROPOSAL, _CURVE = "autopeft:proposal", "autopeft:curve"
#: States in which a trial that has just reported is not worth more.
_TO_BE_PRUNED = (TrialStatus.PAUSED, TrialStatus.STOPPED, TrialStatus.DIVERGED)
#: Optuna's states of trials that nothing more will be heard of.
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def _alone(
    method: Callable[Concatenate[PeftSampler, P], R],
) -> Callable[Concatenate[PeftSampler, P], R]:
    """Let one thread in at a time: Optuna's ``n_jobs`` shares a sampler between threads."""

    @wraps(method)
    def guarded(self: PeftSampler, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            return method(self, *args, **kwargs)

    return guarded


class PeftSampler(BaseSampler):  # type: ignore[misc]
    """Propose what a study asks.

    A pruned trial counts as stopped, a failed one as failed, one under way as pending, also those
    of other processes on the same storage. Trials that were enqueued are trained as they were, and
    the study learns from them. Parameters of the objective that are not the space's are drawn at
    random. Two processes that ask at the same moment may be told the same.

    Args:
        study: The search; it must have seen nothing yet.
        values: What the objective returns, in order: the study's metric and names of costs. The
            metric, then the study's costs, as many as there are directions, where None. Costs
            that are known beforehand are not read from there.
    """

    def __init__(self, study: PeftStudy, *, values: Sequence[str] | None = None) -> None:
        if study.trials:
            raise AutopeftError(
                f"{study!r} has begun already",
                hint="give PeftSampler a study of its own; it is filled from Optuna's storage",
            )
        self.study = study
        self.view = OptunaView(study.space)
        self._values = None if values is None else tuple(values)
        self._random = RandomSampler(seed=study.seed)
        self._numbers: dict[int, int] = {}
        self._relative: dict[int, dict[str, Any]] = {}
        self._lock = RLock()

    # For objectives ------------------------------------------------------------------------

    def suggest(self, trial: Trial) -> Configuration:
        """Ask a trial for the configuration that it trains."""
        return self.view.suggest(trial)

    @_alone
    def asked(self, trial: Trial) -> Asked:
        """Ask a trial for the configuration that it trains, as PEFT takes it."""
        return self.study.asked(self._number(trial, self.suggest(trial)))

    @_alone
    def report(
        self,
        trial: Trial,
        step: int,
        value: float,
        *,
        seconds: float | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Tell the metric at a step, and return whether the trial should be pruned.

        Args:
            trial: The trial.
            step: Of the study's steps.
            value: Of the metric, the first of the objective's values or not.
            seconds: As for :meth:`~autopeft.integrations.study.PeftStudy.report`.
            metrics: As there.
        """
        number = self._number(trial, None)
        curve = list(trial.user_attrs.get(_CURVE, ()))
        curve.append([step, value if math.isfinite(value) else None, seconds, dict(metrics or {})])
        trial.set_user_attr(_CURVE, curve)
        # Pruning is the objective's choice: one that goes on all the same may still complete.
        self.study.report(number, step, value, seconds=seconds, metrics=metrics)
        return self.study.trial(number).status in _TO_BE_PRUNED

    # For Optuna ----------------------------------------------------------------------------

    @_alone
    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Choose what the trial trains, and return the parameters that stand for it."""
        names = self._names(study)
        for other in study.get_trials(deepcopy=False):
            if other.number != trial.number:
                self._learn(other, names)
        if trial.system_attrs.get("fixed_params"):
            return {}
        asked = self.study.ask()
        if asked is None:
            return {}
        self._numbers[trial.number] = asked.number
        kept = {"configuration": asked.configuration.to_json(), "origin": asked.origin}
        study._storage.set_trial_system_attr(trial._trial_id, _PROPOSAL, kept)
        self._relative[trial.number] = self.view.parameters(asked.configuration)
        return {name: self.view.distributions[name] for name in self._relative[trial.number]}

    @_alone
    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of what was chosen for the trial."""
        found = self._relative.pop(trial.number, {})
        return {name: found[name] for name in search_space}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw a parameter that is not part of what was chosen."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    @_alone
    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Learn what came of a trial."""
        number = self._known(trial)
        if number is not None:
            self._finish(number, trial, state, values, self._names(study))

    # Inside --------------------------------------------------------------------------------

    def _names(self, study: Study) -> tuple[str, ...]:
        """Return what the objective's values are, and see that the directions fit.

        Raises:
            AutopeftError: they do not.
        """
        directions = study.directions
        own = (self.study.metric, *self.study.scale.cost_names)
        names = own[: len(directions)] if self._values is None else self._values
        if len(names) != len(directions) or self.study.metric not in names:
            raise AutopeftError(
                f"Optuna's study has {len(directions)} directions, for the values "
                f"{', '.join(names)} of the metric {self.study.metric!r}",
                hint="name them in order: PeftSampler(study, values=[...])",
            )
        best = StudyDirection.MAXIMIZE if self.study.mode == "max" else StudyDirection.MINIMIZE
        for name, direction in zip(names, directions, strict=True):
            wanted = best if name == self.study.metric else StudyDirection.MINIMIZE
            if direction is not wanted:
                raise AutopeftError(
                    f"Optuna's study is to {direction.name.lower()} {name}, which is to "
                    f"{wanted.name.lower()}",
                    hint="give create_study the other direction, or values= in their order",
                )
        return names

    def _number(self, trial: Trial, configuration: Configuration | None) -> int:
        """Return the study's number of a trial under way.

        Raises:
            AutopeftError: the trial has not been asked for its configuration.
        """
        if trial.number not in self._numbers:
            if configuration is None:
                configuration = self.view.configuration(trial.params)
            if configuration is None:
                raise AutopeftError(
                    f"trial {trial.number} has no configuration yet",
                    hint="call sampler.suggest(trial) before sampler.report(trial, ...)",
                )
            asked = self.study.adopt(configuration, origin="optuna")
            self._numbers[trial.number] = asked.number
        return self._numbers[trial.number]

    def _known(self, trial: FrozenTrial) -> int | None:
        """Return the study's number of a trial, new ones included; None where it trains nothing.

        What was trained counts, and only for trials that have not said it what was proposed.
        """
        number = self._numbers.get(trial.number)
        if number is not None:
            return number
        kept = trial.system_attrs.get(_PROPOSAL)
        configuration = self.view.configuration(trial.params)
        if configuration is None and kept is not None:
            configuration = Configuration.from_json(kept["configuration"])
        if configuration is None or configuration not in self.study.space:
            return None
        origin = "optuna" if kept is None else str(kept["origin"])
        asked = self.study.adopt(configuration, origin=origin)
        self._numbers[trial.number] = asked.number
        return asked.number

    def _learn(self, trial: FrozenTrial, names: Sequence[str]) -> None:
        """Take in what Optuna's storage holds of a trial."""
        if trial.state is TrialState.WAITING:
            return
        number = self._known(trial)
        if number is None or self.study.trial(number).status.is_final:
            return
        for step, value, seconds, metrics in _curve(trial):
            told = math.nan if value is None else float(value)
            self.study.measure(number, step, told, seconds=seconds, metrics=metrics)
        self._finish(number, trial, trial.state, trial.values, names)

    def _finish(
        self,
        number: int,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
        names: Sequence[str],
    ) -> None:
        """Take in how a trial ended, if it has."""
        if state not in _FINISHED or self.study.trial(number).status.is_final:
            return
        if state is TrialState.PRUNED:
            self.study.stopped(number, "pruned by its objective")
        elif state is TrialState.FAIL or values is None:
            reason = trial.system_attrs.get("fail_reason", "its objective failed")
            self.study.failed(number, str(reason))
        else:
            told = dict(zip(names, values, strict=True))
            metrics = {name: told[name] for name in MEASURED_COST_NAMES if name in told}
            begun, ended = trial.datetime_start, trial.datetime_complete or datetime.now()
            taken = None if begun is None else (ended - begun).total_seconds()
            self.study.complete(number, told[self.study.metric], seconds=taken, metrics=metrics)


def _curve(trial: FrozenTrial) -> list[tuple[Any, ...]]:
    """Return ``(step, value, seconds, metrics)`` of what a trial reported, by growing step."""
    reported = [tuple(row) for row in trial.user_attrs.get(_CURVE, ())]
    if not reported:
        reported = [(step, value, None, {}) for step, value in trial.intermediate_values.items()]
    return sorted(reported, key=lambda row: float(row[0]))
