"""Answers from memory against what torch works out on the meta device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from autopeft.workers.memory import answers
from autopeft.workers.memory.accounting import LiveBytes
from autopeft.workers.memory.answers import QuickAnswers

OPERATIONS: dict[str, Callable[[torch.Tensor], Any]] = {
    "product": lambda x: x @ x.transpose(1, 2),
    "whole number": lambda x: x * 2,
    "fraction of integers": lambda x: x.to(torch.int64) * 0.5,
    "whole number of integers": lambda x: x.to(torch.int64) * 1,
    "normalisation": lambda x: torch.native_layer_norm(x, [4], None, None, 1e-5),
    "largest": lambda x: x.max(dim=1),
    "view": lambda x: x.transpose(1, 2)[1:],
    "in place": lambda x: x.clone().mul_(3.0),
    "split": lambda x: torch.split(x, 2, dim=2),
    "dropout": lambda x: torch.native_dropout(x, 0.5, True),
    "activation": lambda x: F.gelu(x.transpose(0, 1)),
}


def _described(result: Any) -> list[tuple[Any, ...]]:
    results = [result] if isinstance(result, torch.Tensor) else list(result)
    return [
        (r.shape, r.stride(), r.dtype, r.storage_offset(), r.untyped_storage().nbytes())
        for r in results
    ]


@pytest.mark.parametrize("name", OPERATIONS)
def test_answers_are_those_of_torch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_answers", {})
    x = torch.empty(2, 3, 4, device="meta")
    with QuickAnswers():
        _ = OPERATIONS[name](x)
        again = OPERATIONS[name](x)
    assert _described(again) == _described(OPERATIONS[name](x))


def test_views_and_changes_in_place_keep_their_storage() -> None:
    x = torch.empty(2, 3, device="meta")
    with QuickAnswers():
        for _ in range(2):
            assert x.t().untyped_storage()._cdata == x.untyped_storage()._cdata
            assert x.add_(1.0) is x


def test_numbers_on_the_cpu_are_computed() -> None:
    with QuickAnswers():
        sums = [(torch.full((2,), value) + 1.0).sum().item() for value in (1.0, 2.0)]
    assert sums == [4.0, 6.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_groups_have_sizes_and_gradients(dtype: torch.dtype) -> None:
    rows = torch.empty(24, 16, device="meta", dtype=dtype, requires_grad=True)
    matrices = torch.empty(3, 16, 8, device="meta", dtype=dtype, requires_grad=True)
    ends = torch.empty(3, device="meta", dtype=torch.int32)
    with QuickAnswers():
        product = F.grouped_mm(rows, matrices, offs=ends)
        product.sum().backward()  # type: ignore[no-untyped-call]
    assert product.shape == (24, 8)
    assert rows.grad is not None
    assert rows.grad.shape == rows.shape
    assert matrices.grad is not None
    assert matrices.grad.shape == matrices.shape


COSTLY: dict[str, Callable[[torch.Tensor], Any]] = {
    "product": lambda x: torch.bmm(x, x.transpose(1, 2)),
    "product of a transposed": lambda x: x[0].T @ x[0],
    "normalisation": lambda x: torch.native_layer_norm(x, [4], None, None, 1e-5),
    "softmax": lambda x: x.softmax(-1),
    "of a view": lambda x: F.gelu(x.transpose(0, 1)),
}


@pytest.mark.parametrize("name", COSTLY)
def test_a_step_for_its_sizes_alone_multiplies_once(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "_answers", {})
    x = torch.randn(2, 3, 4)
    expected = COSTLY[name](x)
    with LiveBytes(needs_numbers=False):
        first, second = COSTLY[name](x), COSTLY[name](x)
    for each in (first, second):
        assert _described(each) == _described(expected)
    one, two = (r if isinstance(r, torch.Tensor) else r[0] for r in (first, second))
    whole = expected if isinstance(expected, torch.Tensor) else expected[0]
    assert torch.equal(one, whole)
    assert not two.any()


def test_numbers_that_are_asked_for_are_computed() -> None:
    x = torch.randn(3, 3)
    with LiveBytes():
        results = [x @ x for _ in range(2)]
    assert all(torch.equal(result, x @ x) for result in results)
