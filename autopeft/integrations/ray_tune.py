"""Ray Tune's guests: a searcher that proposes and a scheduler that stops, for any trainable.

Both work on one :class:`~autopeft.integrations.study.PeftStudy`::

    searcher = PeftSearcher(study)
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher, scheduler=PeftScheduler(searcher), num_samples=40
        ),
    ).fit()

The trainable finds in its config what :meth:`~autopeft.integrations.asked.Asked.to_json` returns
and reports the study's metric. What it is known by is ``training_iteration`` (one more at each
report) or a result of another name, which then says how many of the study's steps are done.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ray.tune.experiment import Trial
from ray.tune.result import (
    DONE,
    SHOULD_CHECKPOINT,
    TIME_TOTAL_S,
    TRAINING_ITERATION,
)
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from autopeft.errors import AutopeftError
from autopeft.integrations.study import PeftStudy, read_json, write_json
from autopeft.records import MEASURED_COST_NAMES, TRAIN_SECONDS, TrialStatus
from autopeft.stoppers.base import Action

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController


class PeftSearcher(Searcher):  # type: ignore[misc]
    """Propose what a study asks.

    With Tune's ``max_concurrent_trials`` or a ``ConcurrencyLimiter`` so many trials are under way
    at a time; paused ones do not count. Under another scheduler than :class:`PeftScheduler`
    the study learns from every rung of a trial, and one that ends before the last step counts as
    stopped. State is JSON; Tune's own files hold nothing of it.

    Args:
        study: The search.
        time_attr: Name of the result that says how many steps are done.
        end_early: Whether no more trials are proposed once no further improvement is expected.
    """

    CKPT_FILE_TMPL = "searcher-state-{}.json"

    def __init__(
        self, study: PeftStudy, *, time_attr: str = TRAINING_ITERATION, end_early: bool = True
    ) -> None:
        super().__init__(metric=study.metric, mode=study.mode)
        self.study = study
        self.time_attr = time_attr
        self.end_early = end_early
        #: Trials under way at most; None for no limit.
        self.max_concurrent: int | None = None
        self._numbers: dict[str, int] = {}

    def number_of(self, trial_id: str) -> int | None:
        """Return the study's number of one of Tune's trials; None where it is not of the study."""
        return self._numbers.get(trial_id)

    @property
    def num_under_way(self) -> int:
        """Trials that are neither over nor paused."""
        return sum(
            not state.status.is_final and state.status is not TrialStatus.PAUSED
            for state in self.study.trials
        )

    @property
    def has_room(self) -> bool:
        """Whether another trial may be under way."""
        return self.max_concurrent is None or self.num_under_way < self.max_concurrent

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Keep to a limit on trials under way; Tune's own would count paused ones."""
        self.max_concurrent = max_concurrent
        return True

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: Mapping[str, Any], **spec: Any
    ) -> bool:
        """Accept what agrees with the study; the search space is the study's own."""
        return agrees(self.study, metric, mode)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return a configuration as plain values, None for "not now", or ``FINISHED``."""
        if not self.has_room:
            return None
        asked = self.study.ask(end_early=self.end_early)
        if asked is None:
            finished: str = Searcher.FINISHED
            return finished
        self._numbers[trial_id] = asked.number
        return asked.to_json()

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Learn from a result; one that the scheduler has told already changes nothing."""
        number = self._numbers.get(trial_id)
        told = told_by(self.study, result, self.time_attr)
        if number is not None and told is not None:
            self.study.retried(number)  # only one that Tune tries again is heard of after an error
            self.study.measure(number, **told)

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Learn that a trial is over."""
        number = self._numbers.get(trial_id)
        if number is None:
            return
        if error:
            self.study.failed(number, "its trainable raised an error")
            return
        told = None if result is None else told_by(self.study, result, self.time_attr)
        if told is not None:
            self.study.measure(number, **told)
        state = self.study.trial(number)
        reason = "ended by Tune before the last step"
        if state.status is TrialStatus.PAUSED:
            reason = f"still paused when the search ended: {state.reason}"
        self.study.stopped(number, reason)

    def get_state(self) -> dict[str, Any]:
        """Return all that is known as plain JSON values."""
        return {"study": self.study.state(), "numbers": dict(self._numbers)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go back to what :meth:`get_state` returned."""
        self.study.restore(state["study"])
        self._numbers = {str(key): int(number) for key, number in state["numbers"].items()}

    def save(self, checkpoint_path: str) -> None:
        """Write :meth:`get_state` as a JSON file."""
        write_json(checkpoint_path, self.get_state())

    def restore(self, checkpoint_path: str) -> None:
        """Read what :meth:`save` wrote.

        Raises:
            AutopeftError: it cannot be read, or is of another study.
        """
        self.set_state(read_json(checkpoint_path))


class PeftScheduler(TrialScheduler):  # type: ignore[misc]
    """Stop, pause and resume trials as a study's stopper decides.

    A trial that waits is paused where it can be resumed, and goes on when the stopper promotes
    it; what still waits when all else is done is stopped. Where a trial cannot be resumed it is
    stopped. A trial that reaches the study's last step is ended.

    Args:
        searcher: Proposes the trials; inside a ``ConcurrencyLimiter`` or not.
        pauses: Whether trials can be resumed: a function that reports checkpoints and begins at
            ``tune.get_checkpoint()``, or a class with ``save_checkpoint`` and
            ``load_checkpoint``. None pauses where a result comes with a checkpoint.
    """

    # A result that was buffered would be judged after the trial had gone on.
    _supports_buffered_results = False

    def __init__(self, searcher: Searcher, *, pauses: bool | None = None) -> None:
        super().__init__()
        while not isinstance(searcher, PeftSearcher):
            inner = getattr(searcher, "searcher", None)
            if inner is None:
                raise AutopeftError(
                    f"PeftScheduler judges what PeftSearcher proposed, got {searcher!r}",
                    hint="PeftScheduler(PeftSearcher(study)); other searchers have their own",
                )
            searcher = inner
        self.searcher = searcher
        self.pauses = pauses
        self._metric = searcher.study.metric
        #: The trial that goes on next; None where none does.
        self._promoted: Trial | None = None
        self._asked_at = -1

    @property
    def study(self) -> PeftStudy:
        """The search."""
        return self.searcher.study

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Accept what agrees with the study."""
        return agrees(self.study, metric, mode)

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Make sure that the trial is one of the study.

        Raises:
            AutopeftError: it is not.
        """
        if self.searcher.number_of(trial.trial_id) is None:
            raise AutopeftError(
                f"trial {trial.trial_id} was not proposed by this scheduler's PeftSearcher",
                hint="give the same PeftSearcher as search_alg and to PeftScheduler",
            )

    def on_trial_result(
        self, tune_controller: TuneController, trial: Trial, result: Mapping[str, Any]
    ) -> str:
        """Return what becomes of a trial."""
        number = self.searcher.number_of(trial.trial_id)
        told = told_by(self.study, result, self.searcher.time_attr)
        if number is None or told is None:
            return self._answer(Action.CONTINUE)
        can_pause = bool(result.get(SHOULD_CHECKPOINT)) if self.pauses is None else self.pauses
        self.study.retried(number)
        # A function that has returned will not go on, whatever was decided.
        is_over = bool(result.get(DONE))
        decision = self.study.report(number, **told, can_pause=can_pause and not is_over)
        return self._answer(decision.action)

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        """Do nothing: Tune may try again, and the searcher hears of it where not."""

    def on_trial_complete(
        self, tune_controller: TuneController, trial: Trial, result: Mapping[str, Any]
    ) -> None:
        """Do nothing: the searcher hears of it."""

    def on_trial_remove(self, tune_controller: TuneController, trial: Trial) -> None:
        """Do nothing: the searcher hears of it."""

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """Return the trial that is promoted, else one that has not begun."""
        trials = tune_controller.get_trials()
        waiting = [trial for trial in trials if trial.status == Trial.PAUSED]
        pending = [trial for trial in trials if trial.status == Trial.PENDING]
        if self._promoted not in waiting and self._promoted not in pending:
            self._promoted = self._next_promoted(waiting)
        if self._promoted is not None:
            return self._promoted
        if pending:
            return pending[0]
        is_idle = all(trial.is_finished() or trial in waiting for trial in trials)
        if waiting and is_idle and tune_controller.search_alg.is_finished():
            for trial in waiting:
                tune_controller.stop_trial(trial)
        return None

    def _next_promoted(self, waiting: list[Trial]) -> Trial | None:
        """Ask the stopper, once after each change."""
        if not waiting or not self.searcher.has_room or self._asked_at == self.study.num_entries:
            return None
        by_number = {self.searcher.number_of(trial.trial_id): trial for trial in waiting}
        number = self.study.promote([each for each in by_number if each is not None])
        self._asked_at = self.study.num_entries
        return None if number is None else by_number[number]

    def debug_string(self) -> str:
        """Say how the trials stand."""
        counts: dict[str, int] = {}
        for state in self.study.trials:
            counts[state.status.value] = counts.get(state.status.value, 0) + 1
        told = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
        return f"AutoPEFT: {told or 'no trial yet'}"

    def save(self, checkpoint_path: str) -> None:
        """Write the study as a JSON file."""
        self.study.save(checkpoint_path)

    def restore(self, checkpoint_path: str) -> None:
        """Read what :meth:`save` wrote.

        Raises:
            AutopeftError: it cannot be read, or is of another study.
        """
        self.study.restore(read_json(checkpoint_path))

    def _answer(self, action: Action) -> str:
        answers: dict[Action, str] = {
            Action.CONTINUE: TrialScheduler.CONTINUE,
            Action.PAUSE: TrialScheduler.PAUSE,
            Action.STOP: TrialScheduler.STOP,
        }
        return answers[action]


def agrees(study: PeftStudy, metric: str | None, mode: str | None) -> bool:
    """Tell whether a metric and a mode, where they are given, are those of a study."""
    return metric in (None, study.metric) and mode in (None, study.mode)


def told_by(study: PeftStudy, result: Mapping[str, Any], time_attr: str) -> dict[str, Any] | None:
    """Return what one of Tune's results tells a study; None where it lacks step or metric."""
    step, value = result.get(time_attr), result.get(study.metric)
    if step is None or value is None:
        return None
    metrics = {
        name: float(result[name])
        for name in MEASURED_COST_NAMES
        if name in result and math.isfinite(float(result[name]))
    }
    seconds = metrics.get(TRAIN_SECONDS, result.get(TIME_TOTAL_S))
    return {"step": float(step), "value": float(value), "seconds": seconds, "metrics": metrics}
