"""Predictions against probes, over the presets of the search space."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.search_spaces.space import load_space
from autopeft.workers.memory import MemoryModel
from autopeft.workers.memory.accountant import Accountant
from autopeft.workers.shapes import shape_from_config
from tests.workers.memory.conftest import make_config
from tests.workers.memory.test_probe import CASES, configuration, lora

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}


@pytest.mark.parametrize("name", ["lora", "dora", "ia3", "beft", "prefix"])
def test_each_method_adds_up_from_few_passes(memory: MemoryModel, name: str) -> None:
    chosen = configuration(*CASES[name])
    probed = memory.probe(chosen).total_bytes
    assert memory.predict([chosen])[0] == pytest.approx(probed, rel=0.001)
    assert not memory._predicted(chosen.modules).is_approximate


@pytest.mark.parametrize("seed", range(6))
def test_default_space_is_predicted_on_a_tiny_model(
    memory: MemoryModel, shape: ModelShape, seed: int
) -> None:
    sample = load_space("default", shape).sample(8, np.random.default_rng(seed))
    predicted = memory.predict(sample)
    probed = np.array([memory.probe(chosen).total_bytes for chosen in sample])
    assert predicted.dtype == np.int64
    # One hidden state is a few percent of all there is in a model as small as this.
    np.testing.assert_allclose(predicted, probed, rtol=0.05)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_default_space_is_predicted_within_a_thousandth(
    memory_of: Callable[..., MemoryModel], kind: str
) -> None:
    from transformers import LlamaConfig

    config: Any
    if kind == "encoder":
        config = make_config(
            hidden_size=384, num_attention_heads=12, intermediate_size=1536, vocab_size=30522
        )
        memory = memory_of(config, tokens=32)
    else:
        config = LlamaConfig(
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=4,
            vocab_size=4096,
        )
        config._name_or_path = "decoder"
        shape = shape_from_config(config, "decoder", "causal-lm")
        memory = MemoryModel(config, shape, batch_size=8, tokens=64, task="causal-lm")
    sample = load_space("default", memory._shape).sample(12, np.random.default_rng(0))
    probed = np.array([memory.probe(chosen).total_bytes for chosen in sample])
    np.testing.assert_allclose(memory.predict(sample), probed, rtol=0.001)


@pytest.mark.parametrize(
    "modules",
    [
        (lora((0, 3), sites=("q", "ffn_out"), rank=16), Module.of("beft", (1, 3), sites=("v",))),
        (lora((2,), sites=("k",), rank=1), Module.of("beft", (0,), sites=("ffn_out",))),
    ],
    ids=["overlapping", "apart"],
)
def test_mixtures_are_predicted(memory: MemoryModel, modules: tuple[Module, ...]) -> None:
    chosen = configuration(*modules)
    assert memory.predict([chosen])[0] == pytest.approx(memory.probe(chosen).total_bytes, rel=0.02)


def test_a_prefix_beside_another_method_is_predicted_within_two_percent(
    memory: MemoryModel,
) -> None:
    chosen = configuration(*CASES["prefix"], Module.of("beft", (0,), sites=("q",)))
    assert memory.predict([chosen])[0] == pytest.approx(memory.probe(chosen).total_bytes, rel=0.02)


def test_head_alone_is_exact(memory: MemoryModel) -> None:
    chosen = configuration()
    assert memory.predict([chosen])[0] == memory.probe(chosen).total_bytes


def test_no_configuration_gives_no_number(memory: MemoryModel) -> None:
    assert memory.predict([]).shape == (0,)


def test_learning_rate_is_no_matter(memory: MemoryModel) -> None:
    slow = Configuration(modules=CASES["lora"], learning_rate=1e-5)
    fast = Configuration(modules=CASES["lora"], learning_rate=1e-2)
    first, second = memory.predict([slow, fast])
    assert first == second


def test_a_thousand_configurations_take_no_time(memory: MemoryModel, shape: ModelShape) -> None:
    sample = load_space("lora", shape).sample(1000, np.random.default_rng(0))
    memory.predict(sample)
    start = time.process_time()
    memory.predict(sample)
    # 0.02 s measured on one core; the bound leaves room for a busy machine.
    assert time.process_time() - start < 0.3


def test_memory_grows_with_rank_and_layers(memory: MemoryModel) -> None:
    ranks = memory.predict([configuration(lora((1,), rank=rank)) for rank in (1, 2, 8, 32)])
    assert (np.diff(ranks) > 0).all()
    layers = memory.predict([configuration(lora(tuple(range(n, 4)))) for n in (3, 2, 1, 0)])
    assert (np.diff(layers) > 0).all()


def test_settings_without_a_size_need_no_account(
    config: Any, memory_of: Callable[..., MemoryModel]
) -> None:
    memory = memory_of(config)
    memory.predict([configuration(lora(rslora=flag)) for flag in (False, True)])
    assert memory._predictor.variants.num_known == 1


def test_all_prefix_lengths_come_from_one_account(
    config: Any, memory_of: Callable[..., MemoryModel]
) -> None:
    memory = memory_of(config)
    lengths = (1, 2, 16, 64)
    chosen = [configuration(Module.of("prefix", (0, 1, 2, 3), prefix_length=n)) for n in lengths]
    predicted = memory.predict(chosen)
    assert memory._predictor.variants.num_known == 1
    assert predicted.tolist() == [memory.probe(one).total_bytes for one in chosen]


def test_a_method_without_an_answer_on_the_meta_device_is_estimated(
    config: Any, memory_of: Callable[..., MemoryModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = memory_of(config)
    chosen = configuration(lora())
    exact = memory.probe(chosen)

    def fail(*_: object) -> None:
        raise RuntimeError("Tensor.item() cannot be called on meta tensors")

    monkeypatch.setattr(Accountant, "account", fail)
    monkeypatch.setattr(type(memory._step), "run", fail)
    estimate = memory.probe(chosen)
    assert not exact.is_approximate
    assert estimate.is_approximate
    assert estimate.total_bytes == pytest.approx(exact.total_bytes, rel=0.1)


def roberta() -> Any:
    from transformers import RobertaConfig

    return RobertaConfig(**SIZES, vocab_size=50)


def distilbert() -> Any:
    from transformers import DistilBertConfig

    return DistilBertConfig(dim=32, n_layers=3, n_heads=4, hidden_dim=64, vocab_size=50)


def electra() -> Any:
    from transformers import ElectraConfig

    return ElectraConfig(**SIZES, vocab_size=50, embedding_size=16)


def deberta() -> Any:
    from transformers import DebertaV2Config

    return DebertaV2Config(
        **SIZES, vocab_size=50, relative_attention=True, pos_att_type=["p2c"], position_buckets=4
    )


@pytest.mark.parametrize("make", [roberta, distilbert, electra, deberta])
def test_other_encoders_add_up(
    make: Callable[[], Any], memory_of: Callable[..., MemoryModel]
) -> None:
    config = make()
    config.num_labels = 3
    memory = memory_of(config)
    chosen = configuration(lora((1, 2), sites=("q", "v", "ffn_in")))
    assert memory.predict([chosen])[0] == pytest.approx(memory.probe(chosen).total_bytes, rel=0.025)
    assert not memory._predicted(chosen.modules).is_approximate


def test_it_tells_which_method_it_accounts_for(
    config: Any, memory_of: Callable[..., MemoryModel]
) -> None:
    memory, told = memory_of(config), list[tuple[int, int, str]]()

    def predict(*modules: tuple[Module, ...]) -> list[tuple[int, int, str]]:
        told.clear()
        memory.predict([configuration(*each) for each in modules], lambda *news: told.append(news))
        return list(told)

    lora_then_ia3 = [(1, 2, "lora"), (2, 2, "ia3")]
    assert predict(CASES["lora"], CASES["ia3"], CASES["lora"]) == lora_then_ia3
    assert predict((lora(rank=3),), CASES["ia3"]) == []
    assert predict(CASES["dora"], CASES["beft"]) == [(1, 2, "lora"), (2, 2, "beft")]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_step_of_a_large_adapter_is_predicted_on_either_device(
    config: Any, memory_of: Callable[..., MemoryModel], device: str
) -> None:
    """The optimiser's step is the peak; on the CPU it updates one parameter after the other."""
    memory = memory_of(config, device=device, batch_size=1)
    chosen = configuration(
        lora(tuple(range(4)), rank=64, sites=("q", "k", "v", "ffn_in", "ffn_out"))
    )
    probed = memory.probe(chosen)
    assert probed.phase == "optimizer"
    assert memory.predict([chosen])[0] == pytest.approx(probed.total_bytes, rel=0.03)
