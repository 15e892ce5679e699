"""Serial, parallel, Compacter, shared and convolutional adapters against their equations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_config, get_peft_model
from torch import nn
from torch.nn import functional as F

from autopeft.search_spaces.blocks import SIZES_OF_768, sizes_for
from autopeft.search_spaces.method import get_method
from autopeft.workers.adapter_tensors import trainable_parameters
from autopeft.workers.modules import dtype_of
from autopeft.workers.modules.compacter import Compacter, CompacterConfig
from autopeft.workers.modules.conv_adapter import ConvAdapter, ConvAdapterConfig
from autopeft.workers.modules.parallel_adapter import ParallelAdapter, ParallelAdapterConfig
from autopeft.workers.modules.serial_adapter import SerialAdapter, SerialAdapterConfig
from autopeft.workers.modules.shared_adapter import SharedAdapter, SharedAdapterConfig
from tests.workers.modules.building import (
    base_of,
    bert_base,
    draw,
    module_of,
    run,
    shape_of,
    wrapped,
)

WIDTH = 8
BOTH = ("attention_block", "ffn_block")


def part_of(
    part_class: type[nn.Module], config: Any, *, path: str = "end", pool: Any = None
) -> Any:
    """Return a part in float64 with every number drawn."""
    made = part_class(nn.Linear(4, WIDTH), config, path, {} if pool is None else pool)
    return draw(made.double())


def tokens(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, WIDTH, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "function"), [("relu", torch.relu), ("gelu", F.gelu), ("silu", F.silu)]
)
def test_serial_adapter(name: str, function: Any) -> None:
    part = part_of(SerialAdapter, SerialAdapterConfig(width=WIDTH, bottleneck=3, activation=name))
    down, up = part.adapter.down, part.adapter.up
    h = tokens(0, 2, 5)

    expected = h + function(h @ down.weight.T + down.bias) @ up.weight.T + up.bias

    torch.testing.assert_close(part(h, tokens(1, 2, 5)), expected)
    assert dtype_of(part) == torch.float64


def test_gated_serial_adapter() -> None:
    config = SerialAdapterConfig(width=WIDTH, bottleneck=3, gated=True)
    part, h = part_of(SerialAdapter, config), tokens(0, 2, 5)
    gate = 1 / (1 + torch.exp(-(h @ part.gate.linear.weight.T + part.gate.linear.bias)))

    torch.testing.assert_close(part(h, h), h + gate * part.adapter(h))


def test_gate_starts_at_one_half() -> None:
    config = SerialAdapterConfig(width=WIDTH, bottleneck=3, gated=True)
    part = SerialAdapter(nn.Linear(4, WIDTH), config, "end", {})
    h = tokens(0, 2, 5).float()

    assert part.gate is not None
    assert torch.equal(part.gate(h), torch.full((2, 5, 1), 0.5))
    assert torch.equal(part(h, h), h)


def test_parallel_adapter() -> None:
    part = part_of(ParallelAdapter, ParallelAdapterConfig(width=WIDTH, bottleneck=3, scaling=4.0))
    down, up = part.adapter.down, part.adapter.up
    h, x = tokens(0, 2, 5), tokens(1, 2, 5)

    update = torch.relu(x @ down.weight.T + down.bias) @ up.weight.T + up.bias

    torch.testing.assert_close(part(h, x), h + 4.0 * update)


def test_compacter() -> None:
    part = part_of(Compacter, CompacterConfig(width=WIDTH, bottleneck=4, division=2))
    h = tokens(0, 2, 5)

    def matrix(layer: Any) -> torch.Tensor:
        terms = [
            torch.kron(rule, left @ right)
            for rule, left, right in zip(part.rule.weight, layer.left, layer.right, strict=True)
        ]
        return torch.stack(terms).sum(0)

    inner = F.gelu(h @ matrix(part.down) + part.down.bias)
    expected = h + inner @ matrix(part.up) + part.up.bias

    assert matrix(part.down).shape == (WIDTH, 4)
    torch.testing.assert_close(part(h, h), expected)


def test_compacter_shares_its_rule_between_all_adapters() -> None:
    config, pool = CompacterConfig(width=WIDTH, bottleneck=4, division=2), {}  # type: ignore[var-annotated]
    first, second = (part_of(Compacter, config, pool=pool) for _ in range(2))

    assert first.rule is second.rule
    assert [len(list(part.parameters())) for part in (first, second)] == [7, 6]


def test_compacter_refuses_what_it_cannot_divide() -> None:
    with pytest.raises(ValueError, match="8 x 3 cannot be divided by n = 2"):
        part_of(Compacter, CompacterConfig(width=WIDTH, bottleneck=3, division=2))


def test_shared_adapter() -> None:
    config = SharedAdapterConfig(width=WIDTH, bottleneck=3, adapters={"a": "x", "b": "x", "c": "y"})
    pool: dict[Any, nn.Module] = {}
    a, b, c = (part_of(SharedAdapter, config, path=path, pool=pool) for path in "abc")
    h = tokens(0, 2, 5)

    assert a.adapter is b.adapter
    assert a.adapter is not c.adapter
    for part in (a, b, c):
        down, up = part.adapter.down, part.adapter.up
        update = F.gelu(h @ down.weight.T + down.bias) @ up.weight.T + up.bias
        torch.testing.assert_close(part(h, h), h + part.factor * update)


def test_shared_adapter_splits_layers_into_even_runs() -> None:
    shape = bert_base()
    module = module_of("shared-adapter", shape, groups=3, layers=(0, 2, 4, 6, 8, 10, 11))
    adapters = get_method("shared-adapter").peft_config(shape, module)["adapters"]

    assert list(adapters.values()) == [f"ffn_block_{group}" for group in (0, 0, 0, 1, 1, 2, 2)]
    assert next(iter(adapters)) == "bert.encoder.layer.0.output.dense"


def test_convolutional_adapter_over_a_grid() -> None:
    part = part_of(ConvAdapter, ConvAdapterConfig(width=WIDTH, bottleneck=3, scaling=0.1))
    h, x = tokens(0, 2, 10), tokens(1, 2, 10)
    inner = F.gelu(x @ part.down.weight.T + part.down.bias)
    kernel, bias = part.convolution.weight, part.convolution.bias
    convolved = torch.zeros(2, 10, 3, dtype=torch.float64) + bias
    convolved[:, 0] += inner[:, 0] @ kernel[:, :, 1, 1].T
    for row in range(3):
        for column in range(3):
            for i in range(-1, 2):
                for j in range(-1, 2):
                    r, c = row + i, column + j
                    if 0 <= r < 3 and 0 <= c < 3:
                        near = inner[:, 1 + 3 * r + c] @ kernel[:, :, 1 + i, 1 + j].T
                        convolved[:, 1 + 3 * row + column] += near

    expected = h + 0.1 * (F.gelu(convolved) @ part.up.weight.T + part.up.bias)

    torch.testing.assert_close(part(h, x), expected)


def test_convolutional_adapter_along_a_row() -> None:
    config = ConvAdapterConfig(width=WIDTH, bottleneck=3, num_dimensions=1)
    part, x = part_of(ConvAdapter, config), tokens(1, 2, 6)
    inner = F.gelu(part.down(x))
    kernel = part.convolution.weight
    padded = F.pad(inner, (0, 0, 1, 1))
    rows = [
        sum(padded[:, n + i] @ kernel[:, :, i].T for i in range(3)) + part.convolution.bias
        for n in range(6)
    ]

    torch.testing.assert_close(part(x, x), x + part.up(F.gelu(torch.stack(rows, dim=1))))


def test_convolution_starts_as_the_identity() -> None:
    part = ConvAdapter(nn.Linear(4, 8), ConvAdapterConfig(width=8, bottleneck=3), "end", {})
    x = torch.randn(2, 5, 3)

    torch.testing.assert_close(part.convolve(x), x)


def test_sizes_are_those_of_autopeft_at_its_width() -> None:
    assert sizes_for(768) == SIZES_OF_768 == (1, 3, 6, 12, 24, 48, 96, 192, 384, 768)


@pytest.mark.parametrize(
    ("width", "expected"),
    [(384, (1, 2, 3, 6, 12, 24, 48, 96, 192, 384)), (32, (1, 2, 4, 8, 16, 32))],
)
def test_sizes_keep_the_fractions_at_other_widths(width: int, expected: tuple[int, ...]) -> None:
    assert sizes_for(width) == expected


def test_default_size_is_a_sixteenth_of_the_width() -> None:
    assert module_of("serial-adapter", bert_base())["bottleneck"] == 48


@pytest.mark.parametrize(
    ("method", "settings", "expected"),
    [
        # Houlsby et al., section 2.1: 2 m d + d + m an adapter, two adapters a layer.
        ("serial-adapter", {"sites": BOTH}, 24 * (2 * 48 * 768 + 768 + 48)),
        # The same after the feed-forward layer alone; with UniPELT's gate d + 1 more.
        ("serial-adapter", {}, 894_528),
        ("serial-adapter", {"gated": True}, 894_528 + 12 * 769),
        # He et al.: a bottleneck of 384 beside each feed-forward layer.
        ("parallel-adapter", {"bottleneck": 384}, 7_091_712),
        # Karimi Mahabadi et al., section 4: n^3 once; of each matrix k x d the factors k + d
        # and a bias; two matrices an adapter, of width 768 and 768/32 = 24.
        ("compacter", {}, 4**3 + 24 * (2 * (768 + 24) + 768 + 24)),
        ("compacter", {"sites": ("ffn_block",)}, 28_576),
        ("compacter", {"division": 12, "reduction": 8}, 12**3 + 24 * 3 * (768 + 96)),
        ("shared-adapter", {"groups": 3}, 3 * (2 * 48 * 768 + 768 + 48) + 12),
        ("shared-adapter", {"groups": 3, "sites": BOTH}, 6 * (2 * 48 * 768 + 768 + 48) + 24),
        # Li and Liang: keys and values of length 12, in 12 layers.
        ("layer-prefix", {}, 2 * 12 * 12 * 768),
        ("layer-prefix", {"gated": True}, 2 * 12 * 12 * 768 + 12 * 769),
    ],
)
def test_counts_on_bert_base(method: str, settings: dict[str, Any], expected: int) -> None:
    shape = bert_base()
    module = module_of(method, shape, **settings)

    assert get_method(method).num_parameters(shape, module) == expected


@pytest.mark.parametrize("method", ["serial-adapter", "parallel-adapter"])
def test_autopeft_sizes_can_be_had_on_single_layers(method: str) -> None:
    shape = bert_base()
    (bottleneck,) = (d for d in get_method(method).dimensions(shape) if d.name == "bottleneck")
    counts = {
        get_method(method).num_parameters(
            shape, module_of(method, shape, bottleneck=size, layers=(3,))
        )
        for size in bottleneck.values
    }

    # MAM's parallel adapter has a size of its own.
    sizes = {*SIZES_OF_768, *((512,) if method == "parallel-adapter" else ())}
    assert counts == {2 * size * 768 + 768 + size for size in sizes}


@pytest.mark.parametrize(
    ("method", "settings", "expected"),
    [
        ("serial-adapter", {}, 2 * 894_528),
        ("compacter", {}, 24 * 4 * 768 * 24),
        ("shared-adapter", {}, 12 * 4 * 768 * 48),
        ("layer-prefix", {}, 12 * 4 * 12 * 768),
    ],
)
def test_floating_point_operations_a_token(
    method: str, settings: dict[str, Any], expected: int
) -> None:
    shape = bert_base()
    module = module_of(method, shape, **settings)

    assert get_method(method).inference_extra_flops(shape, module) == expected


def test_convolutional_adapters_are_for_patches() -> None:
    method = get_method("conv-adapter")

    assert method.unavailable(shape_of("vit")) is None
    assert "not for classification" in (method.unavailable(shape_of("bert")) or "")
    counts = {
        family: method.num_parameters(shape_of(family), module_of("conv-adapter", shape_of(family)))
        for family in ("vit", "ast")
    }
    each = {"vit": 9, "ast": 3}
    assert counts == {
        family: 4 * (2 * 32 * 8 + 32 + 8 + kernel * 64 + 8) for family, kernel in each.items()
    }


@pytest.mark.parametrize("family", ["vit", "ast"])
def test_convolutional_adapter_in_a_model(family: str, tmp_path: Path) -> None:
    shape, method = shape_of(family), get_method("conv-adapter")
    module = module_of("conv-adapter", shape)
    config = get_peft_config(dict(method.peft_config(shape, module)))
    plain = run(base_of(family), family)

    fresh = get_peft_model(base_of(family), config)
    trained = sum(parameter.numel() for parameter in trainable_parameters(fresh).values())
    assert trained == method.num_parameters(shape, module)
    torch.testing.assert_close(run(fresh, family), plain, rtol=0, atol=0)

    model = wrapped(family, config)
    changed = run(model, family)
    torch.autograd.backward(changed.square().sum())
    assert (changed - plain).abs().max() > 1e-3
    assert all(p.grad is not None and p.grad.any() for p in trainable_parameters(model).values())
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    loaded = PeftModel.from_pretrained(base_of(family), tmp_path)
    torch.testing.assert_close(run(loaded, family), changed, rtol=0, atol=0)
