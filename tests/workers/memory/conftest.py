"""A small encoder, described but never loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autopeft.records import ModelShape
from autopeft.workers.memory import MemoryModel
from autopeft.workers.shapes import shape_from_config

BATCH_SIZE = 16
TOKENS = 12


def make_config(**changes: Any) -> Any:
    """Return a four-layer BERT config with three classes."""
    from transformers import BertConfig

    sizes = {
        "vocab_size": 50,
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 40,
        "num_labels": 3,
    }
    config = BertConfig(**{**sizes, **changes})
    config._name_or_path = "small-bert"
    return config


def make_memory(config: Any, **changes: Any) -> MemoryModel:
    """Return a memory model of it."""
    settings = {"batch_size": BATCH_SIZE, "tokens": TOKENS, "task": "classification"}
    return MemoryModel(config, shape_from_config(config, "small-bert"), **{**settings, **changes})


@pytest.fixture(scope="session")
def config() -> Any:
    """Return the config, which no test may change."""
    return make_config()


@pytest.fixture(scope="session")
def shape(config: Any) -> ModelShape:
    """Return its shape."""
    return shape_from_config(config, "small-bert")


@pytest.fixture(scope="session")
def memory(config: Any) -> MemoryModel:
    """Return one memory model, so that its ledgers are made once."""
    return make_memory(config)


@pytest.fixture(scope="session")
def memory_of() -> Callable[..., MemoryModel]:
    """Return the maker of memory models with other settings."""
    return make_memory
