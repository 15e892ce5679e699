from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, PeftType, get_peft_config, get_peft_model
from safetensors.torch import load_file
from torch import nn

from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.targets import pattern_of, placed_sites
from autopeft.workers.adapter_tensors import adapter_tensors, fill_adapter, trainable_parameters
from autopeft.workers.injection import inject
from autopeft.workers.modules import Around, Beside, dtype_of, parts_of, substituted, widths_of
from autopeft.workers.modules.ssf import Ssf
from tests.workers.modules.building import (
    base_of,
    draw,
    injected,
    module_of,
    run,
    shape_of,
    wrapped,
)
from tests.workers.modules.toy import MixConfig, MixPart, OffsetConfig, OffsetPart

QUERY = r"bert\.encoder\.layer\.[01]\.attention\.self\.query"
BLOCKS = {
    f"bert.encoder.layer.{n}.output.dense": f"bert.encoder.layer.{n}.intermediate.dense"
    for n in range(2)
}


def offset(**options: Any) -> OffsetConfig:
    return OffsetConfig(task_type="SEQ_CLS", target_modules=QUERY, **options)


def mix(inputs: bool = True) -> MixConfig:
    return MixConfig(
        task_type="SEQ_CLS",
        target_modules="|".join(end.replace(".", r"\.") for end in BLOCKS),
        width=32,
        block_inputs=BLOCKS if inputs else {},
    )


def test_part_is_wrapped_around_its_layer() -> None:
    model = wrapped("bert", offset())
    base = model.get_base_model().bert.encoder.layer[0].attention.self.query
    x = torch.randn(2, 5, 32)
    part = base.parts["default"]

    assert isinstance(base, Around)
    assert part.path == "bert.encoder.layer.0.attention.self.query"
    torch.testing.assert_close(base(x), base.base_layer(x) + 2.0 * part.offset)
    assert base.in_features == 32
    with pytest.raises(AttributeError, match="no attribute 'nothing_like_it'"):
        _ = base.nothing_like_it


def test_only_parts_and_head_train() -> None:
    model = wrapped("bert", offset())

    assert {name.split(".")[-1] for name in trainable_parameters(model)} == {
        "offset",
        "weight",
        "bias",
    }
    assert sum(p.numel() for n, p in trainable_parameters(model).items() if "offset" in n) == 64


def test_config_is_known_to_peft(tmp_path: Path) -> None:
    config = get_peft_config({"peft_type": "TOY_OFFSET", "scale": 0.5, "target_modules": QUERY})

    assert isinstance(config, OffsetConfig)
    assert config.peft_type is PeftType["TOY_OFFSET"]
    config.save_pretrained(tmp_path)
    assert type(config).from_pretrained(tmp_path) == config


@pytest.mark.parametrize("config", [offset(), mix()], ids=["layer", "block"])
@pytest.mark.parametrize("loaded_as", ["default", "another"])
@pytest.mark.parametrize("low_memory", [False, True])
def test_saved_and_loaded_by_peft(
    config: Any, loaded_as: str, low_memory: bool, tmp_path: Path
) -> None:
    model = wrapped("bert", config)
    model.save_pretrained(tmp_path, save_embedding_layers=False)

    loaded = PeftModel.from_pretrained(
        base_of("bert"), tmp_path, adapter_name=loaded_as, low_cpu_mem_usage=low_memory
    )

    torch.testing.assert_close(run(loaded, "bert"), run(model, "bert"), rtol=0, atol=0)
    assert not any("default" in key for key in load_file(tmp_path / "adapter_model.safetensors"))


def test_shared_module_is_saved_and_counted_once(tmp_path: Path) -> None:
    model = wrapped("bert", mix())
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    keys = [k for k in load_file(tmp_path / "adapter_model.safetensors") if "toy_mix" in k]
    first, second = (part for _, part in parts_of(model, MixPart))

    assert first.mix is second.mix
    assert sum("mix.weight" in key for key in keys) == 1
    assert sum(p.numel() for n, p in trainable_parameters(model).items() if "toy" in n) == 1026


def test_merging_gives_the_same_outputs_and_can_be_taken_back() -> None:
    model = wrapped("bert", offset())
    layer = model.get_base_model().bert.encoder.layer[1].attention.self.query
    expected, weight, bias = run(model, "bert"), layer.weight, layer.bias
    numbers = bias.clone()

    model.merge_adapter()
    assert layer.merged
    assert not torch.equal(layer.bias, bias)
    torch.testing.assert_close(run(model, "bert"), expected)
    model.unmerge_adapter()

    assert layer.weight is weight
    assert layer.bias is bias
    assert torch.equal(bias, numbers)
    torch.testing.assert_close(run(model, "bert"), expected, rtol=0, atol=0)
    merged = model.merge_and_unload()
    torch.testing.assert_close(run(merged, "bert"), expected)
    assert torch.equal(bias, numbers)
    assert not any(isinstance(module, Around) for module in merged.modules())


def test_merge_refuses_what_a_layer_cannot_hold() -> None:
    model = get_peft_model(base_of("llama"), OffsetConfig(target_modules=r".*q_proj"))
    with pytest.raises(ValueError, match="no bias, the merged one would need it"):
        model.merge_and_unload()


def test_merge_refuses_numbers_that_are_not_finite() -> None:
    model = wrapped("bert", offset())
    next(part for _, part in parts_of(model, OffsetPart)).offset.data.fill_(torch.inf)
    with pytest.raises(ValueError, match="not finite"):
        model.merge_and_unload(safe_merge=True)


def test_blocks_are_not_merged_but_unloaded() -> None:
    model, plain = wrapped("bert", mix()), base_of("bert")
    head = model.get_base_model().classifier.modules_to_save["default"]
    plain.classifier.load_state_dict(head.state_dict())

    with pytest.raises(ValueError, match="cannot be merged"):
        model.merge_and_unload()
    unloaded = model.unload()

    assert not any(isinstance(module, Beside) for module in unloaded.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unloaded.modules())
    unloaded.classifier = plain.classifier
    torch.testing.assert_close(run(unloaded, "bert"), run(plain, "bert"), rtol=0, atol=0)


@pytest.mark.parametrize("config", [offset(), mix()], ids=["layer", "block"])
def test_disabled_adapters_leave_the_base(config: Any) -> None:
    model = wrapped("bert", config)
    with model.disable_adapter():
        disabled = run(model, "bert")

    torch.testing.assert_close(disabled, run(base_of("bert"), "bert"), rtol=0, atol=0)
    assert (run(model, "bert") - disabled).abs().max() > 1e-3


def test_block_reads_what_enters_it() -> None:
    model = wrapped("bert", mix()).get_base_model()
    layer, x = model.bert.encoder.layer[0], torch.randn(2, 5, 32)
    part = layer.output.dense.toy_mix_block.parts["default"]

    inner = layer.intermediate(x)
    found = layer.output.dense(inner)

    plain = nn.functional.linear(inner, layer.output.dense.weight, layer.output.dense.bias)
    torch.testing.assert_close(found, plain + part.factor * part.mix(x))
    assert layer.output.dense.toy_mix_block._caught == []


def test_block_without_a_named_input_reads_its_output() -> None:
    model = wrapped("bert", mix(inputs=False)).get_base_model()
    dense, x = model.bert.encoder.layer[0].output.dense, torch.randn(2, 5, 48)
    plain = nn.functional.linear(x, dense.weight, dense.bias)
    part = dense.toy_mix_block.parts["default"]

    torch.testing.assert_close(dense(x), plain + part.factor * part.mix(plain))


def test_container_that_runs_its_children_is_refused() -> None:
    network = nn.Sequential(nn.Sequential(nn.Linear(4, 4)))
    with pytest.raises(TypeError, match="is a Sequential"):
        get_peft_model(network, MixConfig(target_modules=["0"], width=4))


def test_a_copy_of_the_model_has_hooks_of_its_own() -> None:
    model = wrapped("bert", mix())
    expected = run(model, "bert")
    copied = copy.deepcopy(model)
    for _, part in parts_of(model, MixPart):
        part.factor.data.zero_()

    torch.testing.assert_close(run(copied, "bert"), expected, rtol=0, atol=0)
    assert (run(model, "bert") - expected).abs().max() > 1e-3


def test_parts_stay_float32_over_a_bfloat16_base() -> None:
    base = base_of("bert").to(torch.bfloat16)
    for config in (offset(), mix()):
        model = get_peft_model(copy.deepcopy(base), config)

        assert {p.dtype for n, p in model.named_parameters() if "toy" in n} == {torch.float32}
        assert run(model, "bert").dtype == torch.bfloat16


def test_parts_follow_the_base_to_the_meta_device() -> None:
    model = get_peft_model(base_of("bert").to("meta"), mix())

    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


@pytest.mark.parametrize("first", ["lora", "ssf"])
def test_blocks_see_what_other_methods_do_inside_them(first: str) -> None:
    shape = shape_of("bert")
    inner = module_of(first, shape, sites=("ffn_out",))
    outer = module_of("serial-adapter", shape)
    both, alone = injected("bert", inner, outer), injected("bert", inner)
    dense = both.bert.encoder.layer[0].output.dense
    only = alone.get_base_model().bert.encoder.layer[0].output.dense
    only.load_state_dict(
        {k.replace("part_" + first, "default"): v for k, v in dense.state_dict().items()},
        strict=False,
    )
    x = torch.randn(2, 5, 48)
    adapter = dense.serial_adapter_block.parts["part_serial-adapter"].adapter

    torch.testing.assert_close(dense(x), only(x) + adapter(only(x)))


def test_five_methods_stand_together_and_are_saved_as_parts() -> None:
    shape = shape_of("bert")
    modules = [
        module_of("lora", shape, rank=2),
        module_of("ssf", shape),
        module_of("serial-adapter", shape, sites=("attention_block", "ffn_block")),
        module_of("parallel-adapter", shape),
        module_of("layer-prefix", shape, layers=(1,)),
    ]
    model = injected("bert", *modules)
    stored = {
        group: {key: tensor.clone() for key, tensor in tensors.items()}
        for group, tensors in adapter_tensors(model, shape.head_paths).items()
    }
    fresh = inject(base_of("bert"), Configuration(modules=tuple(modules), learning_rate=1), shape)
    fill_adapter(fresh.eval(), shape.head_paths, stored)

    assert set(stored) == {module.method for module in modules} | {"head"}
    assert not any("base_layer" in key for tensors in stored.values() for key in tensors)
    torch.testing.assert_close(run(fresh, "bert"), run(model, "bert"), rtol=0, atol=0)


CHECKPOINTED = [
    ("bert", "parallel-adapter", {}),
    ("bert", "layer-prefix", {}),
    ("bert", "layer-prefix", {"gated": True}),
    ("bert", "compacter", {}),
    ("llama", "serial-adapter", {"gated": True}),
    ("llama", "parallel-adapter", {}),
    ("llama", "layer-prefix", {}),
    ("llama", "mola", {}),
]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(("family", "method", "settings"), CHECKPOINTED)
def test_gradients_are_the_same_under_checkpointing(
    family: str, method: str, settings: dict[str, Any], reentrant: bool
) -> None:
    model = injected(family, module_of(method, shape_of(family), **settings)).train()

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        torch.autograd.backward(run(model, family).square().sum())
        found = {name: p.grad for name, p in trainable_parameters(model).items()}
        return {name: g.clone() for name, g in found.items() if g is not None}

    expected = gradients()
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    found = gradients()

    assert found.keys() == expected.keys() == trainable_parameters(model).keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_substituted_parameters_reach_the_innermost_layer() -> None:
    layer = wrapped("bert", offset()).get_base_model().bert.encoder.layer[0].attention.self.query
    weight = torch.randn(32, 32, requires_grad=True)
    x = torch.randn(3, 32)

    found = substituted(layer, {"weight": weight}, x)

    part = layer.parts["default"]
    torch.testing.assert_close(found, nn.functional.linear(x, weight, layer.bias) + 2 * part.offset)
    (gradient,) = torch.autograd.grad(found.sum(), weight)
    torch.testing.assert_close(gradient, x.sum(0).expand(32, 32))


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Linear(3, 5), (3, 5)),
        (nn.Conv2d(3, 5, 2), (3, 5)),
        (nn.Embedding(7, 5), (7, 5)),
        (nn.LayerNorm(5), (5, 5)),
    ],
)
def test_widths_of_layers(layer: nn.Module, expected: tuple[int, int]) -> None:
    assert widths_of(layer) == expected


def test_widths_of_a_transposed_layer() -> None:
    assert widths_of(base_of("gpt2").transformer.h[0].mlp.c_fc) == (32, 48)


def test_widths_of_something_else_are_unknown() -> None:
    with pytest.raises(TypeError, match="no widths known of a Dropout"):
        widths_of(nn.Dropout())


def test_parts_are_found_under_the_paths_of_the_model() -> None:
    model = injected(
        "bert", module_of("lora", shape_of("bert")), module_of("ssf", shape_of("bert"))
    )
    placed = placed_sites(shape_of("bert"), ("q", "ffn_norm"), (0, 1))
    pattern = pattern_of(placed)
    paths = [path for path, _ in parts_of(model, Ssf)]
    assert sum(bool(re.fullmatch(pattern, path)) for path in paths) == 4
    assert dtype_of(next(part for _, part in parts_of(model, Ssf))) == torch.float32


def test_draw_changes_every_trained_number() -> None:
    model = get_peft_model(base_of("bert"), offset())
    before = {name: p.detach().clone() for name, p in trainable_parameters(model).items()}
    draw(model)

    assert all(not torch.equal(p, before[n]) for n, p in trainable_parameters(model).items())
