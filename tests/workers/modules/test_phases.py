"""Methods whose positions change during training: budgets, schedules and resuming."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.workers.adapter_tensors import adapter_tensors, fill_adapter
from autopeft.workers.hooks import hooks_of
from autopeft.workers.injection import inject
from autopeft.workers.modules._framework import parts_of
from autopeft.workers.modules.lottery_ticket import (
    LotteryTicketConfig,
    LotteryTicketPart,
    last_step_of_first_phase,
)
from autopeft.workers.modules.prune_regrow import (
    CLOSED,
    OPEN,
    PruneRegrowConfig,
    PruneRegrowPart,
    update_steps,
)
from tests.workers import families
from tests.workers.modules.building import base_of, module_of, shape_of
from tests.workers.modules.parts import IN, OUT, inputs, layer_of, part_of

NUM_STEPS = 12


def trial(method: str, **settings: Any) -> tuple[Any, Configuration]:
    """Return an injected tiny BERT and its configuration."""
    module: Module = module_of(
        method, shape_of("bert"), layers=(1,), sites=("q", "ffn_out"), **settings
    )
    configuration = Configuration(modules=(module,), learning_rate=1e-2)
    return inject(base_of("bert"), configuration, shape_of("bert"), 3), configuration


def train(model: Any, configuration: Configuration, optimizer: Any, steps: range) -> None:
    """Train from one step to another; the batch and all noise depend on the step alone."""
    hooks = hooks_of(configuration)
    for step in steps:
        batch = families.inputs("bert", batch_size=4, seed=step)
        torch.manual_seed(step)
        model.train()
        model(**batch).logits.square().mean().backward()
        optimizer.step()
        hooks.after_step(model, step, NUM_STEPS)
        optimizer.zero_grad(set_to_none=True)


def optimizer_of(model: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)


SPARSE = {
    "lottery-ticket": {"density": 0.1, "first_phase": 0.5},
    "prune-regrow": {"density": 0.02, "num_updates": 2, "drop_fraction": 0.4},
}


@pytest.mark.parametrize("method", SPARSE)
@pytest.mark.parametrize("middle", [3, 6, 10])
def test_training_in_segments_equals_training_in_one_go(method: str, middle: int) -> None:
    whole, configuration = trial(method, **SPARSE[method])
    optimizer = optimizer_of(whole)
    train(whole, configuration, optimizer, range(1, middle + 1))
    paths = shape_of("bert").head_paths
    stored = {
        group: {key: tensor.clone() for key, tensor in tensors.items()}
        for group, tensors in adapter_tensors(whole, paths).items()
    }
    averages = copy.deepcopy(optimizer.state_dict())
    train(whole, configuration, optimizer, range(middle + 1, NUM_STEPS + 1))

    resumed, _ = trial(method, **SPARSE[method])
    fill_adapter(resumed, paths, stored)
    optimizer = optimizer_of(resumed)
    optimizer.load_state_dict(averages)
    train(resumed, configuration, optimizer, range(middle + 1, NUM_STEPS + 1))
    one, other = whole.state_dict(), resumed.state_dict()

    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_lottery_ticket_keeps_its_budget_in_the_second_phase() -> None:
    model, configuration = trial("lottery-ticket", **SPARSE["lottery-ticket"])
    optimizer = optimizer_of(model)
    for step in range(1, NUM_STEPS + 1):
        train(model, configuration, optimizer, range(step, step + 1))
        for _, part in parts_of(model, LotteryTicketPart):
            values = part.values.detach().flatten()
            assert int(part.phase) == (1 if step < 6 else 2)
            if step >= 6:
                outside = torch.ones_like(values).index_fill(0, part.positions.long(), 0.0)
                assert not (values * outside).any()
                assert len(part.positions) == round(0.1 * values.numel())
            if step == 6:
                assert not values.any()
    assert all(part.values.any() for _, part in parts_of(model, LotteryTicketPart))


def test_lottery_ticket_keeps_what_moved_most() -> None:
    part = part_of(LotteryTicketPart, layer_of(), LotteryTicketConfig(density=0.1))
    sizes = part.values.detach().abs().flatten()
    part.rewind()

    expected = sizes.argsort(descending=True)[: round(0.1 * IN * OUT)]
    assert set(part.positions.tolist()) == set(expected.tolist())


@pytest.mark.parametrize(
    ("first_phase", "num_steps", "expected"),
    [(0.5, 12, 6), (0.25, 96, 24), (0.25, 4, 2), (0.75, 2, 1), (0.5, 1, 0)],
)
def test_first_phase_takes_its_part_of_the_steps(
    first_phase: float, num_steps: int, expected: int
) -> None:
    assert last_step_of_first_phase(first_phase, num_steps) == expected


@pytest.mark.parametrize(
    ("num_updates", "num_steps", "expected"),
    [(2, 12, [4, 8]), (4, 100, [20, 40, 60, 80]), (16, 4, [2, 3]), (2, 1, []), (4, 2, [])],
)
def test_updates_are_spread_evenly(num_updates: int, num_steps: int, expected: list[int]) -> None:
    assert update_steps(num_updates, num_steps) == expected


def test_prune_regrow_keeps_its_budget_and_moves_at_its_updates() -> None:
    model, configuration = trial("prune-regrow", **SPARSE["prune-regrow"])
    optimizer = optimizer_of(model)
    parts = dict(parts_of(model, PruneRegrowPart))
    for step in range(1, NUM_STEPS + 1):
        before = {path: part.positions.clone() for path, part in parts.items()}
        train(model, configuration, optimizer, range(step, step + 1))
        for path, part in parts.items():
            moved = int((part.positions != before[path]).sum())
            fraction = 0.4 * (1 - step / NUM_STEPS) if step in (4, 8) else 0.0
            assert moved == round(fraction * len(part.values))
            assert len(set(part.positions.tolist())) == len(part.values)
            assert (int(part.state) == CLOSED) == (step >= 8)


def observing(part: PruneRegrowPart, layer: nn.Module, *, times: int) -> torch.Tensor:
    """Return the sum of the dense gradients of some backward passes that ``part`` sees."""
    total = torch.zeros(OUT * IN, dtype=torch.float64)
    for number in range(times):
        x = inputs(4, IN).detach() + number
        part(layer, x).sin().sum().backward()
        total += ((layer(x) + x @ part.change(part.values).T).cos().T @ x).detach().flatten()
    return total


def test_prune_regrow_gathers_the_gradients_of_the_largest_inactive_numbers() -> None:
    layer = layer_of()
    part = part_of(PruneRegrowPart, layer, PruneRegrowConfig(density=0.1))
    part.state.fill_(OPEN)
    first = observing(part, layer, times=1).index_fill(0, part.positions.long(), 0.0)
    chosen = first.abs().argsort(descending=True)[: len(part.values)]

    assert set(part.candidates.tolist()) == set(chosen.tolist())

    part.state.fill_(OPEN)
    total = observing(part, layer, times=3)

    assert torch.allclose(part.gathered, total[part.candidates.long()])
    assert int(part.state) == OPEN + 3


def test_prune_regrow_swaps_the_smallest_for_the_steepest() -> None:
    layer = layer_of()
    part = part_of(PruneRegrowPart, layer, PruneRegrowConfig(density=0.1))
    part.state.fill_(OPEN)
    observing(part, layer, times=2)
    values, positions = part.values.detach().clone(), part.positions.clone()
    smallest = values.abs().argsort()[:3]
    steepest = part.candidates[part.gathered.abs().argsort(descending=True)[:3]]
    part.move(3 / len(values))

    assert set(part.positions[smallest].tolist()) == set(steepest.tolist())
    assert not part.values[smallest].any()
    others = [slot for slot in range(len(values)) if slot not in smallest.tolist()]
    assert torch.equal(part.positions[others], positions[others])
    assert torch.equal(part.values[others], values[others])
    assert int(part.state) == CLOSED


def test_prune_regrow_gathers_nothing_while_no_window_is_open() -> None:
    layer = layer_of()
    part = part_of(PruneRegrowPart, layer, PruneRegrowConfig(density=0.1))
    observing(part, layer, times=1)
    before = part.positions.clone()
    part.move(0.5)

    assert not part.gathered.any()
    assert torch.equal(part.positions, before)


def test_density_without_room_for_candidates_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a density of 0\.6 leaves no candidates"):
        part_of(PruneRegrowPart, layer_of(), PruneRegrowConfig(density=0.6))
