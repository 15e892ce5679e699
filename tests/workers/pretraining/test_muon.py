"""Muon: orthogonal updates, of AdamW's size."""

from __future__ import annotations

import pytest
import torch

from autopeft.workers.pretraining.muon import ADAMW_RMS, Muon, orthogonalised


@pytest.mark.parametrize("shape", [(8, 8), (6, 20), (20, 6)])
def test_singular_values_come_close_to_one(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    u, values, v = torch.linalg.svd(matrices, full_matrices=False)
    found = orthogonalised(matrices)
    kept = values / values.amax(dim=1, keepdim=True) > 0.1
    made = torch.linalg.svdvals(found)
    assert ((made > 0.5) & (made < 1.3))[kept].all()
    # The singular vectors stay: u^T X v is diagonal.
    inside = u.mT @ found @ v.mT
    assert torch.allclose(inside, torch.diag_embed(inside.diagonal(dim1=1, dim2=2)), atol=1e-10)


def test_matrices_of_one_shape_do_not_mix() -> None:
    matrices = torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(1))
    alone = torch.cat([orthogonalised(matrix[None]) for matrix in matrices])
    assert torch.allclose(orthogonalised(matrices), alone, atol=1e-6)


def test_a_step_has_the_size_of_adamws() -> None:
    weight = torch.nn.Parameter(torch.zeros(32, 64))
    weight.grad = torch.randn(32, 64, generator=torch.Generator().manual_seed(2))
    Muon([weight], lr=0.1).step()
    rms = weight.detach().pow(2).mean().sqrt()
    assert rms.item() == pytest.approx(0.1 * ADAMW_RMS, rel=0.25)


def test_weights_decay_and_momentum_carries() -> None:
    weight = torch.nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    optimizer = Muon([weight], lr=0.5, weight_decay=0.2)
    optimizer.step()
    assert torch.allclose(weight, torch.full((4, 4), 0.9))
    weight.grad = torch.eye(4)
    optimizer.step()
    assert torch.allclose(optimizer.state[weight]["momentum"], 0.05 * torch.eye(4))
