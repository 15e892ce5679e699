"""The contract of ``Method``: every registered method on tiny models of several families."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file

from autopeft.search_spaces.method import get_method
from autopeft.workers.adapter_tensors import adapter_tensors, fill_adapter, trainable_parameters
from autopeft.workers.injection import inject, known_warnings
from tests.methods import cases
from tests.methods.exceptions import (
    DEFAULT_MERGE_TOLERANCE,
    DEFAULT_START_TOLERANCE,
    MERGE_TOLERANCE,
    NO_GRADIENT,
    START_TOLERANCE,
    ZERO_GRADIENT,
)


@pytest.fixture(scope="module", params=cases.all_cases(), ids=str)
def run(request: pytest.FixtureRequest) -> cases.Run:
    """Return a case that has been trained for a few steps; no test may change it."""
    return cases.run_of(request.param)


def head_names(run: cases.Run) -> set[str]:
    paths = run.shape.head_paths
    return {name for name in run.trained_names if any(f".{path}." in f".{name}" for path in paths)}


def test_count_from_shapes_is_what_trains(run: cases.Run) -> None:
    counted = get_method(run.case.method).num_parameters(run.shape, run.case.module)

    assert run.num_trained == counted + run.shape.num_head_parameters


def test_start_is_the_base_model_where_the_paper_says_so(run: cases.Run) -> None:
    gap = cases.distance(run.start, run.reference)

    if get_method(run.case.method).starts_as_base:
        assert gap <= START_TOLERANCE.get(run.case.method, DEFAULT_START_TOLERANCE)
    else:
        assert gap > 0


def test_exactly_its_own_parameters_and_the_head_train(run: cases.Run) -> None:
    own = set(run.trained_names) - head_names(run)
    trained = trainable_parameters(run.model)
    base = {parameter.data_ptr() for parameter in run.base.parameters()}
    head = {parameter.shape for name, parameter in trained.items() if name in head_names(run)}

    assert not base & {trained[name].data_ptr() for name in own}
    assert sum(trained[name].numel() for name in head_names(run)) == run.shape.num_head_parameters
    assert bool(head) == bool(run.shape.head_paths)


def test_each_trained_parameter_gets_a_gradient(run: cases.Run) -> None:
    absent = NO_GRADIENT.get(run.case.method, ())
    allowed = ZERO_GRADIENT.get(run.case.method, ()) + absent
    missing = [
        name
        for name, gradient in run.gradients[0].items()
        if gradient is None and not any(part in name for part in absent)
    ]
    still = [
        name
        for name, gradient in run.gradients[-1].items()
        if (gradient is None or not gradient.any()) and not any(part in name for part in allowed)
    ]

    assert not missing
    assert not still


def test_one_step_changes_the_outputs(run: cases.Run) -> None:
    assert cases.distance(run.after[0], run.start) > 1e-7
    assert torch.isfinite(run.after[-1]).all()


def test_training_leaves_the_base_as_it_was(run: cases.Run) -> None:
    assert run.base_was_left


def test_adapter_fills_a_fresh_model(run: cases.Run) -> None:
    stored = {
        group: {key: tensor.clone() for key, tensor in tensors.items()}
        for group, tensors in adapter_tensors(run.model, run.shape.head_paths).items()
    }
    fresh = inject(run.base, run.case.configuration, run.shape, 2)
    fill_adapter(fresh, run.shape.head_paths, stored)
    filled = dict(fresh.named_parameters())

    assert all(
        torch.equal(filled[name], parameter)
        for name, parameter in trainable_parameters(run.model).items()
    )
    assert torch.equal(cases.outputs(fresh, run.case.family), run.after[-1])


@pytest.fixture(scope="module")
def folder(run: cases.Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where PEFT has saved the trained adapter, without a model card."""
    if not isinstance(run.model, PeftModel):
        pytest.skip("saved as parts")
    place = tmp_path_factory.mktemp("adapter")
    with known_warnings(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(PeftModel, "create_or_update_model_card", lambda *_: None)
        run.model.save_pretrained(place, save_embedding_layers=False)
    return place


def test_plain_peft_loads_what_is_saved(run: cases.Run, folder: Path) -> None:
    with known_warnings():
        loaded = PeftModel.from_pretrained(cases.fresh_base(run.case.family), str(folder))

    assert cases.distance(cases.outputs(loaded, run.case.family), run.after[-1]) <= 1e-5


def test_file_holds_as_many_numbers_as_counted(run: cases.Run, folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    counted = get_method(run.case.method).num_saved_parameters(run.shape, run.case.module)

    assert sum(t.numel() for t in tensors.values()) == counted + run.shape.num_head_parameters


def test_merging_keeps_the_outputs(run: cases.Run) -> None:
    method = get_method(run.case.method)
    if not method.can_merge(run.shape, run.case.module):
        pytest.skip("does not merge")
    merged: Any = copy.deepcopy(run.model).merge_and_unload()
    tolerance = MERGE_TOLERANCE.get(run.case.method, DEFAULT_MERGE_TOLERANCE)

    assert cases.distance(cases.outputs(merged, run.case.family), run.after[-1]) <= tolerance
    assert not any(isinstance(module, BaseTunerLayer) for module in merged.modules())
