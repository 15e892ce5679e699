"""Attention on the meta device that keeps what the device's own kernel would keep.

``scaled_dot_product_attention`` chooses a kernel by device, and on the meta device it chooses
the unfused one. The choice is made here as torch 2.13 makes it on the device that trains:

==========  ==================  ========================================================
device      attention dropout   kept for the backward pass, besides query, key and value
==========  ==================  ========================================================
``cpu``     yes                 unfused: the ``tokens x tokens`` weights of every head
``cpu``     no                  fused: output, log-sum-exp, the mask
``cuda``    either              fused (memory-efficient): output, log-sum-exp, the mask
==========  ==================  ========================================================

Batches are padded, so fused kernels keep a mask ``b x 1 x queries x keys`` in the model's dtype.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

Device = Literal["cpu", "cuda"]


def use_attention_of(model: Any, device: Device) -> None:
    """Make a transformers model on the meta device keep what ``device`` would keep.

    A model that was not built with ``sdpa`` attention keeps its own.
    """
    from transformers import AttentionInterface

    if model.config._attn_implementation != "sdpa":
        return
    name = f"autopeft_memory_{device}"
    AttentionInterface.register(name, _attention_on_cpu if device == "cpu" else _attention_on_cuda)
    model.config._attn_implementation = name


def _attention_on_cpu(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Compute ``b x heads x tokens x head_size`` attention, given back as ``b x tokens x ...``."""
    key, value = _repeated(module, key), _repeated(module, value)
    if dropout > 0.0:
        output = F.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, scale=scaling
        )
    else:
        output = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, False, attn_mask=_mask(query, key), scale=scaling
        )[0]
    return output.transpose(1, 2).contiguous(), None


def _attention_on_cuda(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    key, value = _repeated(module, key), _repeated(module, value)
    mask = _mask(query, key).expand(-1, query.shape[1], -1, -1)
    output = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, True, dropout, False, scale=scaling
    )[0]
    return output.transpose(1, 2).contiguous(), None


def _mask(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return query.new_empty((query.shape[0], 1, query.shape[2], key.shape[2]))


def _repeated(module: nn.Module, heads: torch.Tensor) -> torch.Tensor:
    """Copy key or value heads to one for each query head, as masked ``sdpa`` attention does."""
    groups = getattr(module, "num_key_value_groups", 1)
    return heads if groups == 1 else heads.repeat_interleave(groups, dim=1)
