"""Counts against what we did not write: published runs on Llama-3.2-3B, and papers' formulas."""

from __future__ import annotations

import functools
import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
from peft import get_peft_model
from peft.mapping import get_peft_config
from transformers import BertConfig, LlamaConfig

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Configuration, Module
from autopeft.search_spaces.method import METHODS, get_method
from autopeft.workers.adapter_tensors import trainable_parameters
from autopeft.workers.injection import inject
from autopeft.workers.shapes import meta_model, shape_from_config
from tests.conftest import REPOSITORY

FOLDER = Path(os.environ.get("AUTOPEFT_DATA") or REPOSITORY.parent / "shared" / "data")
RUNS = FOLDER / "peft_method_comparison" / "runs.jsonl"
#: Types whose start needs the numbers of the base weights.
NEEDS_WEIGHTS = frozenset({"ADAMSS", "FROD"})


def published_runs() -> list[dict[str, Any]]:
    if not RUNS.is_file():
        return []
    return [json.loads(line) for line in RUNS.read_text(encoding="utf-8").splitlines()]


@functools.cache
def llama_3b() -> tuple[Any, ModelShape]:
    """Return config and shape of Llama-3.2-3B from its published numbers."""
    numbers = json.loads((RUNS.parent / "meta.json").read_text(encoding="utf-8"))[
        "base_model_shape"
    ]
    config = LlamaConfig(**{key: value for key, value in numbers.items() if key != "model"})
    config._name_or_path = numbers["model"]
    return config, shape_from_config(config, numbers["model"], "causal-lm")


def module_of(run: dict[str, Any], shape: ModelShape) -> Module:
    """Return the module that a run's config means; exactly one method says that it is its own."""
    modules = []
    for name in METHODS.names():
        try:
            modules.append(METHODS.get(name).from_peft_config(shape, run["peft_config"]))
        except (ValueError, KeyError):
            continue
    (module,) = modules
    if run["train_config"]["optimizer_type"] == "lora-fa":
        # The optimiser keeps A as it is; the config says nothing of it.
        settings = module.as_dict()
        kept = {name: settings[name] for name in ("rank", "alpha_ratio", "sites")}
        return Module.of("lora-fa", module.layers, **kept)
    return module


ADAPTERS = [run for run in published_runs() if run["peft_config"]]
needs_runs = pytest.mark.skipif(not ADAPTERS, reason=f"no published runs at {RUNS}")


@needs_runs
@pytest.mark.parametrize("run", ADAPTERS, ids=lambda run: run["experiment"])
def test_count_of_a_published_run(run: dict[str, Any]) -> None:
    _, shape = llama_3b()
    module = module_of(run, shape)

    assert get_method(module.method).num_parameters(shape, module) == run["num_trainable_params"]


@needs_runs
def test_full_fine_tuning_trains_every_parameter_of_the_shape() -> None:
    (run,) = [run for run in published_runs() if not run["peft_config"]]
    _, shape = llama_3b()

    assert shape.num_base_parameters == run["num_trainable_params"]


@needs_runs
@pytest.mark.slow
@pytest.mark.parametrize("run", ADAPTERS, ids=lambda run: run["experiment"])
def test_peft_builds_as_many_on_the_meta_device(run: dict[str, Any]) -> None:
    """Ours is injected; what PEFT makes of the published config itself must agree with it."""
    config, shape = llama_3b()
    model = meta_model(config, "causal-lm")
    module = module_of(run, shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # BEFT without biases, adapters of tied embeddings
        ours = inject(model, Configuration(modules=(module,), learning_rate=0.1), shape)
    count = sum(parameter.numel() for parameter in trainable_parameters(ours).values())

    assert count == run["num_trainable_params"]
    if run["peft_config"]["peft_type"] in NEEDS_WEIGHTS or module.method == "lora-fa":
        return
    published = {key: value for key, value in run["peft_config"].items() if key != "rank_pattern"}
    published["base_model_name_or_path"] = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = get_peft_model(meta_model(config, "causal-lm"), get_peft_config(published))
    # On the meta device PEFT makes AdaLoRA's rank numbers anew, and they ask for gradients.
    trained = {n: p for n, p in theirs.named_parameters() if p.requires_grad and "ranknum" not in n}
    assert sum(parameter.numel() for parameter in trained.values()) == run["num_trainable_params"]


# Formulas of papers, on BERT-base: 12 layers, 768 wide, 3072 inside.


@functools.cache
def bert_base() -> ModelShape:
    config = BertConfig(num_labels=2)
    config._name_or_path = "bert-base-uncased"
    return shape_from_config(config, "bert-base-uncased", "classification")


def count(method: str, **settings: Any) -> int:
    shape = bert_base()
    found = get_method(method)
    defaults = {each.name: each.default for each in found.dimensions(shape)}
    module = Module.of(method, tuple(range(12)), **{**defaults, **settings})
    return found.num_parameters(shape, module)


@pytest.mark.parametrize("rank", [1, 8, 64])
def test_lora_as_hu_et_al(rank: int) -> None:
    # Section 4.2 of arXiv 2106.09685: 2 x adapted matrices x width x rank, for q and v.
    assert count("lora", rank=rank, sites=("q", "v")) == 2 * 24 * 768 * rank


@pytest.mark.parametrize("length", [1, 16, 64])
def test_prefix_as_li_and_liang(length: int) -> None:
    # Section 4.2 of arXiv 2101.00190: a key and a value for each layer and virtual token.
    assert count("prefix", prefix_length=length) == length * 2 * 12 * 768
