"""Emulated autocast against torch's own, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from autopeft.workers.memory import autocast
from autopeft.workers.memory.accounting import LiveBytes
from autopeft.workers.memory.autocast import EmulatedAutocast, emulated_autocast
from autopeft.workers.memory.kernels import Device

HALF = torch.bfloat16
#: Operations that torch casts through those they are made of, and what it refuses.
MADE_OF_OTHERS: dict[Device, set[str]] = {"cpu": {"einsum"}, "cuda": {"cross_entropy_loss"}}
REFUSED: dict[Device, set[str]] = {"cpu": set(), "cuda": {"binary_cross_entropy"}}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_lists_hold_what_this_torch_casts(device: Device) -> None:
    key = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}[device]
    registered = {
        name.removeprefix("aten::").split(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("aten::") and torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
    }
    lists = (autocast.LOWER, autocast.FLOAT32, autocast.REDUCED_TO_FLOAT32, autocast.WIDEST)
    named = [name for each in lists for name in each[device]]
    assert len(named) == len(set(named))
    assert set(named) - MADE_OF_OTHERS[device] == registered - REFUSED[device]


def tensors(device: str) -> dict[str, torch.Tensor]:
    return {
        "x": torch.ones(4, 6, 8, device=device, requires_grad=True),
        "h": torch.ones(4, 6, 8, device=device, dtype=HALF, requires_grad=True),
        "w": torch.ones(8, 8, device=device, requires_grad=True),
        "b": torch.ones(8, device=device),
        "d": torch.ones(8, 8, device=device, dtype=torch.float64),
        "i": torch.zeros(4, device=device, dtype=torch.long),
    }


Operation = Callable[..., torch.Tensor]
OPERATIONS: dict[str, Operation] = {
    "linear": lambda x, w, b, **_: F.linear(x, w, b),
    "linear-half": lambda h, w, b, **_: F.linear(h, w, b),
    "at": lambda x, w, **_: x @ w,
    "matmul": lambda h, w, **_: torch.matmul(h, w),
    "bmm": lambda x, h, **_: torch.bmm(x, h.transpose(1, 2)),
    "addmm": lambda b, x, w, **_: torch.addmm(b, x[0], w),
    "einsum": lambda x, w, **_: torch.einsum("bij,jk->bik", x, w),
    "attention": lambda x, h, **_: F.scaled_dot_product_attention(x, h, x),
    "convolution": lambda x, w, **_: F.conv1d(x.transpose(1, 2), w[:, :, None]),
    "float64": lambda d, **_: d @ d,
    "sum-of-types": lambda x, h, **_: x + h,
    "softmax": lambda h, **_: h.softmax(-1),
    "layer-norm": lambda h, **_: F.layer_norm(h, (8,)),
    "gelu": lambda h, **_: F.gelu(h),
    "power": lambda h, **_: h**2,
    "cat": lambda x, h, **_: torch.cat([x, h]),
    "cat-of-one-type": lambda h, **_: torch.cat([h, h]),
    "cross-entropy": lambda h, i, **_: F.cross_entropy(h[:, 0], i),
    "squares": lambda h, x, **_: F.mse_loss(h, x.to(HALF)),
    "fourier": lambda h, **_: torch.fft.rfft(h).real,
    "singular-values": lambda h, **_: torch.linalg.svdvals(h[0]),
    "off": lambda x, w, **_: without(x, w),
}  # fmt: skip


def without(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", enabled=False):
        return x @ w


@pytest.mark.parametrize("name", OPERATIONS)
def test_results_have_the_types_of_the_cpu(name: str) -> None:
    with torch.autocast("cpu", HALF):
        real = OPERATIONS[name](**tensors("cpu"))
    with emulated_autocast("cpu", HALF):
        emulated = OPERATIONS[name](**tensors("meta"))
    assert emulated.dtype == real.dtype
    assert emulated.shape == real.shape


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("softmax", torch.float32),
        ("layer-norm", torch.float32),
        ("power", torch.float32),
        ("gelu", HALF),
        ("linear", HALF),
        ("cat-of-one-type", HALF),
        ("cross-entropy", torch.float32),
    ],
)
def test_cuda_computes_more_in_float32(name: str, expected: torch.dtype) -> None:
    with emulated_autocast("cuda", HALF):
        assert OPERATIONS[name](**tensors("meta")).dtype == expected


def test_cuda_adds_up_in_float32() -> None:
    values = tensors("meta")["h"]
    with emulated_autocast("cuda", HALF):
        assert values.sum(-1).dtype == torch.float32
        assert values.sum(-1, dtype=torch.float64).dtype == torch.float64
        assert torch.linalg.vector_norm(values, dim=1).dtype == torch.float32
        assert values.mean(-1).dtype == HALF


class Layers(nn.Module):
    def __init__(self, trains: bool, checkpointed: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.shared = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)
        self.first = nn.Parameter(torch.ones(16))
        self.checkpointed = checkpointed
        for parameter in self.layers.parameters():
            parameter.requires_grad_(trains)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * self.first
        for layer in self.layers:
            if self.checkpointed:
                x = checkpoint(self._layer, layer, x, use_reentrant=False)
            else:
                x = self._layer(layer, x)
        return x.float().square().mean()

    def _layer(self, layer: Any, x: torch.Tensor) -> torch.Tensor:
        # The shared weight is cast once a region; it counts once where it trains.
        hidden = F.gelu(self.shared(layer(self.norm(x))))
        return x + (hidden @ self.shared.weight) * F.softmax(hidden, -1)


def live_bytes(device: str, trains: bool, checkpointed: bool) -> tuple[int, int, int]:
    """Return what is alive after the forward pass, and the peaks of both passes."""
    with torch.device(device):
        model = Layers(trains, checkpointed)
        x = torch.ones(32, 16)
    live = LiveBytes().leave_out(model)
    emulation = EmulatedAutocast("cpu")
    with emulation, live:
        with torch.autocast("cpu", HALF):
            loss = model(x)
        forward, held = live.peak, live.now
        loss.backward()
    return held, forward, live.peak


@pytest.mark.parametrize("checkpointed", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("trains", [False, True], ids=["frozen", "trained"])
def test_as_much_is_alive_as_on_the_cpu(trains: bool, checkpointed: bool) -> None:
    real = live_bytes("cpu", trains, checkpointed)
    assert live_bytes("meta", trains, checkpointed) == real


def test_casts_of_what_trains_are_kept_until_the_region_ends() -> None:
    weight = tensors("meta")["w"]
    frozen = weight.detach()
    x = torch.ones(2, 8, device="meta")
    with EmulatedAutocast("cpu"), LiveBytes() as live:
        with torch.no_grad(), torch.autocast("cpu", HALF):
            x = x.to(HALF)
            before = live.now
            x = x @ weight
            x = x @ weight
            assert live.now - before == weight.nbytes // 2
            x = x @ frozen
            assert live.now - before == weight.nbytes // 2
        assert live.now == before


def test_nothing_is_cast_outside_of_a_region() -> None:
    x = tensors("meta")["x"]
    with EmulatedAutocast("cpu"):
        assert (x @ x.transpose(1, 2)).dtype == torch.float32
    real = torch.ones(2, 2)
    clear = torch.clear_autocast_cache
    with emulated_autocast("cuda", HALF):
        assert (real @ real).dtype == HALF, "tensors of the CPU are cast by torch itself"
        assert torch.clear_autocast_cache is not clear
    assert torch.clear_autocast_cache is clear
