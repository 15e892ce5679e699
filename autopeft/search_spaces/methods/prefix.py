"""Prefix tuning: learned keys and values in front of every layer's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange, Method

PREFIX_LENGTHS = (1, 2, 4, 8, 16, 32, 64)

#: Classifiers of transformers 5.23 whose ``forward`` takes no ``past_key_values``, by which
#: PEFT hands over a prefix (found by inspecting every sequence-classification class).
WITHOUT_PAST_KEY_VALUES = frozenset(
    "albert canine convbert deberta deberta-v2 distilbert esm eurobert flaubert fnet funnel gte "  # noqa: SIM905
    "ibert layoutlm layoutlmv2 layoutlmv3 lilt longformer luke markuplm mobilebert modernbert "
    "mpnet mra nomic_bert nystromformer openai-gpt perceiver reformer squeezebert tapas xlm xlnet "
    "yoso".split()
)


@METHODS.register("prefix")
class Prefix(Method):
    """Li and Liang 2021 without the reparametrising network, as in P-tuning v2.

    PEFT puts it on all layers or none, and it is no part of the module tree: it stands alone
    in a configuration.
    """

    name = "prefix"
    title = "Prefix tuning"
    family = "prompt"
    paper = "arXiv 2101.00190"
    is_placeable = False
    is_combinable = False
    # P-tuning v2 (arXiv 2110.07602) uses 5e-3 to 2e-2 for classification; the prefix starts
    # at random with unit variance, so small rates hardly move it in about a hundred steps.
    learning_rate = LearningRateRange(low=1e-3, default=1e-2, high=1e-1)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return the prefix length, as far as the model has positions left for it."""
        return (
            Dimension(
                name="prefix_length",
                kind="ordinal",
                values=_fitting(shape),
                default=16,
                help="Virtual tokens in front of the text, in every layer.",
            ),
        )

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count a key and a value for each virtual token, layer and key-value head."""
        length = module["prefix_length"]
        assert isinstance(length, int)
        return 2 * shape.num_layers * length * shape.num_key_value_heads * shape.head_size

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of ``peft.PrefixTuningConfig``."""
        return {
            "peft_type": "PREFIX_TUNING",
            "num_virtual_tokens": module["prefix_length"],
            "prefix_projection": False,
            "num_layers": shape.num_layers,
            "num_attention_heads": shape.num_key_value_heads,
            "token_dim": shape.num_key_value_heads * shape.head_size,
            "num_transformer_submodules": 1,
        }

    def unavailable(self, shape: ModelShape) -> str | None:
        """Refuse models that cannot take keys and values from outside."""
        if shape.model_type in WITHOUT_PAST_KEY_VALUES:
            return f"{shape.model_type} of transformers takes no past_key_values"
        if not _fitting(shape):
            return (
                f"the longest batch leaves {shape.num_free_positions} of the model's positions, "
                f"the shortest prefix takes {PREFIX_LENGTHS[0]}"
            )
        return None


def _fitting(shape: ModelShape) -> tuple[int, ...]:
    """Return the lengths for which there are positions: a prefix is counted among them."""
    free = shape.num_free_positions
    return tuple(length for length in PREFIX_LENGTHS if free is None or length <= free)
