"""SSF, gated LoRA and MoLA against their equations."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from autopeft.search_spaces.method import get_method
from autopeft.workers.modules import parts_of
from autopeft.workers.modules.gated_lora import GatedLora, GatedLoraConfig
from autopeft.workers.modules.mola import BALANCE, Mola, MolaConfig, attach, balance
from autopeft.workers.modules.ssf import Ssf, SsfConfig
from tests.workers.modules.building import bert_base, draw, injected, module_of, run, shape_of

INPUTS, OUTPUTS = 6, 4


def around(part_class: type[nn.Module], config: Any, base: nn.Module | None = None) -> Any:
    layer = base or nn.Linear(INPUTS, OUTPUTS)
    return layer.double(), draw(part_class(layer, config, "layer", {}).double())


def inputs(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, INPUTS, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("base", [nn.Linear(INPUTS, OUTPUTS), nn.LayerNorm(INPUTS)], ids=str)
def test_ssf_and_its_merged_layer(base: nn.Module) -> None:
    layer, part = around(Ssf, SsfConfig(), base)
    draw(layer)
    x = inputs(2, 5)
    expected = part.scale * layer(x) + part.shift

    torch.testing.assert_close(part(layer, x), expected)
    weight, bias = part.merged(layer, layer.weight, layer.bias)
    merged = torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))
    torch.testing.assert_close(merged, expected)


def test_ssf_merges_where_a_bias_takes_the_shift() -> None:
    method, bert, llama, qwen = (get_method("ssf"), *map(shape_of, ("bert", "llama", "qwen2")))

    assert method.can_merge(bert, module_of("ssf", bert))
    assert not method.can_merge(llama, module_of("ssf", llama))
    assert method.can_merge(qwen, module_of("ssf", qwen, sites=("q", "v")))
    assert method.deploy_values(qwen, "merged") == {"sites": ("q", "k", "v")}
    with pytest.raises(ValueError, match="none of the model's layers has a bias"):
        method.deploy_values(llama, "merged")
    with pytest.raises(ValueError, match="vLLM"):
        method.deploy_values(qwen, "vllm")


def test_ssf_merged_into_a_whole_model() -> None:
    model = injected("bert", module_of("ssf", shape_of("bert")))
    expected = run(model, "bert")

    merged = model.merge_and_unload()

    assert not list(parts_of(merged, Ssf))
    torch.testing.assert_close(run(merged, "bert"), expected, rtol=1e-4, atol=1e-5)


def test_ssf_without_a_bias_says_so() -> None:
    layer, part = around(Ssf, SsfConfig(), nn.Linear(INPUTS, OUTPUTS, bias=False))
    with pytest.raises(ValueError, match="Linear has no bias"):
        part.merged(layer, layer.weight, None)


def test_gated_lora() -> None:
    layer, part = around(GatedLora, GatedLoraConfig(rank=2, scaling=3.0))
    x = inputs(2, 5)
    gate = 1 / (1 + torch.exp(-(x @ part.gate.linear.weight.T + part.gate.linear.bias)))
    update = x @ part.lora_A.weight.T @ part.lora_B.weight.T

    torch.testing.assert_close(part(layer, x), layer(x) + 3.0 * gate * update)


def test_counts_on_bert_base() -> None:
    shape = bert_base()
    gated = module_of("gated-lora", shape, sites=("q", "v"))
    mola = module_of("mola", shape, rank=8, sites=("q", "v"), pattern="rising", experts=5)

    count = get_method("gated-lora").num_parameters(shape, gated)
    assert count == 24 * (8 * 2 * 768 + 768 + 1)
    # 3 layers each with 2, 4, 6 and 8 experts.
    count = get_method("mola").num_parameters(shape, mola)
    assert count == 2 * 3 * (2 + 4 + 6 + 8) * (8 * 2 * 768 + 768)
    count = get_method("ssf").num_parameters(shape, module_of("ssf", shape))
    assert count == 12 * 2 * (5 * 768 + 3072)


@pytest.mark.parametrize(
    ("pattern", "mean", "expected"),
    [
        ("even", 5, [5] * 12),
        ("rising", 5, [2] * 3 + [4] * 3 + [6] * 3 + [8] * 3),
        ("falling", 5, [8] * 3 + [6] * 3 + [4] * 3 + [2] * 3),
        ("hourglass", 5, [8] * 3 + [2] * 6 + [8] * 3),
        ("middle", 5, [2] * 3 + [8] * 6 + [2] * 3),
        ("rising", 2, [2] * 9 + [3] * 3),
        ("falling", 8, [13] * 3 + [10] * 3 + [6] * 3 + [3] * 3),
    ],
)
def test_mola_gives_each_layer_its_number(pattern: str, mean: int, expected: list[int]) -> None:
    shape = bert_base()
    module = module_of("mola", shape, pattern=pattern, experts=mean, sites=("q",))
    config = get_method("mola").peft_config(shape, module)

    assert list(config["experts"].values()) == expected


def mola(experts: int = 4, top_k: int = 2) -> Any:
    return around(Mola, MolaConfig(rank=3, scaling=2.0, top_k=top_k, experts={"layer": experts}))


def test_mola() -> None:
    layer, part = mola()
    x = inputs(2, 5)
    expected = torch.empty(2, 5, OUTPUTS, dtype=torch.float64)
    for where in [(b, t) for b in range(2) for t in range(5)]:
        token = x[where]
        scores = (part.router.weight @ token).exp()
        scores = scores / scores.sum()
        best = sorted(range(4), key=lambda expert: -scores[expert])[:2]
        update = torch.zeros(OUTPUTS, dtype=torch.float64)
        for expert in best:
            rows = slice(3 * expert, 3 * expert + 3)
            low = part.lora_A.weight[rows] @ token
            share = scores[expert] / sum(scores[other] for other in best)
            update += share * (part.lora_B.weight[:, rows] @ low)
        expected[where] = layer(token) + 2.0 * update

    torch.testing.assert_close(part.eval()(layer, x), expected)


def test_mola_balances_the_load_while_it_trains() -> None:
    layer, part = mola()
    x = inputs(2, 5)
    part.eval()
    probabilities, gates = part.route(x)
    loss = part(layer, x).square().mean() + BALANCE * balance(probabilities, gates)
    expected = torch.autograd.grad(loss, list(part.parameters()))

    found = torch.autograd.grad(part.train()(layer, x).square().mean(), list(part.parameters()))

    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_balance_is_one_where_all_experts_are_used_alike() -> None:
    even = torch.full((8, 4), 0.25)
    gates = torch.eye(4).repeat(2, 1)

    assert balance(even, gates).item() == pytest.approx(1.0)
    always_first = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(8, 4)
    assert balance(always_first, always_first).item() == pytest.approx(4.0)


def test_attached_loss_reaches_its_gradient_whatever_the_value_gets() -> None:
    value = torch.zeros(3, requires_grad=True)
    loss = torch.tensor(2.0, requires_grad=True)
    torch.autograd.backward(attach(value, loss**2).sum() * 5)

    assert value.grad is not None
    assert loss.grad is not None
    assert value.grad.tolist() == [5.0] * 3
    assert loss.grad.item() == pytest.approx(4.0)


def test_lora_parts_start_as_lora_does() -> None:
    torch.manual_seed(0)
    part = GatedLora(nn.Linear(64, 64), GatedLoraConfig(rank=32), "layer", {})
    bound = math.sqrt(1 / 64)

    assert part.lora_A.weight.abs().max() <= bound
    assert part.lora_A.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    assert not part.lora_B.weight.any()
