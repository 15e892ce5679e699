"""Kernels that stand in on the meta device against the ones they stand in for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autopeft.workers.memory.accounting import SavedStorages
from autopeft.workers.memory.kernels import (
    _attention_on_cpu,
    _attention_on_cuda,
    _flash_attention,
    _FusedDropout,
)

SHAPE = (3, 4, 10, 8)
NUM_ELEMENTS = 3 * 4 * 10 * 8
FLOAT32 = 4


def heads(device: str = "meta") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    query, key, value = (torch.zeros(SHAPE, device=device, requires_grad=True) for _ in range(3))
    return query, key, value


def test_fused_attention_keeps_no_weights_of_tokens_by_tokens() -> None:
    query, key, value = heads()
    saved = SavedStorages(nn.Identity())
    with saved:
        output, _ = _attention_on_cuda(nn.Identity(), query, key, value, None, dropout=0.1)
    output_and_inputs = 4 * NUM_ELEMENTS
    mask = 3 * 10 * 10
    log_sum_exp = saved.num_bytes() // FLOAT32 - output_and_inputs - mask
    # One number a head and query, padded by the kernel to a multiple of 32 queries; the state
    # of the random generator besides.
    assert 3 * 4 * 10 <= log_sum_exp <= 3 * 4 * 32 + 8
    assert output.shape == (3, 10, 4, 8)


def test_unfused_attention_keeps_the_weights_of_every_head() -> None:
    query, key, value = heads()
    saved = SavedStorages(nn.Identity())
    with saved:
        output, _ = _attention_on_cpu(nn.Identity(), query, key, value, None, dropout=0.1)
    weights = 3 * 4 * 10 * 10
    assert saved.num_bytes() == FLOAT32 * (3 * NUM_ELEMENTS + 3 * weights)
    assert output.shape == (3, 10, 4, 8)


def test_grouped_heads_are_repeated() -> None:
    module = nn.Identity()
    module.num_key_value_groups = 2  # type: ignore[assignment]
    query, key, value = heads()
    output, _ = _attention_on_cuda(module, query, key[:, :2], value[:, :2], None)
    assert output.shape == (3, 10, 4, 8)


def test_flash_attention_keeps_no_mask_and_repeats_no_heads() -> None:
    query, key, value = heads()
    saved = SavedStorages(nn.Identity())
    with saved:
        key_of_two, value_of_two = (each[:, :2].contiguous() for each in (key, value))
        output, _ = _flash_attention(nn.Identity(), query, key_of_two, value_of_two, None)
    # Queries and output, half as many keys and values, and one number a head and query.
    assert saved.num_bytes() == FLOAT32 * (3 * NUM_ELEMENTS + 3 * 4 * 10)
    assert output.shape == (3, 10, 4, 8)
    output.sum().backward()  # type: ignore[no-untyped-call]
    assert query.grad is not None
    assert key.grad is not None


@pytest.mark.parametrize(("kind", "num_bytes"), [(nn.Dropout, 4), (_FusedDropout, 1)])
def test_dropout_mask(kind: type[nn.Dropout], num_bytes: int) -> None:
    x = torch.empty(100, device="meta", requires_grad=True)
    saved = SavedStorages(nn.Identity())
    with saved:
        y = kind(0.1)(x)
    assert saved.num_bytes() == 100 * num_bytes
    del y


def test_attention_of_the_cpu_is_what_torch_runs_there() -> None:
    """Compare what is saved with ``scaled_dot_product_attention`` on real tensors."""
    mask = torch.zeros(3, 1, 10, 10)
    query, key, value = heads("cpu")
    saved = SavedStorages(nn.Identity())
    with saved:
        output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    expected = saved.num_bytes()
    del output
    query, key, value = heads()
    saved = SavedStorages(nn.Identity())
    with saved:
        standing_in, _ = _attention_on_cpu(nn.Identity(), query, key, value, None)
    assert saved.num_bytes() == expected
    del standing_in
