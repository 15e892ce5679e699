"""Operations that keep other tensors on the meta device than on the device that trains.

Torch chooses some kernels by device, and on the meta device it chooses the unfused ones. The
choice is made here as torch 2.13 makes it on the device that trains:

=========  ============================  ====================================================
device     operation                     kept for the backward pass, besides its inputs
=========  ============================  ====================================================
``cpu``    attention, with dropout       unfused: ``tokens x tokens`` weights of every head
``cpu``    attention, without dropout    fused: output, log-sum-exp, the mask
``cuda``   attention                     fused (memory-efficient): the same
``cpu``    dropout                       a mask in the dtype of its input
``cuda``   dropout                       a mask of one byte an element
=========  ============================  ====================================================

Batches are padded, so fused attention keeps a mask ``b x 1 x queries x keys`` in the dtype of
the queries.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

Device = Literal["cpu", "cuda"]


class _FusedDropout(nn.Dropout):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        dropped: torch.Tensor = torch.native_dropout(input, self.p, self.training)[0]
        return dropped


def use_kernels_of(model: Any, device: Device) -> None:
    """Make a transformers model on the meta device keep what ``device`` would keep.

    A model that was not built with ``sdpa`` attention keeps its own attention. The model's
    config changes with it.
    """
    from transformers import AttentionInterface, masking_utils

    if masking_utils.find_packed_sequence_indices is not _packed_indices:
        _packed_indices.below = masking_utils.find_packed_sequence_indices
        masking_utils.find_packed_sequence_indices = _packed_indices
    model.trains_on = device  # methods whose build differs by device look for it
    if device == "cuda":
        for module in model.modules():
            if type(module) is nn.Dropout:
                module.__class__ = _FusedDropout
    if model.config._attn_implementation == "sdpa":
        attention = {"cpu": _attention_on_cpu, "cuda": _attention_on_cuda}[device]
        name = f"autopeft_memory_{device}"
        AttentionInterface.register(name, attention)
        model.config._attn_implementation = name


class _PackedIndices:
    """Find packed examples by their positions; on the meta device there are none to find."""

    below: Any = None

    def __call__(self, position_ids: torch.Tensor) -> torch.Tensor | None:
        found: torch.Tensor | None = None
        if position_ids.device.type != "meta":
            found = self.below(position_ids)
        return found


_packed_indices = _PackedIndices()


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
        output = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=scaling)
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
