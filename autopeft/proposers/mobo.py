"""Multi-objective Bayesian optimisation with one uncertain objective."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autopeft.proposers.acquisition import Acquisition
from autopeft.proposers.base import PROPOSERS
from autopeft.proposers.one_by_one import OneByOneProposer, keys_of
from autopeft.records import Costs, Proposal, TrialState
from autopeft.results.front import ObjectiveScale
from autopeft.results.live_front import LiveFront
from autopeft.search_spaces.configuration import Configuration
from autopeft.surrogates.curves import BROKEN, CurveModel
from autopeft.surrogates.gaussian_process import Points
from autopeft.surrogates.measured_costs import MeasuredCosts
from autopeft.surrogates.threads import one_blas_thread
from autopeft.surrogates.trial_seconds import TrialSeconds

#: Space-filling proposals between the portfolio and the model.
NUM_SOBOL = 2
#: Measured trials below which there is nothing to model.
MIN_MEASURED = 4
#: The pool: samples of the space, and mutants of the trials that are best or on the front.
NUM_SAMPLES, NUM_MUTANTS = 768, 384
#: Proposals in a row that look at the same samples: predicting their costs takes the longest.
NUM_SHARING = 8
#: Local search: candidates kept, mutants of each, rounds.
NUM_KEPT, NUM_NEIGHBOURS, NUM_ROUNDS = 8, 12, 3
#: Best candidates of which the first that keeps all limits is proposed.
NUM_CHECKED = 32
#: Trials with the best expected final scores that are mutated besides the front.
NUM_BEST = 6


#: Proposals of the model in a row that did not reach the front before one in EXPLORE_EVERY
#: explores, and how many times wider it takes its uncertainty to be.
NUM_STALLED, EXPLORE_EVERY, EXPLORING_SPREAD = 8, 4, 3.0
#: Part of the front's hypervolume, and of the best score's height, below which the gain that a
#: proposal is expected to bring is not worth its training; measured trials before that is said.
MIN_GAIN, MIN_MEASURED_TO_DOUBT = 3e-4, 40

#: Origins of the proposals that improve the score alone, and of those that explore.
SCORE, EXPLORE = "mobo:score", "mobo:explore"


@PROPOSERS.register("mobo")
class MoboProposer(OneByOneProposer):
    """Propose what is expected to enlarge the hypervolume of the front the most.

    First the space's portfolio of known-good defaults, then a few Sobol points, then the member
    of a pool (samples of the space, mutants of the front and of the best trials, refined by a
    local search) with the largest noisy expected hypervolume improvement; costs are known, so it
    has a closed form, see :mod:`autopeft.proposers.expected_hypervolume_improvement`.

    Every other proposal of the model improves the score alone, whatever it costs (then the
    expected hypervolume improvement is the expected improvement over the best score). With
    costs as logarithms most of the volume lies at the cheap end, and there hypervolume alone
    spent all 14 proposals of a search on sst2 on at most 10 thousand parameters; the
    end of the front that people ask for first was left to the portfolio.

    Gains are divided by the seconds that a trial is expected to take. While the front stands
    still, one proposal in four takes the model to be less sure than it says. A proposal whose
    expected gain is next to nothing carries that as its doubt, upon which a search may end.
    """

    _samples: tuple[int, Candidates] | None = None

    def propose_one(self, states: Sequence[TrialState]) -> Proposal | None:
        """Return the portfolio's next member, then a Sobol point, then what gains the most."""
        with one_blas_thread():
            return self._propose_one(states)

    def _propose_one(self, states: Sequence[TrialState]) -> Proposal | None:
        portfolio = self.space.portfolio()
        known = keys_of(states)
        for member in portfolio:
            if member.configuration.key not in known and self.allows(member.configuration):
                return self.proposal(member.configuration, member.origin)
        k = len(states)
        measured = [s for s in states if np.isfinite(s.score) and s.status not in BROKEN]
        if k >= len(portfolio) + NUM_SOBOL and len(measured) >= MIN_MEASURED:
            found = self._by_model(states, k)
            if found is not None:
                return found
        return self.sobol(states, "sobol")

    def score_alone(self) -> ObjectiveScale:
        """Return the job's scale without its costs."""
        return replace(self.scale, cost_names=(), cost_ideal=(), cost_reference=())

    def _by_model(self, states: Sequence[TrialState], k: int) -> Proposal | None:
        """Return the best new member of the pool; None where all of it is known."""
        generator = self.generator(k)
        look = _Look(self, states)
        scale, origin, spread = self.scale, "mobo", 1.0
        if k % 2 == 1:
            scale, origin = self.score_alone(), SCORE
        if k % EXPLORE_EVERY == 0 and look.num_stalled >= NUM_STALLED:
            origin, spread = EXPLORE, EXPLORING_SPREAD
        acquisition = look.acquisition(scale, generator, spread=spread)
        parents = acquisition.front() + _best(look.model, states)
        pool = Pool(self, acquisition, (state.trial.configuration for state in states))
        pool.add_candidates(self.samples(k))
        pool.add(self._mutants(parents, generator))
        for _ in range(NUM_ROUNDS):
            kept = pool.best(NUM_KEPT)
            pool.add(
                self.space.mutate(configuration, generator)
                for configuration in kept
                for _ in range(NUM_NEIGHBOURS)
            )
        pool.name_limits()
        chosen = next((each for each in pool.best(NUM_CHECKED) if self.allows(each)), None)
        if chosen is None:
            return None
        doubt = ""
        if origin == "mobo" and look.num_measured >= MIN_MEASURED_TO_DOUBT:
            best = self.candidates(pool.best(NUM_CHECKED))
            doubt = look.doubt(acquisition, best, generator, k)
        return self.proposal(chosen, origin, doubt=doubt)

    def samples(self, k: int) -> Candidates:
        """Return samples of the space for proposal number ``k``, as known to the proposer."""
        block = k // NUM_SHARING
        if self._samples is None or self._samples[0] != block:
            generator = np.random.default_rng([self.seed, block, NUM_SAMPLES])
            drawn = tuple(dict.fromkeys(self.space.sample(NUM_SAMPLES, generator)))
            self._samples = block, self.candidates(drawn)
        return self._samples[1]

    def candidates(self, configurations: Sequence[Configuration]) -> Candidates:
        """Return what is known of configurations before they are tried."""
        return Candidates(
            configurations=tuple(configurations),
            points=Points.untried(self.space.encode(configurations)),
            costs=tuple(self.costs(configurations)),
        )

    def _mutants(
        self, parents: Sequence[TrialState], generator: np.random.Generator
    ) -> Iterable[Configuration]:
        for i in range(NUM_MUTANTS if parents else 0):
            mutant = parents[i % len(parents)].trial.configuration
            for _ in range(generator.geometric(0.6)):
                mutant = self.space.mutate(mutant, generator)
            yield mutant


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Configurations with what is known of them before they are tried.

    Attributes:
        configurations: ``n`` distinct ones.
        points: Their ``n`` points at full progress.
        costs: Their ``n`` known costs.
    """

    configurations: tuple[Configuration, ...]
    points: Points
    costs: tuple[Costs, ...]

    def rows(self, index: NDArray[np.intp]) -> Candidates:
        """Return some of the candidates."""
        return Candidates(
            configurations=tuple(self.configurations[i] for i in index),
            points=self.points.rows(index),
            costs=tuple(self.costs[i] for i in index),
        )


class _Look:
    """One look at a job: what is fitted to its trials for one proposal.

    Args:
        proposer: Gives space and scale.
        states: Every trial of the job, by number.
    """

    def __init__(self, proposer: MoboProposer, states: Sequence[TrialState]) -> None:
        self._proposer = proposer
        self._states = states
        space, max_steps = proposer.space, proposer.max_steps
        self.model = CurveModel(space, states, max_steps=max_steps)
        self._measured = MeasuredCosts(space, proposer.scale, states, max_steps=max_steps)
        self._seconds = TrialSeconds(space, states)
        self.num_measured = sum(np.isfinite(s.score) and s.status not in BROKEN for s in states)

    def acquisition(
        self, scale: ObjectiveScale, generator: np.random.Generator, *, spread: float = 1.0
    ) -> Acquisition:
        """Return the value of candidates on a scale."""
        return Acquisition(
            self.model,
            self._states,
            scale,
            self._measured.on(scale),
            generator,
            seconds=self._seconds,
            spread=spread,
        )

    @property
    def num_stalled(self) -> int:
        """Trials of the model since the newest one that is on the front."""
        front = LiveFront(self._proposer.scale)
        for state in self._states:
            front.add(state)
        newest = max((state.trial.number for state in front.members), default=-1)
        return sum(
            state.trial.number > newest
            and state.status.is_final
            and state.trial.origin.startswith("mobo")
            for state in self._states
        )

    def doubt(
        self, acquisition: Acquisition, best: Candidates, generator: np.random.Generator, k: int
    ) -> str:
        """Return why even the best candidates are not worth their training; "" if they may be.

        Args:
            acquisition: The expected gain in hypervolume.
            best: Candidates with the largest such gain.
            generator: Seeds the gain in score alone.
            k: Number of the proposal.
        """
        gain = acquisition.largest_share(best.points, best.costs)
        if gain >= MIN_GAIN:
            return ""
        alone = self.acquisition(self._proposer.score_alone(), generator)
        samples = self._proposer.samples(k)
        height = max(alone.largest_share(each.points, each.costs) for each in (best, samples))
        if height >= MIN_GAIN:
            return ""
        return (
            f"no configuration is expected to enlarge the front's hypervolume by more than "
            f"{gain:.3%} of it, nor the best score's height above the reference by more than "
            f"{height:.3%}"
        )


class Pool:
    """Distinct candidates with their expected gain.

    Args:
        proposer: Gives what is known of candidates.
        acquisition: Values candidates.
        excluded: Configurations that are no candidates.
    """

    def __init__(
        self,
        proposer: MoboProposer,
        acquisition: Acquisition,
        excluded: Iterable[Configuration],
    ) -> None:
        self._proposer = proposer
        self._acquisition = acquisition
        self._seen = set(excluded)
        self._gains: list[tuple[float, int, Configuration]] = []
        self._favourite: tuple[float, Configuration] | None = None

    def add(self, configurations: Iterable[Configuration]) -> None:
        """Value the configurations that are new."""
        new = [c for c in dict.fromkeys(configurations) if c not in self._seen]
        if new:
            self.add_candidates(self._proposer.candidates(new))

    def add_candidates(self, candidates: Candidates) -> None:
        """Value distinct candidates; those seen before are passed over."""
        is_new = np.array([c not in self._seen for c in candidates.configurations], dtype=bool)
        if not is_new.any():
            return
        new = candidates.rows(np.flatnonzero(is_new))
        self._seen.update(new.configurations)
        gains = self._acquisition(new.points, new.costs)
        favourite = int(np.argmax(gains))
        if self._favourite is None or gains[favourite] > self._favourite[0]:
            self._favourite = float(gains[favourite]), new.configurations[favourite]
        gains = gains + self._proposer.log_allowed(new.configurations, new.costs)
        first = len(self._gains)
        self._gains += [
            (-float(gain), first + i, c)
            for i, (gain, c) in enumerate(zip(gains, new.configurations, strict=True))
        ]

    def name_limits(self) -> None:
        """Let the limits be named that turn the candidate down which gains the most."""
        if self._favourite is not None:
            self._proposer.allows(self._favourite[1])

    def best(self, n: int) -> list[Configuration]:
        """Return the ``n`` candidates with the largest gain; ties go to the earlier one."""
        ordered = sorted(self._gains, key=lambda entry: entry[:2])
        return [configuration for _, _, configuration in ordered[:n]]


def _best(model: CurveModel, states: Sequence[TrialState]) -> list[TrialState]:
    """Return the trials with the best expected final scores, stopped ones included."""
    measured = [s for s in states if s.curve and s.status not in BROKEN]
    mean, _ = model.process.predict(model.points_of(measured))
    order = np.argsort(-mean, kind="stable")[:NUM_BEST]
    return [measured[i] for i in order]
