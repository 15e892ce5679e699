"""The running average: against the sum that it stands for, and across a file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autopeft.workers.averaging import TailAverage, average_of
from autopeft.workers.settings import TrainingSettings


def drifting(num_steps: int, window: float, **sizes: Any) -> tuple[TailAverage, list[torch.Tensor]]:
    """Return the average over weights that are drawn anew at each step, and these."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(3, 2, bias=False).double()
    average, seen = TailAverage(model, window), []
    for step in range(1, num_steps + 1):
        with torch.no_grad():
            model.weight.copy_(torch.rand((2, 3), generator=generator, dtype=torch.float64) + 1)
        average.update(step)
        seen.append(model.weight.detach().clone())
    return average, seen


@pytest.mark.parametrize("window", [0.1, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("num_steps", [1, 2, 7, 60])
def test_it_is_the_weighted_sum(window: float, num_steps: int) -> None:
    average, seen = drifting(num_steps, window)
    exponent = 2 / window - 2
    weights = np.ones(num_steps)
    for i in range(1, num_steps):  # the running form written out as a product
        rate = (1 + exponent) / (i + 1 + exponent)
        weights[:i] *= 1 - rate
        weights[i] = rate
    expected = sum(w * each for w, each in zip(weights, seen, strict=True))
    assert weights.sum() == pytest.approx(1.0)
    torch.testing.assert_close(average.tensors["weight"], expected, rtol=1e-12, atol=1e-12)


def test_a_window_of_one_is_the_mean_of_all() -> None:
    average, seen = drifting(9, 1.0)
    torch.testing.assert_close(average.tensors["weight"], torch.stack(seen).mean(0))


@pytest.mark.parametrize("num_steps", [50, 100, 1000])
@pytest.mark.parametrize("window", [0.1, 0.2, 0.5])
def test_it_is_as_old_as_the_mean_of_the_window(window: float, num_steps: int) -> None:
    """Average the step numbers themselves: the same part of a short trial as of a long one."""
    model = nn.Linear(1, 1, bias=False).double()
    average = TailAverage(model, window)
    for step in range(1, num_steps + 1):
        nn.init.constant_(model.weight, float(step))
        average.update(step)
    age = (num_steps - average.tensors["weight"].item()) / num_steps
    assert age == pytest.approx(window / 2, abs=0.5 / num_steps)


def test_what_is_pruned_begins_anew() -> None:
    model = nn.Linear(2, 1, bias=False)
    average = TailAverage(model, 0.5)
    for step, weights in enumerate([[3.0, 3.0], [0.0, 3.0], [4.0, 3.0]], start=1):
        with torch.no_grad():
            model.weight.copy_(torch.tensor([weights]))
        average.update(step)
    # Steps count as 1 + exponent = 3 of step + exponent = 5, from 0 on.
    torch.testing.assert_close(average.tensors["weight"], torch.tensor([[4.0 * 3 / 5, 3.0]]))


def test_it_goes_on_from_what_was_stored() -> None:
    model = nn.Linear(3, 2)
    whole, first = TailAverage(model, 0.2), TailAverage(model, 0.2)
    later = TailAverage(model, 0.2)
    for step in range(1, 6):
        nn.init.normal_(model.weight)
        whole.update(step)
        if step <= 3:
            first.update(step)
            later.load(first.tensors)
        else:
            later.update(step)
    assert all(torch.equal(each, later.tensors[name]) for name, each in whole.tensors.items())
    assert not torch.equal(first.tensors["weight"], later.tensors["weight"])


def test_an_average_of_others_is_refused() -> None:
    average = TailAverage(nn.Linear(3, 2), 0.2)
    with pytest.raises(ValueError, match=r"an average of other parameters, for example bias"):
        average.load({"weight": torch.zeros(2, 3)})


def test_only_what_trains_is_averaged() -> None:
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    average = average_of(model, TrainingSettings(averaging="tail"))
    assert average is not None
    average.update(1)
    assert set(average.tensors) == {"weight"}
    assert average_of(model, TrainingSettings()) is None
