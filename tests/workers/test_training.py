from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from autopeft.records import ModelShape
from autopeft.workers.adapter_tensors import trainable_parameters
from autopeft.workers.data.batches import collate
from autopeft.workers.dataset import EncodedSplit, Field
from autopeft.workers.injection import inject
from autopeft.workers.optimizers import (
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
)
from autopeft.workers.settings import TrainingSettings
from autopeft.workers.tasks.classification import Classification
from autopeft.workers.training import (
    DivergedError,
    evaluate,
    train_segment,
)
from autopeft.workers.worker import WorkerPlan
from tests.workers import tiny

TASK = Classification()
SETTINGS = TrainingSettings(batch_size=8, steps=10, warmup_fraction=0.2)


def train(
    model: Any, optimizer: Any, plan: WorkerPlan, start: int, end: int, **other: Any
) -> float:
    arguments = {"learning_rate": 0.02, "seed": 3, **other}
    return train_segment(
        model,
        optimizer,
        plan.data.train,
        Classification(),
        SETTINGS,
        from_step=start,
        to_step=end,
        pad_token_id=0,
        **arguments,
    )


def test_only_weight_matrices_decay(tiny_base: Any, tiny_shape: ModelShape) -> None:
    model = inject(tiny_base, tiny.configuration("mixture-with-prefix"), tiny_shape, 1)
    settings = SETTINGS.model_copy(update={"weight_decay": 0.1})
    decaying, kept = make_optimizer(model, 0.01, settings).param_groups
    names = {id(p): name for name, p in trainable_parameters(model).items()}
    decaying_names = {names[id(p)] for p in decaying["params"]}
    kept_names = {names[id(p)] for p in kept["params"]}

    assert (decaying["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert decaying_names | kept_names == set(names.values())
    assert all(name.endswith("weight") for name in decaying_names)
    assert all(
        "ia3_l" in name or "magnitude" in name or name.endswith("bias") for name in kept_names
    )


@pytest.mark.parametrize("name", tiny.CONFIGURATIONS)
def test_segments_equal_one_go_bit_for_bit(
    name: str, tiny_base: Any, tiny_shape: ModelShape, tiny_plan: WorkerPlan
) -> None:
    chosen = tiny.configuration(name)
    whole = inject(tiny_base, chosen, tiny_shape, 3)
    optimizer = make_optimizer(whole, 0.02, SETTINGS)
    train(whole, optimizer, tiny_plan, 0, 10)

    first = inject(tiny_base, chosen, tiny_shape, 3)
    first_optimizer = make_optimizer(first, 0.02, SETTINGS)
    train(first, first_optimizer, tiny_plan, 0, 4)
    torch.rand(5)  # what another trial would do to the global state
    second = inject(tiny_base, chosen, tiny_shape, 99)
    second_optimizer = make_optimizer(second, 0.02, SETTINGS)
    with torch.no_grad():
        for key, parameter in trainable_parameters(first).items():
            trainable_parameters(second)[key].copy_(parameter)
    load_optimizer_tensors(second, second_optimizer, optimizer_tensors(first, first_optimizer))
    train(second, second_optimizer, tiny_plan, 4, 10)

    parameters = trainable_parameters(second)
    moments = optimizer_tensors(second, second_optimizer)
    expected = optimizer_tensors(whole, optimizer)
    assert all(torch.equal(p, parameters[key]) for key, p in trainable_parameters(whole).items())
    assert moments.keys() == expected.keys()
    assert all(torch.equal(moments[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", tiny.CONFIGURATIONS)
def test_training_moves_every_trainable_parameter(
    name: str, tiny_base: Any, tiny_shape: ModelShape, tiny_plan: WorkerPlan
) -> None:
    model = inject(tiny_base, tiny.configuration(name), tiny_shape, 3)
    before = {key: p.detach().clone() for key, p in trainable_parameters(model).items()}
    train(model, make_optimizer(model, 0.02, SETTINGS), tiny_plan, 0, 4)

    still = [key for key, p in trainable_parameters(model).items() if torch.equal(p, before[key])]
    assert still == []


def test_training_learns_a_word(
    tiny_base: Any, tiny_shape: ModelShape, tiny_plan: WorkerPlan
) -> None:
    model = inject(tiny_base, tiny.configuration("lora"), tiny_shape, 3)
    optimizer = make_optimizer(model, 0.02, SETTINGS)
    first = train(model, optimizer, tiny_plan, 0, 2)
    later = [train(model, optimizer, tiny_plan, start, 10) for start in (2, 0, 0, 0, 0, 0)]

    assert later[-1] < 0.7 * first


def test_dropout_differs_between_steps_and_seeds(
    tiny_base: Any, tiny_shape: ModelShape, tiny_plan: WorkerPlan
) -> None:
    losses = []
    for seed, step in ((3, 0), (3, 0), (4, 0), (3, 5)):
        model = inject(tiny_base, tiny.configuration("lora"), tiny_shape, 3)
        optimizer = make_optimizer(model, 0.02, SETTINGS)
        # One row only, so that the batch is the same and dropout is all that differs.
        split = first_rows(tiny_plan.data.train, 1)
        losses.append(
            train_segment(
                model,
                optimizer,
                split,
                Classification(),
                SETTINGS,
                learning_rate=0.02,
                seed=seed,
                from_step=step,
                to_step=step + 1,
                pad_token_id=0,
            )
        )

    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def first_rows(split: EncodedSplit, num_rows: int) -> EncodedSplit:
    fields = {}
    for name, field in split.fields.items():
        assert field.offsets is not None
        end = int(field.offsets[num_rows])
        fields[name] = Field(values=field.values[:end], offsets=field.offsets[: num_rows + 1])
    return EncodedSplit(fields=fields, labels=split.labels[:num_rows])


def test_training_keeps_the_global_random_state(
    tiny_base: Any, tiny_shape: ModelShape, tiny_plan: WorkerPlan
) -> None:
    model = inject(tiny_base, tiny.configuration("lora"), tiny_shape, 3)
    state = torch.random.get_rng_state()
    train(model, make_optimizer(model, 0.02, SETTINGS), tiny_plan, 0, 2)

    assert torch.equal(torch.random.get_rng_state(), state)


def test_exploding_rate_diverges(
    tiny_base: Any, tiny_shape: ModelShape, tiny_plan: WorkerPlan
) -> None:
    model = inject(tiny_base, tiny.configuration("lora"), tiny_shape, 3)
    optimizer = make_optimizer(model, 1e38, SETTINGS)
    with pytest.raises(DivergedError, match=r"step \d+: loss .*, gradient norm"):
        train(model, optimizer, tiny_plan, 0, 10, learning_rate=1e38)


def test_infinite_outputs_diverge(
    tiny_base: Any, tiny_shape: ModelShape, tiny_plan: WorkerPlan
) -> None:
    model = inject(tiny_base, tiny.configuration("head"), tiny_shape, 3)
    with torch.no_grad():
        next(iter(trainable_parameters(model).values())).fill_(math.inf)
    with pytest.raises(DivergedError, match="not finite"):
        evaluate(model, tiny_plan.data.validation, TASK, batch_size=8, pad_token_id=0)


def test_optimizer_state_of_other_parameters_is_refused(
    tiny_base: Any, tiny_shape: ModelShape, tiny_plan: WorkerPlan
) -> None:
    lora = inject(tiny_base, tiny.configuration("lora"), tiny_shape, 3)
    optimizer = make_optimizer(lora, 0.02, SETTINGS)
    train(lora, optimizer, tiny_plan, 0, 1)
    ia3 = inject(tiny_base, tiny.configuration("ia3"), tiny_shape, 3)
    with pytest.raises(ValueError, match="optimiser state of other parameters"):
        load_optimizer_tensors(
            ia3, make_optimizer(ia3, 0.02, SETTINGS), optimizer_tensors(lora, optimizer)
        )


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_evaluation_returns_row_order(
    batch_size: int, tiny_base: Any, tiny_shape: ModelShape, tiny_plan: WorkerPlan
) -> None:
    model = inject(tiny_base, tiny.configuration("lora"), tiny_shape, 3).eval()
    split = tiny_plan.data.validation
    outputs = evaluate(model, split, TASK, batch_size=batch_size, pad_token_id=0)
    rows = []
    with torch.no_grad():
        for row in range(len(split)):
            batch = collate(split, np.array([row]), 0)
            tensors = {key: torch.from_numpy(batch[key]) for key in batch if key != "labels"}
            rows.append(model(**tensors).logits[0].numpy())

    assert outputs.shape == (23, 3)
    assert outputs.dtype == np.float32
    np.testing.assert_allclose(outputs, np.array(rows), atol=1e-5)


def test_evaluation_leaves_no_dropout(
    tiny_base: Any, tiny_shape: ModelShape, tiny_plan: WorkerPlan
) -> None:
    model = inject(tiny_base, tiny.configuration("lora"), tiny_shape, 3).train()
    one, two = (
        evaluate(model, tiny_plan.data.validation, TASK, batch_size=8, pad_token_id=0)
        for _ in range(2)
    )

    assert np.array_equal(one, two)


def test_no_step_has_no_loss(tiny_base: Any, tiny_shape: ModelShape, tiny_plan: WorkerPlan) -> None:
    model = inject(tiny_base, tiny.configuration("lora"), tiny_shape, 3)

    assert train(model, make_optimizer(model, 0.02, SETTINGS), tiny_plan, 4, 4) == 0.0
