"""A tiny model of each family: a transformers config (two layers, 32 wide, 100 tokens), no network.

``FAMILIES[name]()`` gives a fresh config, ``build`` the random model for a task, ``write`` a
folder that a job can name (without a tokenizer), ``inputs`` a batch for its ``forward``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

HIDDEN = 32
LAYERS = 2
HEADS = 4
HEAD_SIZE = HIDDEN // HEADS
INNER = 48
VOCABULARY = 100
POSITIONS = 64
NUM_CLASSES = 3

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
}
_DECODER = {**_SIZES, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": HIDDEN,
    "d_kv": HEAD_SIZE,
    "d_ff": INNER,
    "num_layers": LAYERS,
    "num_decoder_layers": LAYERS,
    "num_heads": HEADS,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}


def bert() -> Any:
    """Return an encoder with normalisation after each block."""
    return transformers.BertConfig(**_SIZES)


def roberta() -> Any:
    """Return BERT with positions that start after the padding token's number."""
    return transformers.RobertaConfig(**{**_SIZES, "pad_token_id": 1})


def deberta_v2() -> Any:
    """Return disentangled attention; the positions share the projections of the content."""
    return transformers.DebertaV2Config(
        **_SIZES,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
        type_vocab_size=0,
    )


def distilbert() -> Any:
    """Return BERT under other names, without token types and pooler."""
    return transformers.DistilBertConfig(
        vocab_size=VOCABULARY,
        dim=HIDDEN,
        n_layers=LAYERS,
        n_heads=HEADS,
        hidden_dim=INNER,
        max_position_embeddings=POSITIONS,
        pad_token_id=0,
    )


def modernbert() -> Any:
    """Return fused ``Wqkv`` and fused gate, no biases; its first layer lacks a normalisation."""
    return transformers.ModernBertConfig(
        **_SIZES,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
        local_attention=8,
    )


def gpt2() -> Any:
    """Return a decoder with fused, transposed linear layers (``Conv1D``)."""
    return transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=HIDDEN,
        n_layer=LAYERS,
        n_head=HEADS,
        n_inner=INNER,
        n_positions=POSITIONS,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def llama() -> Any:
    """Return grouped-query attention and a gated feed-forward, no biases."""
    return transformers.LlamaConfig(**_DECODER)


def qwen2() -> Any:
    """Return Llama with biases at q, k and v."""
    return transformers.Qwen2Config(**_DECODER)


def qwen3() -> Any:
    """Return Llama with normalised queries and keys."""
    return transformers.Qwen3Config(**_DECODER, head_dim=HEAD_SIZE)


def mistral() -> Any:
    """Return Llama with a sliding window."""
    return transformers.MistralConfig(**_DECODER, head_dim=HEAD_SIZE)


def gemma() -> Any:
    """Return heads whose widths do not add up to the hidden size; tied embeddings."""
    return transformers.GemmaConfig(**_DECODER, head_dim=16)


def gemma2() -> Any:
    """Return a normalisation before and after each block."""
    return transformers.Gemma2Config(
        **_DECODER, head_dim=16, query_pre_attn_scalar=16, sliding_window=16
    )


def gemma3() -> Any:
    """Return Gemma 2 with normalised queries and keys."""
    return transformers.Gemma3TextConfig(
        **_DECODER, head_dim=16, query_pre_attn_scalar=16, sliding_window=16
    )


def mixtral() -> Any:
    """Return four experts a layer, two for each token; the experts are stacked parameters."""
    return transformers.MixtralConfig(**_DECODER, num_local_experts=4, num_experts_per_tok=2)


def qwen2_moe() -> Any:
    """Return a plain first layer, and a second with four small experts and a shared one."""
    return transformers.Qwen2MoeConfig(
        **_DECODER,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=24,
        mlp_only_layers=[0],
    )


def t5() -> Any:
    """Return encoder and decoder, with relative positions."""
    return transformers.T5Config(**_T5)


def t5_gated() -> Any:
    """Return T5 1.1: a gated feed-forward; here with a deeper decoder."""
    return transformers.T5Config(
        **{**_T5, "num_decoder_layers": LAYERS + 1},
        feed_forward_proj="gated-gelu",
    )


def vit() -> Any:
    """Return images of 8 x 8 in patches of 4 x 4."""
    return transformers.ViTConfig(
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=INNER,
        image_size=8,
        patch_size=4,
    )


def ast() -> Any:
    """Return spectrograms of 24 frames and 16 bands."""
    return transformers.ASTConfig(
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=INNER,
        patch_size=4,
        frequency_stride=4,
        time_stride=4,
        max_length=24,
        num_mel_bins=16,
    )


def clip_vision() -> Any:
    """Return CLIP, of which image classification builds the vision tower alone."""
    sizes = {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
    }
    return transformers.CLIPConfig(
        text_config={
            **sizes,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": POSITIONS,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        vision_config={**sizes, "image_size": 8, "patch_size": 4},
        projection_dim=HIDDEN,
    )


def mamba() -> Any:
    """Return a state-space model: no attention, no feed-forward."""
    return transformers.MambaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        state_size=4,
        conv_kernel=4,
        expand=2,
        time_step_rank=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


FAMILIES: Mapping[str, Callable[[], Any]] = {
    "bert": bert,
    "roberta": roberta,
    "deberta-v2": deberta_v2,
    "distilbert": distilbert,
    "modernbert": modernbert,
    "gpt2": gpt2,
    "llama": llama,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "mistral": mistral,
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3": gemma3,
    "mixtral": mixtral,
    "qwen2-moe": qwen2_moe,
    "t5": t5,
    "t5-gated": t5_gated,
    "vit": vit,
    "ast": ast,
    "clip-vision": clip_vision,
    "mamba": mamba,
}
ENCODERS = ("bert", "roberta", "deberta-v2", "distilbert", "modernbert")
DECODERS = (
    *("gpt2", "llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3"),
    *("mixtral", "qwen2-moe", "mamba"),
)
#: The task a family is made for.
TASK_OF: Mapping[str, str] = {
    **dict.fromkeys(ENCODERS, "classification"),
    **dict.fromkeys(DECODERS, "causal-lm"),
    "t5": "seq2seq-lm",
    "t5-gated": "seq2seq-lm",
    "vit": "image-classification",
    "ast": "audio-classification",
    "clip-vision": "image-classification",
}
AUTO_CLASSES: Mapping[str, str] = {
    "classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "causal-lm": "AutoModelForCausalLM",
    "seq2seq-lm": "AutoModelForSeq2SeqLM",
    "token-classification": "AutoModelForTokenClassification",
    "multiple-choice": "AutoModelForMultipleChoice",
    "image-classification": "AutoModelForImageClassification",
    "audio-classification": "AutoModelForAudioClassification",
}


def config_of(family: str, task: str | None = None) -> Any:
    """Return a config ready to build from: number of classes, public name, no dropout."""
    config = FAMILIES[family]()
    task = task or TASK_OF[family]
    config.num_labels = 1 if task in ("regression", "multiple-choice") else NUM_CLASSES
    config.problem_type = {
        "classification": "single_label_classification",
        "regression": "regression",
    }.get(task)
    config._name_or_path = f"tiny-{family}"
    for name in ("dropout", "attention_dropout", "hidden_dropout_prob", "dropout_rate"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    for name in ("attention_probs_dropout_prob", "attn_pdrop", "embd_pdrop", "resid_pdrop"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    return config


def build(family: str, task: str | None = None, *, seed: int = 0) -> Any:
    """Return the random model with the task's head, in evaluation mode and float32."""
    config = config_of(family, task)
    auto = getattr(transformers, AUTO_CLASSES[task or TASK_OF[family]])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return auto.from_config(config, attn_implementation="eager").eval()


def write(folder: Path, family: str, task: str | None = None) -> Path:
    """Write the model without its head where it has one, as a published base model is.

    A language model is written as it is. There is no tokenizer beside it.
    """
    model = build(family, task)
    has_head = (task or TASK_OF[family]) not in ("causal-lm", "seq2seq-lm")
    (model.base_model if has_head else model).save_pretrained(folder)
    return folder


def inputs(
    family: str, task: str | None = None, *, batch_size: int = 2, tokens: int = 6, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Return a batch for ``forward``: tokens without padding, images or spectrograms; no labels."""
    generator = torch.Generator().manual_seed(seed)
    config = FAMILIES[family]()
    if family in ("vit", "clip-vision"):
        return {"pixel_values": torch.randn(batch_size, 3, 8, 8, generator=generator)}
    if family == "ast":
        frames = (batch_size, config.max_length, config.num_mel_bins)
        return {"input_values": torch.randn(frames, generator=generator)}
    size: tuple[int, ...] = (batch_size, tokens)
    if (task or TASK_OF[family]) == "multiple-choice":
        size = (batch_size, 2, tokens)

    def draw() -> torch.Tensor:
        return torch.randint(3, VOCABULARY, size, generator=generator)

    batch = {"input_ids": draw()}
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    if family in ("t5", "t5-gated") and (task or TASK_OF[family]) == "seq2seq-lm":
        batch["decoder_input_ids"] = draw()
    return batch
