"""Shapes of models, and the tiny real models they are of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autopeft.records import ModelShape, SiteShape

if TYPE_CHECKING:
    from torch import nn

BERT_PATHS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "attention_output": "attention.output.dense",
    "ffn_in": "intermediate.dense",
    "ffn_out": "output.dense",
}
LLAMA_PATHS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "attention_output": "self_attn.o_proj",
    "ffn_in": "mlp.up_proj",
    "ffn_out": "mlp.down_proj",
}
TINY_LAYERS, TINY_WIDTH, TINY_INNER, TINY_HEADS = 12, 32, 48, 4


def bert_shape(
    num_layers: int = TINY_LAYERS,
    width: int = TINY_WIDTH,
    inner: int = TINY_INNER,
    heads: int = TINY_HEADS,
    model_type: str = "bert",
) -> ModelShape:
    sizes = dict.fromkeys(BERT_PATHS, (width, width))
    sizes |= {"ffn_in": (width, inner), "ffn_out": (inner, width)}
    return ModelShape(
        name="tiny-bert",
        model_type=model_type,
        num_layers=num_layers,
        hidden_size=width,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_size=width // heads,
        sites=tuple(
            SiteShape(
                site=site,
                path=f"bert.encoder.layer.{{layer}}.{path}",
                in_features=sizes[site][0],
                out_features=sizes[site][1],
                has_bias=True,
            )
            for site, path in BERT_PATHS.items()
        ),
        num_base_parameters=100_000,
        num_head_parameters=3 * width + 3,
        head_paths=("classifier",),
    )


def llama_shape() -> ModelShape:
    """Return grouped-query attention (4 query heads on 2 key-value heads), no biases."""
    sizes = {
        "q": (32, 32),
        "k": (32, 16),
        "v": (32, 16),
        "attention_output": (32, 32),
        "ffn_in": (32, 48),
        "ffn_out": (48, 32),
    }
    return ModelShape(
        name="tiny-llama",
        model_type="llama",
        num_layers=3,
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_size=8,
        sites=tuple(
            SiteShape(
                site=site,
                path=f"model.layers.{{layer}}.{path}",
                in_features=sizes[site][0],
                out_features=sizes[site][1],
                has_bias=False,
            )
            for site, path in LLAMA_PATHS.items()
        ),
        num_base_parameters=100_000,
        num_head_parameters=3 * 32,
        head_paths=("score",),
    )


def bert_model() -> nn.Module:
    """Build the model of :func:`bert_shape`: random weights, pooler and three classes."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=TINY_WIDTH,
        num_hidden_layers=TINY_LAYERS,
        num_attention_heads=TINY_HEADS,
        intermediate_size=TINY_INNER,
        max_position_embeddings=128,  # BERT counts a prefix among its positions
        num_labels=3,
    )
    model: nn.Module = BertForSequenceClassification(config)
    return model.eval()


def llama_model() -> nn.Module:
    """Build the model of :func:`llama_shape`."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        num_labels=3,
        pad_token_id=0,
    )
    model: nn.Module = LlamaForSequenceClassification(config)
    return model.eval()
