"""Noisy expected hypervolume improvement against BoTorch, given one and the same process.

BoTorch samples the candidate together with the front; ours is in closed form given the front. So
the two share nothing but the posterior, and differ by Monte Carlo error alone.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_solve
from scipy.special import ndtri
from scipy.stats import qmc

from autopeft.proposers.expected_hypervolume_improvement import (
    LevelPartition,
    log_noisy_expected_hypervolume_improvement,
)

with warnings.catch_warnings():
    # linear_operator decorates functions with a deprecated torch.jit.script as it is imported.
    warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
    from botorch.acquisition.multi_objective import logei
    from botorch.models import ModelList, SingleTaskGP
    from botorch.models.deterministic import GenericDeterministicModel
    from botorch.sampling.index_sampler import IndexSampler
    from botorch.sampling.list_sampler import ListSampler
    from botorch.sampling.normal import SobolQMCNormalSampler
    from gpytorch.kernels import MaternKernel, ScaleKernel

Array = NDArray[np.float64]

NUM_OBSERVED, NUM_CANDIDATES = 4, 16
REFERENCE_SCORE = -1.0
REFERENCE_COSTS = np.array([1.1, 1.2])


@dataclass(frozen=True)
class Scene:
    """A process over scores, what has been observed or is pending, and candidates."""

    process: Any
    observed: Array
    pending: Array
    candidates: Array
    num_costs: int

    @property
    def baseline(self) -> Array:
        return np.concatenate([self.observed, self.pending])

    def costs(self, X: Array) -> Array:
        """Return logarithms of the costs: one grows along both axes, the other trades them."""
        table = np.stack([0.7 * X[:, 0] + 0.3 * X[:, 1], 0.5 + 0.5 * X[:, 0] - 0.4 * X[:, 1]], 1)
        return table[:, : self.num_costs]

    @property
    def reference_costs(self) -> Array:
        return REFERENCE_COSTS[: self.num_costs]


def a_scene(num_costs: int, num_pending: int) -> Scene:
    """Return few and noisy observations, so that the front itself is uncertain.

    The first two and the last two candidates are near twins of baseline points, the last two of
    pending ones, if any: there it matters most to condition on the front.
    """
    generator = np.random.default_rng(5)
    observed = generator.uniform(size=(NUM_OBSERVED, 2))
    pending = generator.uniform(size=(2, 2))[:num_pending]
    baseline = np.concatenate([observed, pending])
    near = np.clip(baseline[[0, 1, -2, -1]] + 0.03, 0.0, 1.0)
    anywhere = generator.uniform(size=(NUM_CANDIDATES - len(near), 2))
    candidates = np.concatenate([near[:2], anywhere, near[2:]])

    y = np.sin(3.0 * observed[:, 0]) + observed[:, 1] + generator.normal(0.0, 0.3, NUM_OBSERVED)
    y = (y - y.mean()) / y.std(ddof=1)
    kernel = ScaleKernel(MaternKernel(nu=2.5))
    process = SingleTaskGP(
        torch.tensor(observed),
        torch.tensor(y)[:, None],
        train_Yvar=torch.full((NUM_OBSERVED, 1), 0.1, dtype=torch.double),
        covar_module=kernel.double(),
        outcome_transform=None,
    )
    kernel.base_kernel.lengthscale = 0.4
    kernel.outputscale = 1.0
    process.mean_module.constant.data.fill_(0.0)
    process.eval()
    return Scene(process, observed, pending, candidates, num_costs)


def closed_form(scene: Scene, log2_samples: int = 10, seed: int = 0) -> Array:
    """Return the expected gain of every candidate as the acquisition computes it."""
    n = len(scene.baseline)
    with torch.no_grad():
        both = torch.tensor(np.concatenate([scene.baseline, scene.candidates]))
        posterior = scene.process.posterior(both).distribution
        mean: Array = posterior.mean.numpy()
        covariance: Array = posterior.covariance_matrix.numpy()
    factor = np.linalg.cholesky(covariance[:n, :n])
    sobol = qmc.Sobol(n, scramble=True, rng=np.random.default_rng(seed))
    deviations = ndtri(sobol.random_base2(log2_samples)) @ factor.T
    cross = covariance[n:, :n]
    gain = cho_solve((factor, True), cross.T)
    means = mean[n:, None] + (deviations @ gain).T
    sd = np.sqrt(np.diag(covariance)[n:] - np.einsum("ij,ji->i", cross, gain))
    costs = scene.costs(scene.baseline)
    partitions = [
        LevelPartition.of(scores, costs, REFERENCE_SCORE, scene.reference_costs)
        for scores in mean[:n] + deviations
    ]
    candidate_costs = scene.costs(scene.candidates)
    return np.exp(
        log_noisy_expected_hypervolume_improvement(means, sd, candidate_costs[None], partitions)
    )


def by_botorch(scene: Scene, num_samples: int, seed: int = 0) -> Array:
    """Return the same from BoTorch, which maximises all: costs enter as negative objectives."""

    def negative_costs(X: torch.Tensor) -> torch.Tensor:
        costs = scene.costs(X.reshape(-1, 2).numpy())
        return -torch.tensor(costs).reshape(*X.shape[:-1], scene.num_costs)

    size = torch.Size([num_samples])
    acquisition = logei.qLogNoisyExpectedHypervolumeImprovement(
        model=ModelList(
            scene.process,
            GenericDeterministicModel(negative_costs, num_outputs=scene.num_costs),
        ),
        ref_point=[REFERENCE_SCORE, *(-scene.reference_costs)],
        X_baseline=torch.tensor(scene.observed),
        X_pending=torch.tensor(scene.pending) if len(scene.pending) else None,
        sampler=ListSampler(SobolQMCNormalSampler(size, seed=seed), IndexSampler(size, seed=seed)),
        prune_baseline=False,
        # Hardly smoothed: what is left is far below the Monte Carlo error.
        tau_relu=1e-6,
        tau_max=1e-4,
        fat=False,
    )
    with torch.no_grad():
        values: Array = acquisition(torch.tensor(scene.candidates)[:, None, :]).exp().numpy()
    return values


# BoTorch partitions three objectives sample by sample in 5 ms each, two all at once; hence fewer
# samples for two costs.
#
# The tolerance is at least four standard deviations of the Monte Carlo error, which is largest with
# points pending. Over ten seeds the gains of single candidates then vary by 1.1 % at most (ours,
# 1024 fronts), 0.8 % (BoTorch, one cost) and 4 % (BoTorch, two costs; 1.4 % where the gain is above
# a third of the best: ``atol`` is for the others), and the worst of all pairs of seeds uses 0.57 of
# the tolerance. Not to condition candidates on the front, or to take the front as certain, misses
# most of these gains by 15 % and more, some of them tenfold.
@pytest.mark.parametrize("num_pending", [0, 2])
@pytest.mark.parametrize(("num_costs", "num_samples", "rtol"), [(1, 4096, 0.03), (2, 256, 0.05)])
def test_noisy_gain_equals_botorch(
    num_costs: int, num_samples: int, rtol: float, num_pending: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It would compile C++ for seconds, and then not use it: it knows the ``fat`` variant alone.
    monkeypatch.setattr(logei, "_try_load_fused_kernel", lambda: None)
    scene = a_scene(num_costs, num_pending)
    ours, theirs = closed_form(scene), by_botorch(scene, num_samples)
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=0.01 * theirs.max())
    assert np.argmax(ours) == np.argmax(theirs)
