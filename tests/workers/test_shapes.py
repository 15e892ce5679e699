from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    RobertaConfig,
    T5Config,
)

from autopeft.errors import ModelError
from autopeft.records import ModelShape
from autopeft.search_spaces.method import get_method
from autopeft.workers.injection import inject, trainable_parameters
from autopeft.workers.models import load_config, resolve_model
from autopeft.workers.settings import ModelSettings
from autopeft.workers.shapes import meta_model, model_shape, shape_from_config
from tests.workers import tiny

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "vocab_size": 40,
    "num_labels": 5,
}
ENCODERS = {
    "bert": BertConfig(**SMALL),
    "roberta": RobertaConfig(**SMALL),
    "electra": ElectraConfig(**SMALL, embedding_size=8),
    "deberta-v2": DebertaV2Config(**SMALL),
    "distilbert": DistilBertConfig(
        dim=16, n_layers=3, n_heads=4, hidden_dim=24, vocab_size=40, num_labels=5
    ),
}
#: Outputs of the last classifier plus, where there is one, the dense layer before it.
HEADS = {
    "bert": 16 * 5 + 5,
    "roberta": 16 * 16 + 16 + 16 * 5 + 5,
    "electra": 16 * 16 + 16 + 16 * 5 + 5,
    "deberta-v2": 16 * 5 + 5,
    "distilbert": 16 * 16 + 16 + 16 * 5 + 5,
}


def shape_of(config: Any) -> ModelShape:
    config._name_or_path = "someone/model"
    return shape_from_config(config, "someone/model")


@pytest.mark.parametrize("kind", ENCODERS)
def test_sites_of_encoders(kind: str) -> None:
    shape = shape_of(ENCODERS[kind])

    assert shape.model_type == kind
    assert shape.site_names == ("q", "k", "v", "attention_output", "ffn_in", "ffn_out")
    assert (shape.num_layers, shape.hidden_size, shape.num_attention_heads) == (3, 16, 4)
    assert (shape.num_key_value_heads, shape.head_size) == (4, 4)
    assert [site.in_features for site in shape.sites] == [16, 16, 16, 16, 16, 24]
    assert [site.out_features for site in shape.sites] == [16, 16, 16, 16, 24, 16]
    assert all(site.has_bias for site in shape.sites)


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_site_path_is_a_linear_layer_of_the_model(kind: str) -> None:
    config = ENCODERS[kind]
    shape = shape_of(config)
    modules = dict(AutoModelForSequenceClassification.from_config(config).named_modules())
    paths = [s.path.format(layer=layer) for s in shape.sites for layer in range(shape.num_layers)]
    found = [(modules[path].in_features, modules[path].out_features) for path in paths]

    assert len(set(paths)) == 18
    assert found == [(s.in_features, s.out_features) for s in shape.sites for _ in range(3)]


@pytest.mark.parametrize("kind", ENCODERS)
def test_head_and_base_are_counted_apart(kind: str) -> None:
    config = ENCODERS[kind]
    shape = shape_of(config)
    model = AutoModelForSequenceClassification.from_config(config)
    total = sum(parameter.numel() for parameter in model.parameters())

    assert shape.num_head_parameters == HEADS[kind]
    assert shape.num_base_parameters + shape.num_head_parameters == total


@pytest.mark.parametrize("kind", ENCODERS)
def test_lora_on_an_encoder_trains_what_was_counted(kind: str) -> None:
    config = ENCODERS[kind]
    shape = shape_of(config)
    model = inject(meta_model(config), tiny.configuration("lora"), shape)
    counted = get_method("lora").num_parameters(shape, tiny.LORA) + HEADS[kind]

    assert sum(p.numel() for p in trainable_parameters(model).values()) == counted


def test_minilm() -> None:
    source = resolve_model(ModelSettings(name="builtin:minilm"), Path())
    shape = model_shape(source, load_config(source, 3))

    assert shape.name == "sentence-transformers/all-MiniLM-L6-v2"
    assert (shape.num_base_parameters, shape.num_head_parameters) == (22_713_216, 3 * 384 + 3)
    assert shape.head_paths == ("classifier",)
    assert shape.site("ffn_out").path == "bert.encoder.layer.{layer}.output.dense"


def test_unknown_layers_name_what_was_looked_for() -> None:
    config = GPT2Config(n_embd=16, n_layer=2, n_head=4, vocab_size=40, num_labels=2)
    with pytest.raises(ModelError, match="expected one list of 2 transformer layers, found none"):
        shape_of(config)


def test_missing_sites_name_what_was_looked_for() -> None:
    config = T5Config(d_model=16, d_ff=24, num_layers=2, num_heads=4, vocab_size=40, num_labels=2)
    with pytest.raises(ModelError, match="someone/model"):
        shape_of(config)


def test_shape_survives_json() -> None:
    shape = shape_of(ENCODERS["roberta"])

    assert ModelShape.from_json(shape.to_json()) == shape
