"""How much of a method there is on a model: its dimensions, and its smallest and largest module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import Dimension, Method

#: Combinations of extreme values that are counted; a method with more dimensions is sampled.
_MOST_COMBINATIONS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """What a method offers on one model.

    Attributes:
        num_dimensions: Dimensions with more than one value, placement aside.
        smallest: Fewest trainable parameters, head excluded.
        largest: Most of them.
    """

    num_dimensions: int
    smallest: int
    largest: int


def extent_of(method: Method, shape: ModelShape) -> Extent:
    """Count the extreme modules of a method that is available on a model."""
    counts = [method.num_parameters(shape, module) for module in _extremes(method, shape)]
    varied = [each for each in method.dimensions(shape) if len(each.values) > 1]
    return Extent(num_dimensions=len(varied), smallest=min(counts), largest=max(counts))


def _extremes(method: Method, shape: ModelShape) -> Iterator[Module]:
    dimensions = method.dimensions(shape)
    everywhere = tuple(range(shape.num_layers))
    layers = [everywhere, everywhere[-1:]] if method.is_placeable else [everywhere]
    values = islice(product(*(_ends(each) for each in dimensions)), _MOST_COMBINATIONS)
    for chosen in values:
        pairs = zip((each.name for each in dimensions), chosen, strict=True)
        settings = method.canonical(dict(pairs))
        for placed in layers:
            yield Module.of(method.name, placed, **settings)


def _ends(dimension: Dimension) -> tuple[Any, ...]:
    """Return the values that make a module smallest or largest."""
    if dimension.kind == "subset":
        alone = tuple((value,) for value in dimension.values)
        return (*alone, tuple(dimension.values))
    if dimension.kind == "categorical":
        return dimension.values
    return tuple(dict.fromkeys((dimension.values[0], dimension.values[-1])))


def reference_shape(*, is_decoder: bool) -> ModelShape:
    """Return the shape of Llama-3.1-8B, or of BERT-base with two classes.

    Pure data, for tables that name no model.
    """
    if not is_decoder:
        return _bert_base()
    path = "model.layers.{layer}."

    def linear(site: str, module: str, outputs: int, inputs: int = 4096) -> SiteShape:
        return SiteShape(
            site=site,
            path=path + module,
            in_features=inputs,
            out_features=outputs,
            has_bias=False,
        )

    return ModelShape(
        name="Llama-3.1-8B",
        model_type="llama",
        num_layers=32,
        hidden_size=4096,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_size=128,
        sites=(
            linear("q", "self_attn.q_proj", 4096),
            linear("k", "self_attn.k_proj", 1024),
            linear("v", "self_attn.v_proj", 1024),
            linear("attention_output", "self_attn.o_proj", 4096),
            linear("ffn_gate", "mlp.gate_proj", 14336),
            linear("ffn_in", "mlp.up_proj", 14336),
            linear("ffn_out", "mlp.down_proj", 4096, 14336),
        ),
        num_base_parameters=8_030_261_248,
        num_head_parameters=0,
        head_paths=(),
        task="causal-lm",
        stacks=(("layers", 32),),
        norms=(
            _norm("attention_norm", path + "input_layernorm", 4096, has_bias=False),
            _norm("ffn_norm", path + "post_attention_layernorm", 4096, has_bias=False),
            _norm("final_norm", "model.norm", 4096, has_bias=False),
        ),
        embeddings=(_embedding("token_embedding", "model.embed_tokens", 128256, 4096),),
        blocks=(
            _block("attention_block", path, "input_layernorm", "self_attn.o_proj", 4096),
            _block("ffn_block", path, "post_attention_layernorm", "mlp.down_proj", 4096),
        ),
        vocab_size=128256,
        forward_arguments=("input_ids", "attention_mask", "past_key_values", "inputs_embeds"),
        uses_attention_interface=True,
    )


def _bert_base() -> ModelShape:
    path = "bert.encoder.layer.{layer}."

    def linear(site: str, module: str, outputs: int = 768, inputs: int = 768) -> SiteShape:
        return SiteShape(
            site=site, path=path + module, in_features=inputs, out_features=outputs, has_bias=True
        )

    return ModelShape(
        name="BERT-base",
        model_type="bert",
        num_layers=12,
        hidden_size=768,
        num_attention_heads=12,
        num_key_value_heads=12,
        head_size=64,
        sites=(
            linear("q", "attention.self.query"),
            linear("k", "attention.self.key"),
            linear("v", "attention.self.value"),
            linear("attention_output", "attention.output.dense"),
            linear("ffn_in", "intermediate.dense", 3072),
            linear("ffn_out", "output.dense", 768, 3072),
        ),
        num_base_parameters=109_482_240,
        num_head_parameters=1538,
        head_paths=("classifier",),
        stacks=(("layers", 12),),
        norms=(
            _norm("attention_norm", path + "attention.output.LayerNorm", 768, has_bias=True),
            _norm("ffn_norm", path + "output.LayerNorm", 768, has_bias=True),
        ),
        embeddings=(_embedding("token_embedding", "bert.embeddings.word_embeddings", 30522, 768),),
        blocks=(
            _block("attention_block", path, "attention", "attention", 768),
            _block("ffn_block", path, "intermediate", "output", 768),
        ),
        vocab_size=30522,
        forward_arguments=("input_ids", "attention_mask", "inputs_embeds"),
        uses_attention_interface=True,
    )


def _norm(site: str, path: str, width: int, *, has_bias: bool) -> SiteShape:
    return SiteShape(
        site=site,
        path=path,
        in_features=width,
        out_features=width,
        has_bias=has_bias,
        kind="norm",
    )


def _embedding(site: str, path: str, rows: int, width: int) -> SiteShape:
    return SiteShape(
        site=site,
        path=path,
        in_features=rows,
        out_features=width,
        has_bias=False,
        kind="embedding",
    )


def _block(site: str, path: str, start: str, end: str, width: int) -> SiteShape:
    return SiteShape(
        site=site,
        path=path + start,
        end_path=path + end,
        in_features=width,
        out_features=width,
        has_bias=False,
        kind="block",
    )
