"""Activations in 4 bits: what is packed, what it takes, and what it does to gradients."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.workers.adapter_tensors import trainable_parameters
from autopeft.workers.gradient_checkpointing import checkpoint_layers
from autopeft.workers.injection import inject
from autopeft.workers.memory.accounting import SavedStorages
from autopeft.workers.models import auto_class
from autopeft.workers.saved_activations import (
    BLOCK,
    is_packing,
    keep_in_4_bits,
    kept_in_4_bits,
    pack,
    unpack,
)
from autopeft.workers.shapes import shape_from_config
from tests.workers.memory import real_steps

WIDTH = 128
ROWS = 6
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(dtype)


class TestPacking:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("shape", [(4, BLOCK), (2, 3, 5 * BLOCK), (3, 7), (1, BLOCK + 1)])
    def test_every_number_is_off_by_half_a_step_at_most(
        self, shape: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        tensor = 3.0 * numbers(*shape, dtype=dtype) + 1.0
        packed = pack(tensor)
        back = unpack(packed)
        assert (back.shape, back.dtype) == (tensor.shape, dtype)
        step = packed.step.double().expand(-1, BLOCK).reshape(-1)[: tensor.numel()]
        off = (back.double() - tensor.double()).abs().reshape(-1)
        rounding = 4 * torch.finfo(dtype).eps * tensor.double().abs().max()
        assert (off <= step / 2 + rounding).all()
        assert off.max() > 0

    @pytest.mark.parametrize(
        ("dtype", "bits"),
        [(torch.float64, 6.0), (torch.float32, 5.0), (torch.bfloat16, 4.5), (torch.float16, 4.5)],
        ids=str,
    )
    def test_bits_of_a_number(self, dtype: torch.dtype, bits: float) -> None:
        packed = pack(numbers(8, 4 * BLOCK, dtype=dtype))
        assert packed.pairs.dtype == torch.uint8
        assert 8 * packed.nbytes / (8 * 4 * BLOCK) == bits

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_sixteen_even_levels_come_back_as_they_were(self, dtype: torch.dtype) -> None:
        tensor = (torch.arange(2 * BLOCK) % 16 - 4).to(dtype).view(2, BLOCK)
        assert torch.equal(unpack(pack(tensor)), tensor)

    @pytest.mark.parametrize("value", [0.0, -2.5, 1e-30])
    def test_a_constant_comes_back(self, value: float) -> None:
        tensor = torch.full((2, BLOCK), value)
        assert torch.equal(unpack(pack(tensor)), tensor)

    def test_the_same_tensor_gives_the_same_bits(self) -> None:
        one, other = pack(numbers(4, WIDTH)), pack(numbers(4, WIDTH))
        assert torch.equal(one.pairs, other.pairs)
        assert torch.equal(one.step, other.step)

    def test_a_transposed_tensor(self) -> None:
        tensor = numbers(BLOCK, 8)
        assert torch.equal(unpack(pack(tensor.T)), unpack(pack(tensor.T.contiguous())))

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_what_is_not_finite_stays_in_its_block(self, value: float) -> None:
        tensor = numbers(3, BLOCK)
        tensor[1, 5] = value
        back = unpack(pack(tensor))
        assert not back[1].isfinite().all()
        assert back[[0, 2]].isfinite().all()

    def test_on_the_meta_device(self) -> None:
        packed = pack(torch.empty(3, 5, WIDTH, device="meta"))
        assert packed.nbytes == 5 * (3 * 5 * WIDTH) // 8
        assert unpack(packed).shape == (3, 5, WIDTH)


def saved_by(module: nn.Module, width: int = WIDTH) -> tuple[int, int]:
    """Return the bytes that a module saves in full, and in 4 bits."""
    module.requires_grad_(False)
    full = bytes_saved(module, width)
    with kept_in_4_bits(module):
        return full, bytes_saved(module, width)


def bytes_saved(module: nn.Module, width: int = WIDTH) -> int:
    """Return what autograd keeps of one call."""
    saved = SavedStorages(module)
    with saved:
        _result = module(numbers(ROWS, width).requires_grad_(True) * 1.0)
        return saved.num_bytes()


def norms() -> dict[str, nn.Module]:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.t5.modeling_t5 import T5LayerNorm

    return {
        "layer": nn.LayerNorm(WIDTH),
        "rms": nn.RMSNorm(WIDTH),
        "group": nn.GroupNorm(2, WIDTH),
        "llama": LlamaRMSNorm(WIDTH),
        "t5": T5LayerNorm(WIDTH),
    }


@pytest.mark.parametrize("name", ["layer", "rms", "group", "llama", "t5"])
def test_a_normalisation_keeps_its_input_in_5_bits_and_its_statistics_in_full(name: str) -> None:
    full, packed = saved_by(norms()[name])
    statistics = full - 4 * ROWS * WIDTH
    assert 0 < statistics <= 2 * 4 * 2 * ROWS
    assert packed == 5 * ROWS * WIDTH // 8 + statistics


@pytest.mark.parametrize(
    ("name", "num_saved"),
    [("gelu", 1), ("silu", 1), ("gelu_pytorch_tanh", 1), ("quick_gelu", 2), ("leaky_relu", 1)],
)
def test_an_activation_function_keeps_5_bits(name: str, num_saved: int) -> None:
    from transformers.activations import ACT2FN

    full, packed = saved_by(ACT2FN[name])
    assert full == 4 * num_saved * ROWS * WIDTH
    assert packed == 5 * num_saved * ROWS * WIDTH // 8


def test_one_that_computes_in_steps_keeps_each_tensor_once() -> None:
    from transformers.activations import ACT2FN

    full, packed = saved_by(ACT2FN["gelu_new"])
    assert full > 2 * 4 * ROWS * WIDTH
    assert packed == full * 5 // 32


@pytest.mark.parametrize(
    "module",
    [nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.Softmax(-1), nn.Linear(WIDTH, WIDTH), nn.Dropout(0.5)],
    ids=lambda module: type(module).__name__,
)
def test_what_is_left_alone(module: nn.Module) -> None:
    full, packed = saved_by(module)
    assert packed == full


def llama_mlp() -> Any:
    from transformers.models.llama.modeling_llama import LlamaMLP

    return LlamaMLP(real_steps.llama(hidden_size=WIDTH, intermediate_size=2 * WIDTH))


def test_a_gated_block_keeps_all_three_factors_small() -> None:
    full, packed = saved_by(llama_mlp())
    assert full == 3 * 4 * ROWS * 2 * WIDTH
    assert packed == full * 5 // 32


def test_what_trained_layers_of_a_gated_block_take_in_is_exact() -> None:
    block = llama_mlp()
    gradients = []
    for _ in range(2):
        block.zero_grad(set_to_none=True)
        block(numbers(ROWS, WIDTH)).sum().backward()
        gradients.append(block.down_proj.weight.grad.clone())
        keep_in_4_bits(block)
    assert torch.equal(gradients[0], gradients[1])


def test_an_input_that_two_passes_share_is_not_kept_alive() -> None:
    norm = nn.LayerNorm(WIDTH)
    norm.requires_grad_(False)
    keep_in_4_bits(norm)
    given = numbers(ROWS, WIDTH).requires_grad_(True) * 1.0
    storage = weakref.ref(given.untyped_storage())
    result = norm(given)
    gc.disable()
    try:
        del given
        assert storage() is None, "only what it was packed into is left"
    finally:
        gc.enable()
    result.sum().backward()


def test_hooks_end_with_the_module_that_raises() -> None:
    class Broken(nn.LayerNorm):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("broken")

    Broken.__name__ = "BrokenNorm"
    norm = Broken(WIDTH)
    with kept_in_4_bits(norm), pytest.raises(RuntimeError, match="broken"):
        norm(numbers(ROWS, WIDTH))
    assert torch._C._autograd._top_saved_tensors_default_hooks(False) is None


def test_afterwards_all_is_as_before() -> None:
    norm = nn.LayerNorm(WIDTH).requires_grad_(False)
    full = bytes_saved(norm)
    handles = keep_in_4_bits(norm)
    assert bytes_saved(norm) < full
    for handle in handles:
        handle.remove()
    assert bytes_saved(norm) == full
    assert not is_packing()


def make(kind: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """Return a small model with LoRA whose second matrices are not zero, and a batch."""
    config, task = {
        "bert": (real_steps.bert(), "classification"),
        "llama": (real_steps.llama(hidden_size=64, intermediate_size=128), "causal-lm"),
    }[kind]
    shape = shape_from_config(config, "small", task=task)
    settings = {"rank": 4, "alpha_ratio": 2.0, "dora": False, "rslora": False}
    module = Module.of("lora", (0, 1), sites=("q", "v", "ffn_in", "ffn_out"), **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = auto_class(task).from_config(config).requires_grad_(False)
        base.name_or_path = shape.name
        model = inject(base, Configuration(modules=(module,), learning_rate=1e-3), shape).train()
        for name, parameter in trainable_parameters(model).items():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
    batch = real_steps.padded_batch(task)
    return model, {name: torch.from_numpy(array) for name, array in batch.items()}


def loss_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        loss: torch.Tensor = model(**batch).loss
    return loss


def gradient(model: Any, batch: dict[str, torch.Tensor]) -> tuple[float, torch.Tensor]:
    """Return the loss and all gradients in one vector."""
    model.zero_grad(set_to_none=True)
    with torch.random.fork_rng(devices=[]):
        loss = loss_of(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in trainable_parameters(model).values()]
    return loss.item(), torch.cat([each.reshape(-1) for each in gradients if each is not None])


@pytest.mark.parametrize("kind", ["bert", "llama"])
class TestModels:
    def test_the_forward_pass_is_the_same_and_gradients_come_near(self, kind: str) -> None:
        model, batch = make(kind)
        loss, exact = gradient(model, batch)
        with kept_in_4_bits(model):
            same, near = gradient(model, batch)
        assert same == loss
        off = (near - exact).norm() / exact.norm()
        assert 0 < off < 0.15

    def test_checkpointing_gives_the_same_gradients_to_the_bit(self, kind: str) -> None:
        model, batch = make(kind)
        with kept_in_4_bits(model):
            _, plain = gradient(model, batch)
        checkpoint_layers(model)
        with kept_in_4_bits(model):
            _, twice = gradient(model, batch)
        assert torch.equal(plain, twice)
        assert torch._C._autograd._top_saved_tensors_default_hooks(False) is None

    def test_training_learns_as_much(self, kind: str) -> None:
        falls = []
        for is_packed in (False, True):
            model, batch = make(kind)
            if is_packed:
                keep_in_4_bits(model)
            optimizer = torch.optim.AdamW(trainable_parameters(model).values(), lr=3e-3)
            losses = []
            for _ in range(20):
                losses.append(gradient(model, batch)[0])
                optimizer.step()
            falls.append(losses[0] - losses[-1])
        full, packed = falls
        assert full > 0.2
        assert packed == pytest.approx(full, rel=0.1)
        assert packed != full
