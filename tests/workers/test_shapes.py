from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from autopeft.errors import ModelError
from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.method import get_method
from autopeft.search_spaces.targets import all_linear
from autopeft.workers.adapter_tensors import trainable_parameters
from autopeft.workers.injection import inject
from autopeft.workers.models import load_config, resolve_model
from autopeft.workers.settings import ModelSettings
from autopeft.workers.shapes import finding, meta_model, model_shape, shape_from_config
from autopeft.workers.shapes.stacks import find_stacks
from autopeft.workers.shapes.tracing import Trace, trace
from tests.workers import families, tiny
from tests.workers.site_tables import TABLES, table_of

ALL = tuple(families.FAMILIES)
#: Outputs of the last classifier plus, where there is one, the dense layer before it.
HEADS = {
    "bert": 32 * 3 + 3,
    "roberta": 32 * 32 + 32 + 32 * 3 + 3,
    "deberta-v2": 32 * 32 + 32 + 32 * 3 + 3,
    "distilbert": 32 * 32 + 32 + 32 * 3 + 3,
    "modernbert": 32 * 3 + 3,
    "vit": 32 * 3 + 3,
    "ast": 32 + 32 + 32 * 3 + 3,
    "clip-vision": 32 * 3 + 3,
}


@functools.cache
def shape_of(family: str, task: str | None = None) -> ModelShape:
    config = families.config_of(family, task)
    return shape_from_config(config, f"tiny-{family}", task or families.TASK_OF[family])


@functools.cache
def model_of(family: str) -> Any:
    return families.build(family)


def places(shape: ModelShape, *kinds: str) -> Iterator[tuple[SiteShape, str]]:
    """Yield every site of some kinds, with its path in each layer."""
    for site in shape.all_sites:
        if site.kind in kinds:
            layers = site.layers_among(range(shape.num_layers)) if site.is_in_layers else (0,)
            for layer in layers:
                yield site, site.path_in(layer)


@pytest.mark.parametrize("family", ALL)
def test_everything_in_a_family_is_found(family: str) -> None:
    expected = [line.strip() for line in TABLES[family].strip().splitlines()]

    assert table_of(shape_of(family)) == expected


@pytest.mark.parametrize("family", ALL)
def test_sites_are_layers_of_the_built_model_in_the_stated_shape(family: str) -> None:
    model, shape = model_of(family), shape_of(family)
    modules = dict(model.named_modules())
    found = {
        path: (tuple(modules[path].weight.shape), modules[path].bias is not None)
        for _, path in places(shape, "linear", "conv1d")
    }
    stated = {
        path: (
            (site.in_features, site.out_features)
            if site.kind == "conv1d"
            else (site.out_features, site.in_features),
            site.has_bias,
        )
        for site, path in places(shape, "linear", "conv1d")
    }

    assert stated
    assert found == stated


@pytest.mark.parametrize("family", ALL)
def test_other_places_are_in_the_built_model_in_the_stated_shape(family: str) -> None:
    model, shape = model_of(family), shape_of(family)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for site, path in places(shape, "norm", "embedding", "convolution"):
        weight = parameters[f"{path}.weight"]
        stated: tuple[int, ...] = (site.in_features,)
        if site.kind == "embedding":
            stated = (site.in_features, site.out_features)
        elif site.kind == "convolution":
            stated = (site.out_features, weight.shape[1], *site.kernel_size)
        assert tuple(weight.shape) == stated, path
        assert (f"{path}.bias" in parameters) == site.has_bias, path
    for site, path in places(shape, "parameter"):
        stated = (*site.kernel_size, site.out_features, site.in_features)
        assert tuple(parameters[path].shape) == stated, path


@pytest.mark.parametrize("family", ALL)
def test_a_name_stands_for_one_place_in_a_layer(family: str) -> None:
    shape = shape_of(family)
    in_layers = [site for site in shape.all_sites if site.is_in_layers]
    named = [
        (site.site, layer)
        for site in in_layers
        for layer in site.layers_among(range(shape.num_layers))
    ]

    assert len(named) == len(set(named))


@pytest.mark.parametrize("family", ALL)
def test_blocks_begin_and_end_at_the_width_of_the_residual_stream(family: str) -> None:
    """The block's input comes from outside of it, and its output goes on to the residual."""
    model, shape = model_of(family), shape_of(family)
    ends: dict[str, tuple[int, int]] = {}
    hooks = []
    for site in shape.blocks:
        layer = site.layers_among(range(shape.num_layers))[-1]
        first = model.get_submodule(site.path_in(layer))
        last = model.get_submodule(site.end_path_in(layer))
        name = f"{site.site} {site.path}"

        def before(_: nn.Module, args: Any, name: str = name) -> None:
            ends[name] = (args[0].shape[-1], 0)

        def after(_: nn.Module, args: Any, output: Any, name: str = name) -> None:
            ends[name] = (ends[name][0], output.shape[-1])

        hooks += [first.register_forward_pre_hook(before), last.register_forward_hook(after)]
    with torch.no_grad():
        model(**families.inputs(family))
    for hook in hooks:
        hook.remove()

    assert len(ends) == len(shape.blocks) > 0
    assert set(ends.values()) == {(shape.hidden_size, shape.hidden_size)}


@pytest.mark.parametrize("family", ALL)
def test_the_flow_of_tensors_and_the_names_of_modules_agree(family: str) -> None:
    """Two ways that know nothing of each other: what feeds what, and what it is called.

    Names say nothing of a normalisation that only some layers have.
    """
    model = meta_model(families.config_of(family), families.TASK_OF[family])
    by_flow, by_name = find_stacks(model, trace(model)), find_stacks(model, None)
    if family == "modernbert":
        del by_flow[0].layers[0].sites["ffn_norm"]

    assert by_flow == by_name


@pytest.mark.parametrize("family", ALL)
def test_head_and_base_are_counted_apart(family: str) -> None:
    shape = shape_of(family)
    total = sum(parameter.numel() for parameter in model_of(family).parameters())

    assert shape.num_head_parameters == HEADS.get(family, 0)
    assert shape.num_base_parameters + shape.num_head_parameters == total


@pytest.mark.parametrize(
    ("family", "task", "head"),
    [
        ("bert", "token-classification", ("classifier",)),
        ("roberta", "multiple-choice", ("classifier",)),
        ("deberta-v2", "regression", ("pooler", "classifier")),
        ("llama", "classification", ("score",)),
        ("gpt2", "token-classification", ("classifier",)),
        ("t5", "classification", ("classification_head",)),
        ("llama", "causal-lm", ()),
    ],
)
def test_head_of_a_task(family: str, task: str, head: tuple[str, ...]) -> None:
    shape = shape_of(family, task)

    assert (shape.task, shape.head_paths) == (task, head)
    assert bool(shape.num_head_parameters) == bool(head)
    assert shape.site_names == shape_of(family).site_names


@pytest.mark.parametrize(
    ("family", "heads"),
    [
        ("bert", (4, 4, 8)),
        ("llama", (4, 2, 8)),
        ("gemma", (4, 2, 16)),
        ("gpt2", (4, 4, 8)),
        ("t5", (4, 4, 8)),
        ("mamba", (0, 0, 0)),
    ],
)
def test_heads(family: str, heads: tuple[int, int, int]) -> None:
    shape = shape_of(family)

    assert (shape.num_attention_heads, shape.num_key_value_heads, shape.head_size) == heads


def test_stacks_are_numbered_one_after_the_other() -> None:
    shape = shape_of("t5-gated")
    encoder, decoder = shape.sites_called("ffn_in")

    assert shape.stacks == (("encoder", 2), ("decoder", 3))
    assert shape.num_layers == 5
    assert encoder.path_in(1) == "encoder.block.1.layer.1.DenseReluDense.wi_1"
    assert decoder.path_in(4) == "decoder.block.2.layer.2.DenseReluDense.wi_1"
    assert shape_of("bert").stacks == (("layers", 2),)


def test_facts_about_the_whole_model() -> None:
    facts = {
        name: (s.vocab_size, s.has_tied_embeddings, s.uses_attention_interface)
        for name in ("bert", "deberta-v2", "gemma", "llama", "vit", "mamba")
        for s in [shape_of(name)]
    }

    assert facts == {
        "bert": (100, False, True),
        "deberta-v2": (100, False, False),
        "gemma": (100, True, True),
        "llama": (100, False, True),
        "vit": (0, False, True),
        "mamba": (100, True, False),
    }
    assert shape_of("llama").forward_arguments[:2] == ("input_ids", "attention_mask")
    assert shape_of("vit").forward_arguments[0] == "pixel_values"


def test_all_linear_leaves_out_poolers_heads_and_routers() -> None:
    assert all_linear(shape_of("bert")) == ("q", "k", "v", "attention_output", "ffn_in", "ffn_out")
    assert all_linear(shape_of("mixtral")) == ("q", "k", "v", "attention_output")
    assert all_linear(shape_of("mamba")) == ("mixer_in", "mixer_x", "mixer_out")


@pytest.mark.parametrize("family", families.ENCODERS[:4])
def test_lora_on_an_encoder_trains_what_was_counted(family: str) -> None:
    shape = shape_of(family)
    model = inject(meta_model(families.config_of(family)), tiny.configuration("lora"), shape)
    counted = get_method("lora").num_parameters(shape, tiny.LORA) + HEADS[family]

    assert sum(p.numel() for p in trainable_parameters(model).values()) == counted


def test_minilm() -> None:
    source = resolve_model(ModelSettings(name="builtin:minilm"), Path())
    shape = model_shape(source, load_config(source, 3))

    assert shape.name == "sentence-transformers/all-MiniLM-L6-v2"
    assert (shape.num_base_parameters, shape.num_head_parameters) == (22_713_216, 3 * 384 + 3)
    assert shape.head_paths == ("classifier",)
    assert shape.site("ffn_out").path == "bert.encoder.layer.{layer}.output.dense"


@pytest.mark.parametrize("family", ALL)
def test_shape_survives_json(family: str) -> None:
    shape = shape_of(family)

    assert ModelShape.from_json(shape.to_json()) == shape


def test_a_task_the_architecture_lacks_is_refused() -> None:
    with pytest.raises(ModelError, match="tiny-mamba cannot be built for classification"):
        shape_of("mamba", "classification")


# A model that no rule understands: nothing that looks like attention, names that say nothing.


class OddConfig(transformers.PretrainedConfig):  # type: ignore[misc]
    model_type = "odd-for-tests"

    def __init__(self, **kwargs: Any) -> None:
        self.hidden_size, self.vocab_size, self.num_hidden_layers = 8, 20, 3
        super().__init__(**kwargs)


class OddLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Linear(8, 8)
        self.beta = nn.Linear(8, 12)
        self.gamma = nn.Linear(12, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = self.gamma(self.beta(x + self.alpha(x.cumsum(1))) ** 2)
        return x + mixed


class OddModel(transformers.PreTrainedModel):  # type: ignore[misc]
    config_class = OddConfig
    base_model_prefix = "odd"

    def __init__(self, config: OddConfig) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(20, 8)
        self.floors = nn.ModuleList(OddLayer() for _ in range(3))
        self.classifier = nn.Linear(8, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(self, input_ids: torch.Tensor) -> Any:
        x = self.embed(input_ids)
        for floor in self.floors:
            x = floor(x)
        return transformers.modeling_outputs.SequenceClassifierOutput(
            logits=self.classifier(x.mean(1))
        )


transformers.AutoConfig.register("odd-for-tests", OddConfig)
transformers.AutoModelForSequenceClassification.register(OddConfig, OddModel)


def odd_shape(**sites: str) -> ModelShape:
    config = OddConfig(num_labels=2)
    config._name_or_path = "someone/odd"
    return shape_from_config(config, "someone/odd", sites=sites)


def test_an_unknown_model_is_told_what_was_looked_for_and_what_there_is() -> None:
    with pytest.raises(ModelError) as caught:
        odd_shape()

    text = str(caught.value)
    assert "the layers of someone/odd (OddModel) are not understood" in text
    assert "q, k, v or qkv" in text
    assert "floors.*.alpha, floors.*.beta, floors.*.gamma" in text
    assert "hint: name them in the job file" in text
    assert "sites: {q: " in text


def test_sites_named_by_hand_are_taken() -> None:
    shape = odd_shape(attention_output="alpha", ffn_in="beta", ffn_out=r"floors\.\d+\.gamma")

    assert table_of(shape) == [
        "attention_output floors.*.alpha 8x8 bias",
        "ffn_in floors.*.beta 8x12 bias",
        "ffn_out floors.*.gamma 12x8 bias",
        "token_embedding embed 20x8 embedding",
        "ffn_block ffn_in..ffn_out",
    ]
    assert (shape.num_layers, shape.hidden_size, shape.stacks) == (3, 8, (("layers", 3),))


def test_a_site_named_for_some_layers_is_in_those_alone() -> None:
    (site,) = odd_shape(ffn_in=r"floors\.[02]\.beta").sites

    assert site.layers == (0, 2)


def test_a_name_by_hand_replaces_what_was_found() -> None:
    config = families.config_of("bert")
    shape = shape_from_config(config, "bert", sites={"q": "attention.self.key"})

    assert shape.site("q").path == "bert.encoder.layer.{layer}.attention.self.key"
    assert "k" not in shape.site_names


def test_a_pooler_is_a_site_only_when_named() -> None:
    config = families.config_of("bert")
    shape = shape_from_config(config, "bert", sites={"ffn_out": "pooler.dense"})

    assert [site.path for site in shape.sites_called("ffn_out")] == [
        "bert.encoder.layer.{layer}.output.dense",
        "bert.pooler.dense",
    ]


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ({"query": "alpha"}, r"unknown site 'query'.*\nhint: known sites: q, k, v"),
        ({"q": "delta"}, r"nothing in the model is called 'delta'\nhint: the model has embed, fl"),
        ({"q": "(alpha"}, r"neither the end of a module path nor a regular expression"),
    ],
)
def test_a_wrong_name_by_hand_is_refused(sites: dict[str, str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        odd_shape(**sites)


def test_job_file_names_reach_the_shape(tmp_path: Path) -> None:
    folder = families.write(tmp_path / "mine", "bert")
    settings = ModelSettings(name=str(folder), sites={"v": "attention.output.dense"})
    source = resolve_model(settings, tmp_path)
    shape = model_shape(source, load_config(source, 2, None, "classification"))

    assert shape.site("v").path.endswith("attention.output.dense")


def test_a_model_that_cannot_be_traced_is_understood_by_its_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def untraced(model: Any) -> Trace | None:
        return None

    monkeypatch.setattr(finding, "trace", untraced)
    shape = shape_from_config(families.config_of("llama"), "tiny-llama", "causal-lm")

    assert shape.sites == shape_of("llama").sites
    assert shape.norms == shape_of("llama").norms


@pytest.mark.parametrize(
    ("family", "held", "head"),
    [
        ("deberta-v2", (), ("pooler", "classifier")),
        ("deberta-v2", ("pooler.dense.weight", "pooler.dense.bias"), ("classifier",)),
        ("modernbert", (), ("head", "classifier")),
        ("modernbert", ("head.dense.weight", "head.norm.weight"), ("classifier",)),
        ("bert", (), ("bert.pooler", "classifier")),
    ],
)
def test_what_a_checkpoint_lacks_trains_with_the_head(
    family: str, held: tuple[str, ...], head: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from autopeft.workers import heads
    from autopeft.workers.model_sources import ModelSource

    monkeypatch.setattr(heads, "checkpoint_keys", lambda source: frozenset(held))
    source = ModelSource(location="nowhere", public_name="someone/model")
    shape = model_shape(source, families.config_of(family), "classification")

    assert shape.head_paths == head
