"""Methods that need numbers to be built or run keep the same tensors where there are none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autopeft.search_spaces.configuration import Configuration
from autopeft.workers.injection import inject
from autopeft.workers.memory.accounting import LiveBytes
from autopeft.workers.memory.step import TrainingStep
from autopeft.workers.shapes import shape_from_config
from tests.methods import cases

BATCH_SIZE, TOKENS, VOCABULARY = 2, 32, 64
METHODS = ("adamss", "boft", "fourierft", "frod", "lily", "psoft", "shira", "vblora", "waveft")


def make_config() -> Any:
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation="eager",  # the same kernels with and without numbers
    )
    config._name_or_path = "small-llama"
    return config


def resident(model: Any) -> int:
    storages = [t.untyped_storage() for t in (*model.parameters(), *model.buffers())]
    return sum({each._cdata: each.nbytes() for each in storages}.values())


def bytes_of_step(model: Any, batch: dict[str, torch.Tensor]) -> tuple[int, int, int]:
    """Return what is held after the forward pass, the peak, and what stands there anyway."""
    live = LiveBytes().leave_out(model)
    with live:
        loss = model.train()(**batch).loss
        held = live.now
        loss.backward()
    return held, live.peak, resident(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_as_many_bytes_as_with_numbers(method: str, dtype: torch.dtype) -> None:
    from transformers import AutoModelForCausalLM

    config = make_config()
    shape = shape_from_config(config, "small-llama", "causal-lm")
    module = cases.modules_of(method, shape)["default"]
    configuration = Configuration(modules=(module,), learning_rate=0.1)
    step = TrainingStep(
        config=config,
        shape=shape,
        batch_size=BATCH_SIZE,
        tokens=TOKENS,
        task="causal-lm",
        dtype=dtype,
        device="cpu",
    )
    base = AutoModelForCausalLM.from_config(make_config()).to(dtype).requires_grad_(False)
    base.name_or_path = "small-llama"
    tokens = torch.arange(BATCH_SIZE * TOKENS).view(BATCH_SIZE, TOKENS) % VOCABULARY
    real = bytes_of_step(
        inject(base, configuration, shape), {"input_ids": tokens, "labels": tokens}
    )
    without = tokens.to("meta")
    meta = bytes_of_step(step.build(configuration), {"input_ids": without, "labels": without})

    assert meta[0] == pytest.approx(real[0], rel=0.002)  # held: nothing is missing, nothing added
    assert meta[1] == pytest.approx(real[1], rel=0.02)  # CPU kernels have temporaries of their own
    assert meta[2] == real[2]


@pytest.mark.parametrize(("device", "rows"), [("cuda", 64), ("cpu", 8)])
def test_psoft_keeps_all_directions_on_cuda_alone(device: Any, rows: int) -> None:
    config = make_config()
    shape = shape_from_config(config, "small-llama", "causal-lm")
    module = cases.modules_of("psoft", shape)["default"]
    settings = {**module.as_dict(), "rank": 8, "sites": ("q",)}
    module = type(module).of("psoft", module.layers, **settings)
    step = TrainingStep(
        config=config,
        shape=shape,
        batch_size=1,
        tokens=4,
        task="causal-lm",
        dtype=torch.float32,
        device=device,
    )
    model = step.build(Configuration(modules=(module,), learning_rate=0.1))
    kept = next(b for name, b in model.named_buffers() if "_psoft_A_cache" in name)

    assert kept.shape == (8, 64)
    assert kept.untyped_storage().nbytes() == rows * 64 * 4
