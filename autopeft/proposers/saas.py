"""AutoPEFT's published recipe, and the same with what it lacked."""

from __future__ import annotations

import contextlib
import math
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

from autopeft.errors import AutopeftError
from autopeft.proposers.base import PROPOSERS
from autopeft.proposers.one_by_one import OneByOneProposer, keys_of
from autopeft.proposers.outcomes import Array, Outcomes
from autopeft.records import Proposal, TrialState
from autopeft.results.front import non_dominated
from autopeft.search_spaces.configuration import Configuration
from autopeft.surrogates.threads import one_blas_thread

if TYPE_CHECKING:
    from botorch.acquisition import AcquisitionFunction
    from botorch.models.model import Model
    from torch import Tensor

#: The pool that the local search begins from: samples of the space, and mutants of the front.
NUM_SAMPLES, NUM_MUTANTS = 200, 100
#: The local search: candidates kept, neighbours of each, rounds.
NUM_KEPT, NUM_NEIGHBOURS, NUM_ROUNDS = 5, 10, 4
#: Draws from the posterior behind an expectation.
NUM_POSTERIOR = 128
#: Candidates valued at once.
CHUNK = 64


class SaasProposer(OneByOneProposer):
    """Random configurations, then batches that maximise a noisy hypervolume improvement.

    A batch is chosen at once, greedily, from what was known of the trials before it; so those of
    it that come later do not learn from those that came first.
    """

    #: What proposals say where they come from.
    origin: str
    #: Random configurations to begin with, and trials that are proposed from one fit.
    num_random: int
    batch: int

    _chosen: tuple[tuple[Any, ...], list[Configuration]] | None = None

    def propose_one(self, states: Sequence[TrialState]) -> Proposal | None:
        """Return a random configuration, or the next one of a batch."""
        k = len(states)
        first = self.num_random + self.batch * ((k - self.num_random) // self.batch)
        before = [state for state in states if state.trial.number < first]
        outcomes = Outcomes.of(self, before)
        if k < self.num_random or len(outcomes) < 2:
            return self.sobol(states, f"{self.origin}:random")
        # What was proposed in the middle of a batch may have met a limit: then another stands in.
        found = self.settle(self._batch(before, outcomes, first), states)
        return (
            self.sobol(states, self.origin) if found is None else self.proposal(found, self.origin)
        )

    def _batch(
        self, before: Sequence[TrialState], outcomes: Outcomes, first: int
    ) -> list[Configuration]:
        """Return the batch that begins with trial number ``first``; the last is remembered."""
        asked = (
            first,
            outcomes.numbers.tobytes(),
            outcomes.scores.tobytes(),
            outcomes.pending,
        )
        if self._chosen is None or self._chosen[0] != asked:
            self._chosen = asked, self._choose(keys_of(before), outcomes, first)
        return self._chosen[1]

    def _choose(self, known: set[str], outcomes: Outcomes, first: int) -> list[Configuration]:
        import torch

        generator = self.generator(first)
        seed = int(generator.integers(2**31))
        chosen: list[Configuration] = []
        with _quiet(), torch.random.fork_rng(devices=()), one_blas_thread():
            torch.manual_seed(seed)
            inputs = self._inputs(outcomes.configurations)
            model = self.model(inputs, outcomes, seed)
            for _ in range(self.batch):
                pending = [*outcomes.pending, *chosen]
                acquisition = self.acquisition(
                    model,
                    inputs,
                    None if not pending else self._inputs(pending),
                    self.reference_point(outcomes),
                    seed,
                )
                best = self._search(acquisition, known, outcomes, generator)
                if best is None:
                    break
                known = known | {best.key}
                chosen.append(best)
        return chosen

    def _search(
        self,
        acquisition: AcquisitionFunction,
        known: set[str],
        outcomes: Outcomes,
        generator: np.random.Generator,
    ) -> Configuration | None:
        """Return the best configuration that a local search finds."""
        front = np.flatnonzero(non_dominated(outcomes.scores, outcomes.costs))
        pool = list(self.space.sample(NUM_SAMPLES, generator))
        for i in range(NUM_MUTANTS):
            parent = outcomes.configurations[front[i % len(front)]]
            pool.append(self.space.mutate(parent, generator))
        values: dict[Configuration, float] = {}
        for _ in range(NUM_ROUNDS):
            new = [c for c in dict.fromkeys(pool) if c not in values and c.key not in known]
            if not new:
                break
            values.update(zip(new, self._valued(acquisition, new), strict=True))
            kept = sorted(values, key=lambda c: -values[c])[:NUM_KEPT]
            pool = [self.space.mutate(c, generator) for c in kept for _ in range(NUM_NEIGHBOURS)]
        ordered = sorted(values, key=lambda c: -values[c])
        return next((c for c in ordered if self.allows(c)), None)

    def _valued(
        self, acquisition: AcquisitionFunction, configurations: Sequence[Configuration]
    ) -> list[float]:
        import torch

        found: list[float] = []
        inputs = self._inputs(configurations)
        with torch.no_grad():
            for start in range(0, len(inputs), CHUNK):
                found += acquisition(inputs[start : start + CHUNK].unsqueeze(1)).tolist()
        return found

    def _inputs(self, configurations: Sequence[Configuration]) -> Tensor:
        """Return ``n`` rows: the encoded configuration, then its comparable costs."""
        import torch

        costs = self.scale.costs(self.costs(configurations))
        return torch.tensor(np.column_stack([self.space.encode(configurations), costs]))

    @abstractmethod
    def model(self, inputs: Tensor, outcomes: Outcomes, seed: int) -> Model:
        """Fit score and negated costs, in that order, to ``n`` rows of inputs."""

    @abstractmethod
    def acquisition(
        self,
        model: Model,
        inputs: Tensor,
        pending: Tensor | None,
        reference: list[float],
        seed: int,
    ) -> AcquisitionFunction:
        """Return what is to be maximised."""

    @abstractmethod
    def reference_point(self, outcomes: Outcomes) -> list[float]:
        """Return the reference point of the hypervolume in the model's units."""


@PROPOSERS.register("autopeft")
class AutopeftProposer(SaasProposer):
    """The recipe of AutoPEFT (Zhou et al., arXiv 2301.12132), as published.

    100 random configurations, then batches of four: every objective by a Gaussian process with a
    sparse axis-aligned subspace prior, its posterior sampled by NUTS (Eriksson and Jankowiak,
    "High-dimensional Bayesian optimization with sparse axis-aligned subspaces", UAI 2021), after
    a Gaussian copula transform; the noisy expected hypervolume improvement (Daulton et al.,
    NeurIPS 2021), maximised by local search. Nothing is stopped in the paper.

    Raises:
        AutopeftError: what its sampling needs is not installed.
    """

    origin = "autopeft"
    num_random = 100
    batch = 4

    def model(self, inputs: Tensor, outcomes: Outcomes, seed: int) -> Model:
        """Sample a process for each objective."""
        import torch

        try:
            from botorch.fit import fit_fully_bayesian_model_nuts
            from botorch.models.fully_bayesian import SaasFullyBayesianSingleTaskGP
            from botorch.models.model_list_gp_regression import ModelListGP
            from botorch.models.transforms.input import FilterFeatures

            d = self.space.num_dimensions
            models = []
            for values in (outcomes.scores, *(-outcomes.costs.T)):
                target = torch.tensor(gaussian_copula(values)).unsqueeze(-1)
                model = SaasFullyBayesianSingleTaskGP(
                    inputs,
                    target,
                    input_transform=FilterFeatures(feature_indices=torch.arange(d)),
                )
                fit_fully_bayesian_model_nuts(model, disable_progbar=True, seed=seed % 2**31)
                models.append(model)
        except ImportError as error:
            raise AutopeftError(
                "proposer 'autopeft' needs JAX and NumPyro, which are not installed",
                hint="pip install 'autopeft[saas]'",
            ) from error
        return ModelListGP(*models)

    def acquisition(
        self,
        model: Model,
        inputs: Tensor,
        pending: Tensor | None,
        reference: list[float],
        seed: int,
    ) -> AcquisitionFunction:
        """Return qNEHVI."""
        import torch
        from botorch.acquisition.multi_objective.monte_carlo import (
            qNoisyExpectedHypervolumeImprovement,
        )
        from botorch.sampling.normal import SobolQMCNormalSampler

        return qNoisyExpectedHypervolumeImprovement(
            model=model,
            ref_point=reference,
            X_baseline=inputs,
            X_pending=pending,
            prune_baseline=True,
            sampler=SobolQMCNormalSampler(torch.Size([NUM_POSTERIOR]), seed=seed),
        )

    def reference_point(self, outcomes: Outcomes) -> list[float]:
        """Return the worst value of each objective after the transform."""
        objectives = [outcomes.scores, *(-outcomes.costs.T)]
        return [float(gaussian_copula(values).min()) for values in objectives]


@PROPOSERS.register("autopeft-fair")
class AutopeftFairProposer(SaasProposer):
    """The recipe of AutoPEFT with what its authors would use today.

    20 random configurations, then one at a time; the score by an additive mixture of processes
    with the same prior at its mode (BoTorch's ``AdditiveMapSaasSingleTaskGP``), costs as they are
    known; ``qLogNEHVI`` (Ament et al., "Unexpected improvements to expected improvement for
    Bayesian optimization", NeurIPS 2023), which has gradients where qNEHVI is flat.
    """

    origin = "autopeft-fair"
    num_random = 20
    batch = 1

    def model(self, inputs: Tensor, outcomes: Outcomes, seed: int) -> Model:
        """Fit the score."""
        import torch
        from botorch.fit import fit_gpytorch_mll
        from botorch.models.deterministic import GenericDeterministicModel
        from botorch.models.map_saas import AdditiveMapSaasSingleTaskGP
        from botorch.models.model import ModelList
        from botorch.models.transforms.input import FilterFeatures
        from gpytorch.mlls import ExactMarginalLogLikelihood

        d = self.space.num_dimensions
        target = torch.tensor(gaussian_copula(outcomes.scores)).unsqueeze(-1)
        model = AdditiveMapSaasSingleTaskGP(
            inputs,
            target,
            input_transform=FilterFeatures(feature_indices=torch.arange(d)),
        )
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        if not outcomes.costs.shape[1]:
            return model
        num_costs = outcomes.costs.shape[1]
        known = GenericDeterministicModel(lambda X: -X[..., d:], num_outputs=num_costs)
        return ModelList(model, known)

    def acquisition(
        self,
        model: Model,
        inputs: Tensor,
        pending: Tensor | None,
        reference: list[float],
        seed: int,
    ) -> AcquisitionFunction:
        """Return qLogNEHVI."""
        import torch
        from botorch.acquisition.multi_objective.logei import (
            qLogNoisyExpectedHypervolumeImprovement,
        )
        from botorch.sampling.get_sampler import get_sampler

        return qLogNoisyExpectedHypervolumeImprovement(
            model=model,
            ref_point=reference,
            X_baseline=inputs,
            X_pending=pending,
            prune_baseline=True,
            cache_root=False,
            sampler=get_sampler(
                model.posterior(inputs[:1]), torch.Size([NUM_POSTERIOR]), seed=seed
            ),
        )

    def reference_point(self, outcomes: Outcomes) -> list[float]:
        """Return the worst transformed score and the job's reference costs."""
        worst = float(gaussian_copula(outcomes.scores).min())
        return [worst, *(-self.scale.cost_reference_point).tolist()]


def gaussian_copula(values: NDArray[np.float64]) -> Array:
    """Return ``n`` values as quantiles of a Gaussian, equal ones as equal.

    Source: the winsorised empirical copula of Salinas et al., "A quantile-based approach for
    hyperparameter transfer learning", ICML 2020, section 4.1.
    """
    n = len(values)
    quantiles = rankdata(values) / (n + 1)
    margin = 1 / (4 * n**0.25 * math.sqrt(math.pi * math.log(n))) if n > 1 else 0.25
    result: Array = ndtri(np.clip(quantiles, margin, 1 - margin))
    return result


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
