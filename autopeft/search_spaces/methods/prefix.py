"""Prefix tuning: learned keys and values in front of every layer's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module, Setting
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._prompt import Prompt, decoder_layers, refuse

PREFIX_LENGTHS = (1, 2, 4, 8, 16, 32, 64)

#: Classifiers of transformers 5.23 whose ``forward`` and that of the model inside take no
#: ``past_key_values``, by which PEFT hands over a prefix (found by inspecting every
#: sequence-classification class).
WITHOUT_PAST_KEY_VALUES = frozenset(
    "albert canine convbert deberta deberta-v2 distilbert esm eurobert flaubert fnet funnel gte "  # noqa: SIM905
    "ibert layoutlm layoutlmv2 layoutlmv3 lilt longformer luke markuplm mobilebert modernbert "
    "mpnet mra nomic_bert nystromformer openai-gpt perceiver reformer squeezebert tapas xlm xlnet "
    "yoso".split()
)


class KeyValuePrefix(Prompt):
    """Keys and values of virtual tokens in every layer, handed over as a cache."""

    lengths: ClassVar[tuple[int, ...]] = PREFIX_LENGTHS
    length_name = "prefix_length"
    needs_argument = ""

    def width(self, shape: ModelShape) -> int:
        """Return the numbers of one virtual token: a key and a value in each layer."""
        return 2 * decoder_layers(shape) * shape.num_key_value_heads * shape.head_size

    def cache_arguments(self, shape: ModelShape, module: Module) -> dict[str, Any]:
        """Return the arguments of PEFT's config that describe the cache."""
        return {
            "peft_type": self.peft_type,
            "num_virtual_tokens": module[self.length_name],
            "num_layers": decoder_layers(shape),
            "num_attention_heads": shape.num_key_value_heads,
            "token_dim": shape.num_key_value_heads * shape.head_size,
            "num_transformer_submodules": 2 if len(shape.stacks) > 1 else 1,
        }

    def unavailable(self, shape: ModelShape) -> str | None:
        """Refuse models that cannot take keys and values from outside, or lose their gradient."""
        arguments = shape.forward_arguments
        is_language_model = shape.task in ("causal-lm", "seq2seq-lm")
        if shape.model_type in WITHOUT_PAST_KEY_VALUES or (
            is_language_model and arguments and "past_key_values" not in arguments
        ):
            return f"{shape.model_type} of transformers takes no past_key_values"
        if shape.uses_gradient_checkpointing:
            return "keys and values from outside get no gradient under gradient checkpointing"
        return super().unavailable(shape)


@METHODS.register("prefix")
class Prefix(KeyValuePrefix):
    """Li and Liang 2021 without the reparametrising network, as in P-tuning v2.

    PEFT puts it on all layers or none, and it is no part of the module tree: it stands alone
    in a configuration.
    """

    name = "prefix"
    title = "Prefix tuning"
    paper = "arXiv 2101.00190"
    peft_type = "PREFIX_TUNING"
    # P-tuning v2 (arXiv 2110.07602) uses 5e-3 to 2e-2 for classification; the prefix starts
    # at random with unit variance, so small rates hardly move it in about a hundred steps.
    learning_rate = LearningRateRange(low=1e-3, default=1e-2, high=1e-1)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return the prefix length, as far as the model has positions left for it."""
        help = "Virtual tokens in front of the text, in every layer."
        return (self.length_dimension(shape, 16, help),)

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count a key and a value for each virtual token, layer and key-value head."""
        return self.length(module) * self.width(shape)

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of ``peft.PrefixTuningConfig``."""
        return {**self.cache_arguments(shape, module), "prefix_projection": False}

    def settings_from_peft(
        self, shape: ModelShape, config: Mapping[str, Any]
    ) -> Mapping[str, Setting]:
        """Return the length."""
        refuse(config, ["prefix_projection"])
        return super().settings_from_peft(shape, config)
