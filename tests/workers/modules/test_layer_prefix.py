from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, TaskType, get_peft_config, get_peft_model
from torch import nn

from autopeft.search_spaces.method import get_method
from autopeft.workers.injection import known_warnings
from autopeft.workers.modules import parts_of
from autopeft.workers.modules.layer_prefix import (
    LayerPrefix,
    LayerPrefixConfig,
    LayerPrefixLayer,
    attend,
)
from tests.workers import families
from tests.workers.modules.building import base_of, injected, module_of, run, shape_of, wrapped

LENGTH = 3
METHOD = get_method("layer-prefix")


def prefixed(family: str, *, implementation: str = "eager", **settings: Any) -> Any:
    shape = shape_of(family)
    module = module_of("layer-prefix", shape, prefix_length=LENGTH, **settings)
    if shape.head_paths and not family.endswith("bert"):
        model = wrapped(family, get_peft_config(dict(METHOD.peft_config(shape, module))))
    else:
        model = injected(family, module)
    for module in model.modules():
        if "layer_prefix_block" in module._modules:
            module.config._attn_implementation = f"autopeft_prefix_{implementation}"
    return model


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize(
    ("family", "task"), [("bert", TaskType.SEQ_CLS), ("llama", TaskType.CAUSAL_LM)]
)
def test_equals_the_prefix_tuning_of_peft(family: str, task: TaskType, implementation: str) -> None:
    """PEFT moves the text by the length of the prefix; positions are given here to do the same."""
    shape, ours = shape_of(family), prefixed(family, implementation=implementation)
    config = PrefixTuningConfig(
        task_type=task,
        num_virtual_tokens=LENGTH,
        num_layers=shape.num_layers,
        num_attention_heads=shape.num_key_value_heads,
        token_dim=shape.num_key_value_heads * shape.head_size,
        num_transformer_submodules=1,
    )
    with known_warnings():
        theirs = get_peft_model(base_of(family), config).eval()
    rows: list[torch.Tensor] = []
    for _, part in parts_of(ours, LayerPrefix):
        rows += [part.keys, part.values]
    # Of each virtual token: key and value of each layer, head by head.
    embedded = torch.stack(rows).permute(2, 0, 1, 3).reshape(LENGTH, -1)
    theirs.prompt_encoder["default"].embedding.weight.data.copy_(embedded)
    if shape.head_paths:
        head = ours.get_base_model().classifier.modules_to_save["default"]
        theirs.classifier.modules_to_save["default"].load_state_dict(head.state_dict())
    tokens = families.inputs(family)["input_ids"].shape[1]
    positions = torch.arange(LENGTH, LENGTH + tokens)[None]

    found = run(ours, family, position_ids=positions)

    torch.testing.assert_close(found, run(theirs, family), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(
    "family", ["bert", "llama", "gpt2", "modernbert", "t5", "vit", "mixtral", "distilbert"]
)
def test_both_attention_functions_agree(family: str, gated: bool) -> None:
    eager = prefixed(family, implementation="eager", gated=gated)
    found = run(prefixed(family, implementation="sdpa", gated=gated), family)

    torch.testing.assert_close(found, run(eager, family), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_no_token_sees_the_ones_behind_it(family: str, gated: bool, implementation: str) -> None:
    model = prefixed(family, implementation=implementation, gated=gated)
    batch = families.inputs(family)
    name = "decoder_input_ids" if family == "t5" else "input_ids"
    changed = {**batch, name: batch[name].clone()}
    changed[name][:, -1] = 7
    with torch.no_grad():
        one, other = model(**batch).logits, model(**changed).logits

    torch.testing.assert_close(one[:, :-1], other[:, :-1])
    assert (one[:, -1] - other[:, -1]).abs().max() > 1e-4


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_padding_is_not_seen(implementation: str) -> None:
    model = prefixed("bert", implementation=implementation)
    batch = families.inputs("bert")
    mask = batch["attention_mask"].clone()
    mask[:, -2:] = 0
    with torch.no_grad():
        padded = model(input_ids=batch["input_ids"], attention_mask=mask).logits
        short = model(input_ids=batch["input_ids"][:, :-2]).logits

    torch.testing.assert_close(padded, short, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_generation_with_a_cache_equals_generation_without(
    implementation: str, gated: bool
) -> None:
    model = prefixed("llama", implementation=implementation, gated=gated)
    batch = families.inputs("llama")
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}

    with torch.no_grad():
        cached = model.generate(**batch, use_cache=True, **options)
        plain = model.generate(**batch, use_cache=False, **options)

    assert cached.shape == (2, 11)
    assert torch.equal(cached, plain)


class Attention(nn.Module):
    is_causal = False


def by_hand(
    part: LayerPrefix, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, x: torch.Tensor
) -> torch.Tensor:
    """Attend token by token in float64, two query heads to each key-value head."""
    batch, heads, length, size = query.shape
    found = torch.empty(batch, length, heads, size, dtype=torch.float64)
    for b in range(batch):
        for h in range(heads):
            for t in range(length):
                gate = 1.0
                if part.gate is not None:
                    linear = part.gate.linear
                    score = float(x[b, t] @ linear.weight[0] + linear.bias[0])
                    gate = 1 / (1 + math.exp(-score))
                keys = torch.cat([gate * part.keys[h // 2], key[b, h // 2]])
                values = torch.cat([gate * part.values[h // 2], value[b, h // 2]])
                weights = torch.softmax(keys @ query[b, h, t] / math.sqrt(size), dim=0)
                found[b, t, h] = weights @ values
    return found


@pytest.mark.parametrize("gated", [False, True])
def test_formula(gated: bool) -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    module = Attention()
    module.num_key_value_groups = 2  # type: ignore[assignment]
    config = LayerPrefixConfig(
        target_modules=["attention"],
        prefix_length=LENGTH,
        num_key_value_heads=2,
        head_size=4,
        width=16,
        gated=gated,
    )
    part = LayerPrefix(module, config, "attention", {}).double()
    if part.gate is not None:
        part.gate.linear.weight.data.copy_(drawn(1, 16))
    holder = LayerPrefixLayer("layer_prefix_part", module)
    module.layer_prefix_block = holder
    holder.add_part("default", part, module)
    x, query = drawn(2, 5, 16), drawn(2, 4, 5, 4)
    key, value = drawn(2, 2, 5, 4), drawn(2, 2, 5, 4)
    holder.enter(x)

    with torch.no_grad():
        found, _ = attend("sdpa", module, query, key, value, None, scaling=0.5)
        expected = by_hand(part, query, key, value, x)

    # The gated softmax is taken in float32, as transformers takes it.
    rtol, atol = (1e-5, 1e-6) if gated else (1e-10, 1e-12)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


def test_single_layers_can_be_chosen() -> None:
    model = injected("bert", module_of("layer-prefix", shape_of("bert"), layers=(1,)))

    paths = [path for path, _ in parts_of(model, LayerPrefix)]
    assert paths == ["bert.encoder.layer.1.attention.self.layer_prefix_block"]


def test_model_whose_attention_is_fixed_is_left_out() -> None:
    assert "cannot be exchanged" in (METHOD.unavailable(shape_of("deberta-v2")) or "")


def test_other_attention_functions_are_refused() -> None:
    base = base_of("bert")
    base.config._attn_implementation = "flex_attention"
    config = LayerPrefixConfig(target_modules=r".*attention\.self", num_key_value_heads=4)
    with pytest.raises(
        ValueError, match=r"works with the attention sdpa or eager, .*flex_attention"
    ):
        get_peft_model(base, config)


def test_the_model_below_keeps_its_own_attention() -> None:
    base = base_of("bert")
    before = base.config._attn_implementation
    prefixed("bert")

    assert base.config._attn_implementation == before == "eager"
