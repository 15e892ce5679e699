"""LoRA on mixtures of experts: which layers and parameters PEFT builds, keeps and reads back."""

from __future__ import annotations

import copy
import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel
from peft.utils import transformers_weight_conversion as conversion

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.search_spaces.method import get_method
from autopeft.search_spaces.methods._lora_type import RENAMED
from autopeft.workers.adapter_tensors import adapter_tensors, fill_adapter, trainable_parameters
from autopeft.workers.injection import inject, known_warnings
from autopeft.workers.shapes import shape_from_config
from tests.methods import cases
from tests.workers import families

EXPERTS = ("experts_gate_in", "experts_out")
BATCH = torch.arange(3, 15).reshape(2, 6)


@cache
def qwen3_moe() -> tuple[Any, ModelShape]:
    """Return a plain first layer and a second of experts, of a type whose names PEFT reads anew."""
    config = transformers.Qwen3MoeConfig(
        **families._DECODER,
        head_dim=families.HEAD_SIZE,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        mlp_only_layers=[0],
    )
    config._name_or_path = "tiny-qwen3-moe"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        parameter.mul_(2.0)
    return model, shape_from_config(config, "tiny-qwen3-moe", "causal-lm")


def base_and_shape(family: str) -> tuple[Any, ModelShape]:
    return qwen3_moe() if family == "qwen3-moe" else (cases.base_of(family), cases.shape_of(family))


def lora(layers: tuple[int, ...], *sites: str, method: str = "lora", **settings: Any) -> Module:
    chosen = {"rank": 2, "alpha_ratio": 2.0, **settings}
    if method == "lora":
        chosen = {"dora": False, "rslora": False, **chosen}
    return Module.of(method, layers, **chosen, sites=sites)


def built(module: Module, family: str) -> Any:
    base, shape = base_and_shape(family)
    return inject(base, Configuration(modules=(module,), learning_rate=0.1), shape)


def moved(model: Any) -> torch.Tensor:
    """Draw what trains and return the outputs."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        logits: torch.Tensor = model.eval()(input_ids=BATCH).logits
    return logits


def where(model: Any) -> set[str]:
    """Return the layers, by number and module, that something trains in."""
    return {
        name.split(".layers.")[1].split(".lora_")[0].replace(".base_layer", "")
        for name in trainable_parameters(model)
    }


@pytest.mark.parametrize("family", ["mixtral", "qwen2-moe", "qwen3-moe"])
@pytest.mark.parametrize("method", ["lora", "lora-fa", "bd-lora"])
def test_the_choice_of_layers_is_kept(method: str, family: str) -> None:
    settings = {"rank": 4, "blocks": 2} if method == "bd-lora" else {}
    model = built(lora((1,), "q", "v", method=method, **settings), family)

    assert where(model) == {"1.self_attn.q_proj", "1.self_attn.v_proj"}


@pytest.mark.parametrize("family", ["mixtral", "qwen2-moe", "qwen3-moe"])
@pytest.mark.parametrize("sites", [("experts_out",), EXPERTS, ("q", *EXPERTS)], ids="+".join)
def test_experts_are_adapted_merged_and_read_back(
    sites: tuple[str, ...], family: str, tmp_path: Path
) -> None:
    base, _ = base_and_shape(family)
    module = lora((1,), *sites)
    model = built(module, family)
    start = model.eval()(input_ids=BATCH).logits
    count = sum(parameter.numel() for parameter in trainable_parameters(model).values())
    outputs = moved(model)

    # Hu et al. 2022, section 4.2, once for each expert.
    inner = 48 if family == "mixtral" else 16
    own = {"q": 2 * (32 + 32), "experts_gate_in": 4 * 2 * (32 + 2 * inner)}
    own["experts_out"] = 4 * 2 * (inner + 32)
    assert count == sum(own[site] for site in sites)
    assert torch.equal(start, base(input_ids=BATCH).logits)
    assert not torch.allclose(outputs, start, atol=1e-3)
    assert all("1." in name[:2] for name in where(model))

    with known_warnings():
        model.save_pretrained(tmp_path, save_embedding_layers=False)
        loaded = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path))
    torch.testing.assert_close(loaded(input_ids=BATCH).logits, outputs)
    merged = copy.deepcopy(model).merge_and_unload()
    torch.testing.assert_close(merged(input_ids=BATCH).logits, outputs, rtol=1e-4, atol=1e-5)
    assert merged.state_dict().keys() == base.state_dict().keys()


def test_each_expert_gets_an_update_of_its_own() -> None:
    """Against the sum written out: expert e adds ``B_e A_e`` at alpha over rank."""
    base, _ = base_and_shape("mixtral")
    model = built(lora((1,), "experts_out"), "mixtral")
    outputs = moved(model)
    experts = model.get_submodule("base_model.model.model.layers.1.mlp.experts")
    a = experts.lora_A["default"].weight.reshape(4, 2, 48)
    b = experts.lora_B["default"].weight.reshape(32, 2, 4)
    changed = copy.deepcopy(base)
    with torch.no_grad():
        for expert in range(4):
            update = 2.0 * b[:, :, expert] @ a[expert]
            changed.model.layers[1].mlp.experts.down_proj[expert] += update

    assert not torch.allclose(outputs, base(input_ids=BATCH).logits, atol=1e-3)
    torch.testing.assert_close(changed(input_ids=BATCH).logits, outputs, rtol=1e-4, atol=1e-5)


def test_layers_with_the_names_of_experts_are_taken_as_parameters() -> None:
    _, shape = base_and_shape("qwen3-moe")
    module = lora((0, 1), "q", "ffn_gate", "ffn_out")
    config = get_method("lora").peft_config(shape, module)

    assert config["target_parameters"] == [
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
    ]
    assert where(built(module, "qwen3-moe")) == {
        *("0.self_attn.q_proj", "1.self_attn.q_proj", "0.mlp.gate_proj", "0.mlp.down_proj")
    }


def test_what_has_no_parameters_leaves_those_layers_out_and_says_so() -> None:
    _, shape = base_and_shape("qwen3-moe")
    method = get_method("bd-lora")
    (sites,) = (each for each in method.dimensions(shape) if each.name == "sites")

    assert sites.values == ("q", "k", "v", "attention_output")
    assert any("ffn_gate, ffn_in, ffn_out left out" in each for each in method.remarks(shape))


@pytest.mark.parametrize("family", ["mixtral", "qwen3-moe"])
def test_a_config_is_read_back_as_the_module_it_came_from(family: str) -> None:
    _, shape = base_and_shape(family)
    ffn = ("ffn_in",) if family == "qwen3-moe" else ()
    module = lora((0, 1), "q", *ffn, *EXPERTS)
    method = get_method("lora")

    assert type(method).from_peft_config(shape, method.peft_config(shape, module)) == module


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("all-linear", "drops the layers"),
        (r".*\.q_proj", "drops the layers"),
        (["q_proj", "w1", "w3"], "reads w1, w3 as the stacked experts"),
    ],
)
def test_a_published_config_that_peft_reads_otherwise_is_refused(
    targets: Any, message: str
) -> None:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": targets}
    with pytest.raises(ValueError, match=message):
        get_method("lora").from_peft_config(cases.shape_of("mixtral"), config)


def test_dora_is_plain_lora_where_experts_are_chosen() -> None:
    method, shape = get_method("lora"), cases.shape_of("mixtral")
    settings = lora((0,), "q", *EXPERTS, dora=True).as_dict()

    assert method.canonical(settings)["dora"] is False
    assert method.canonical({**settings, "sites": ("q",)})["dora"] is True
    assert any("no DoRA" in remark for remark in method.remarks(shape))


def test_experts_are_left_out_where_weights_are_quantised() -> None:
    shape = dataclasses.replace(cases.shape_of("mixtral"), quantization="4bit")
    (sites,) = (each for each in get_method("lora").dimensions(shape) if each.name == "sites")

    assert not set(sites.values) & set(EXPERTS)


def test_two_parameters_of_one_module_are_stored_apart_in_a_part() -> None:
    base, shape = base_and_shape("mixtral")
    modules = (Module.of("ia3", (1,), sites=("k",)), lora((1,), *EXPERTS))
    configuration = Configuration(modules=modules, learning_rate=0.1)
    model = inject(base, configuration, shape)
    outputs = moved(model)
    stored = {
        group: {key: tensor.clone() for key, tensor in tensors.items()}
        for group, tensors in adapter_tensors(model, ()).items()
    }
    fresh = inject(base, configuration, shape, 1).eval()
    fill_adapter(fresh, (), stored)

    assert torch.equal(fresh(input_ids=BATCH).logits, outputs)
    with known_warnings():
        alone = built(modules[1], "mixtral")
    assert stored["lora"].keys() == adapter_tensors(alone, ())[""].keys()


def test_types_that_peft_converts_are_all_known() -> None:
    names = conversion._MOE_TARGET_MODULE_MAPPING
    converted = {
        model_type: frozenset(names[pattern])
        for model_type, pattern in conversion._MODEL_TO_CONVERSION_PATTERN.items()
        if pattern in names and conversion.get_checkpoint_conversion_mapping(model_type) is not None
    }

    assert converted == RENAMED
