"""Shapes of models with every kind of site, and of models whose layers differ."""

from __future__ import annotations

from dataclasses import replace

from autopeft.records import ModelShape, SiteShape
from tests.search_spaces.shapes import bert_shape


def rich_bert_shape(
    num_layers: int = 12, width: int = 768, inner: int = 3072, heads: int = 12
) -> ModelShape:
    """Return the shape of a BERT with its normalisations, embeddings and blocks."""

    def norm(name: str, path: str) -> SiteShape:
        return SiteShape(
            site=name, path=path, in_features=width, out_features=width, has_bias=True, kind="norm"
        )

    layer = "bert.encoder.layer.{layer}"
    return replace(
        bert_shape(num_layers, width, inner, heads),
        norms=(
            norm("embedding_norm", "bert.embeddings.LayerNorm"),
            norm("post_attention_norm", f"{layer}.attention.output.LayerNorm"),
            norm("post_ffn_norm", f"{layer}.output.LayerNorm"),
        ),
        embeddings=(
            SiteShape(
                site="token_embedding",
                path="bert.embeddings.word_embeddings",
                in_features=50,
                out_features=width,
                has_bias=False,
                kind="embedding",
            ),
        ),
        blocks=tuple(
            SiteShape(
                site=name,
                path=f"{layer}.{first}",
                end_path=f"{layer}.{last}",
                in_features=width,
                out_features=width,
                has_bias=False,
                kind="block",
            )
            for name, first, last in (
                ("attention_block", "attention.self", "attention.output.dense"),
                ("ffn_block", "intermediate.dense", "output.dense"),
            )
        ),
        stacks=(("encoder", num_layers),),
        vocab_size=50,
        forward_arguments=("input_ids", "attention_mask", "past_key_values", "inputs_embeds"),
        uses_attention_interface=True,
    )


def encoder_decoder_shape(layers_each: int = 3, width: int = 32) -> ModelShape:
    """Return an encoder and a decoder: only the decoder's layers attend to the encoder."""

    def linear(name: str, stack: str, first: int) -> SiteShape:
        return SiteShape(
            site=name,
            path=f"{stack}.block.{{layer}}.{name}",
            in_features=width,
            out_features=width,
            has_bias=False,
            layers=tuple(range(first, first + layers_each)),
            first_layer=first,
        )

    own = ("q", "k", "v", "attention_output", "ffn_in", "ffn_out")
    cross = ("cross_q", "cross_k", "cross_v", "cross_attention_output")
    final = SiteShape(
        site="final_norm",
        path="decoder.final_layer_norm",
        in_features=width,
        out_features=width,
        has_bias=False,
        kind="norm",
    )
    return replace(
        bert_shape(2 * layers_each, width, width, 4, model_type="t5"),
        sites=(
            *(linear(name, "encoder", 0) for name in own),
            *(linear(name, "decoder", layers_each) for name in (*own, *cross)),
        ),
        norms=(final,),
        stacks=(("encoder", layers_each), ("decoder", layers_each)),
        head_paths=(),
        num_head_parameters=0,
        task="seq2seq-lm",
    )


def alternating_shape(num_layers: int = 6, width: int = 32) -> ModelShape:
    """Return layers of two kinds in turn: attention in the even ones, a mixer in the odd ones."""

    def linear(name: str, layers: tuple[int, ...] | None) -> SiteShape:
        return SiteShape(
            site=name,
            path=f"model.layers.{{layer}}.{name}",
            in_features=width,
            out_features=width,
            has_bias=False,
            layers=layers,
        )

    even, odd = tuple(range(0, num_layers, 2)), tuple(range(1, num_layers, 2))
    return replace(
        bert_shape(num_layers, width, width, 4, model_type="hybrid"),
        sites=(
            linear("q", even),
            linear("v", even),
            linear("ffn_in", None),
            linear("mixer_in", odd),
            linear("mixer_out", odd),
        ),
        head_paths=(),
        num_head_parameters=0,
        task="causal-lm",
    )
