"""What each family of ``families.py`` holds, read off the modules of transformers by eye.

A line has the site, its path with ``*`` for the layer, its widths, and what is not the default. A
block is written as the sites it begins and ends with, or as the one module that it is.
"""

from __future__ import annotations

from collections.abc import Mapping

from autopeft.records import ModelShape, SiteShape


def table_of(shape: ModelShape) -> list[str]:
    """Return the lines for a shape."""
    names = {site.path: site.site for site in shape.all_sites if site.kind != "block"}
    return [_line(site, names) for site in shape.all_sites]


def _line(site: SiteShape, names: Mapping[str, str]) -> str:
    words = [site.site]
    if site.kind == "block" and site.end_path:
        words.append(f"{names[site.path]}..{names[site.end_path]}")
    else:
        words.append(site.path.replace("{layer}", "*"))
    if site.kind != "block":
        words.append(f"{site.in_features}x{site.out_features}")
    if site.kernel_size:
        words.append(f"({'x'.join(map(str, site.kernel_size))})")
    if site.kind not in ("linear", "block"):
        words.append(site.kind)
    if site.has_bias:
        words.append("bias")
    if site.layers is not None:
        words.append(f"layers={','.join(map(str, site.layers))}")
    return " ".join(words)


TABLES: Mapping[str, str] = {
    "bert": """
        q bert.encoder.layer.*.attention.self.query 32x32 bias
        k bert.encoder.layer.*.attention.self.key 32x32 bias
        v bert.encoder.layer.*.attention.self.value 32x32 bias
        attention_output bert.encoder.layer.*.attention.output.dense 32x32 bias
        ffn_in bert.encoder.layer.*.intermediate.dense 32x48 bias
        ffn_out bert.encoder.layer.*.output.dense 48x32 bias
        attention_norm bert.encoder.layer.*.attention.output.LayerNorm 32x32 norm bias
        ffn_norm bert.encoder.layer.*.output.LayerNorm 32x32 norm bias
        embedding_norm bert.embeddings.LayerNorm 32x32 norm bias
        token_embedding bert.embeddings.word_embeddings 100x32 embedding
        position_embedding bert.embeddings.position_embeddings 64x32 embedding
        type_embedding bert.embeddings.token_type_embeddings 2x32 embedding
        attention_block q..attention_output
        ffn_block ffn_in..ffn_out
    """,
    "roberta": """
        q roberta.encoder.layer.*.attention.self.query 32x32 bias
        k roberta.encoder.layer.*.attention.self.key 32x32 bias
        v roberta.encoder.layer.*.attention.self.value 32x32 bias
        attention_output roberta.encoder.layer.*.attention.output.dense 32x32 bias
        ffn_in roberta.encoder.layer.*.intermediate.dense 32x48 bias
        ffn_out roberta.encoder.layer.*.output.dense 48x32 bias
        attention_norm roberta.encoder.layer.*.attention.output.LayerNorm 32x32 norm bias
        ffn_norm roberta.encoder.layer.*.output.LayerNorm 32x32 norm bias
        embedding_norm roberta.embeddings.LayerNorm 32x32 norm bias
        token_embedding roberta.embeddings.word_embeddings 100x32 embedding
        position_embedding roberta.embeddings.position_embeddings 64x32 embedding
        type_embedding roberta.embeddings.token_type_embeddings 2x32 embedding
        attention_block q..attention_output
        ffn_block ffn_in..ffn_out
    """,
    "deberta-v2": """
        q deberta.encoder.layer.*.attention.self.query_proj 32x32 bias
        k deberta.encoder.layer.*.attention.self.key_proj 32x32 bias
        v deberta.encoder.layer.*.attention.self.value_proj 32x32 bias
        attention_output deberta.encoder.layer.*.attention.output.dense 32x32 bias
        ffn_in deberta.encoder.layer.*.intermediate.dense 32x48 bias
        ffn_out deberta.encoder.layer.*.output.dense 48x32 bias
        attention_norm deberta.encoder.layer.*.attention.output.LayerNorm 32x32 norm bias
        ffn_norm deberta.encoder.layer.*.output.LayerNorm 32x32 norm bias
        embedding_norm deberta.embeddings.LayerNorm 32x32 norm bias
        token_embedding deberta.embeddings.word_embeddings 100x32 embedding
        attention_block q..attention_output
        ffn_block ffn_in..ffn_out
    """,
    "distilbert": """
        q distilbert.transformer.layer.*.attention.q_lin 32x32 bias
        k distilbert.transformer.layer.*.attention.k_lin 32x32 bias
        v distilbert.transformer.layer.*.attention.v_lin 32x32 bias
        attention_output distilbert.transformer.layer.*.attention.out_lin 32x32 bias
        ffn_in distilbert.transformer.layer.*.ffn.lin1 32x48 bias
        ffn_out distilbert.transformer.layer.*.ffn.lin2 48x32 bias
        attention_norm distilbert.transformer.layer.*.sa_layer_norm 32x32 norm bias
        ffn_norm distilbert.transformer.layer.*.output_layer_norm 32x32 norm bias
        embedding_norm distilbert.embeddings.LayerNorm 32x32 norm bias
        token_embedding distilbert.embeddings.word_embeddings 100x32 embedding
        position_embedding distilbert.embeddings.position_embeddings 64x32 embedding
        attention_block q..attention_output
        ffn_block ffn_in..ffn_out
    """,
    "modernbert": """
        qkv model.layers.*.attn.Wqkv 32x96
        attention_output model.layers.*.attn.Wo 32x32
        ffn_gate_in model.layers.*.mlp.Wi 32x96
        ffn_out model.layers.*.mlp.Wo 48x32
        attention_norm model.layers.*.attn_norm 32x32 norm layers=1
        ffn_norm model.layers.*.mlp_norm 32x32 norm
        embedding_norm model.embeddings.norm 32x32 norm
        final_norm model.final_norm 32x32 norm
        token_embedding model.embeddings.tok_embeddings 100x32 embedding
        attention_block qkv..attention_output
        ffn_block ffn_gate_in..ffn_out
    """,
    "gpt2": """
        qkv transformer.h.*.attn.c_attn 32x96 conv1d bias
        attention_output transformer.h.*.attn.c_proj 32x32 conv1d bias
        ffn_in transformer.h.*.mlp.c_fc 32x48 conv1d bias
        ffn_out transformer.h.*.mlp.c_proj 48x32 conv1d bias
        attention_norm transformer.h.*.ln_1 32x32 norm bias
        ffn_norm transformer.h.*.ln_2 32x32 norm bias
        final_norm transformer.ln_f 32x32 norm bias
        token_embedding transformer.wte 100x32 embedding
        position_embedding transformer.wpe 64x32 embedding
        attention_block qkv..attention_output
        ffn_block ffn_in..ffn_out
    """,
    "llama": """
        q model.layers.*.self_attn.q_proj 32x32
        k model.layers.*.self_attn.k_proj 32x16
        v model.layers.*.self_attn.v_proj 32x16
        attention_output model.layers.*.self_attn.o_proj 32x32
        ffn_gate model.layers.*.mlp.gate_proj 32x48
        ffn_in model.layers.*.mlp.up_proj 32x48
        ffn_out model.layers.*.mlp.down_proj 48x32
        attention_norm model.layers.*.input_layernorm 32x32 norm
        ffn_norm model.layers.*.post_attention_layernorm 32x32 norm
        final_norm model.norm 32x32 norm
        token_embedding model.embed_tokens 100x32 embedding
        attention_block q..attention_output
        ffn_block ffn_gate..ffn_out
    """,
    "qwen2": """
        q model.layers.*.self_attn.q_proj 32x32 bias
        k model.layers.*.self_attn.k_proj 32x16 bias
        v model.layers.*.self_attn.v_proj 32x16 bias
        attention_output model.layers.*.self_attn.o_proj 32x32
        ffn_gate model.layers.*.mlp.gate_proj 32x48
        ffn_in model.layers.*.mlp.up_proj 32x48
        ffn_out model.layers.*.mlp.down_proj 48x32
        attention_norm model.layers.*.input_layernorm 32x32 norm
        ffn_norm model.layers.*.post_attention_layernorm 32x32 norm
        final_norm model.norm 32x32 norm
        token_embedding model.embed_tokens 100x32 embedding
        attention_block q..attention_output
        ffn_block ffn_gate..ffn_out
    """,
    "qwen3": """
        q model.layers.*.self_attn.q_proj 32x32
        k model.layers.*.self_attn.k_proj 32x16
        v model.layers.*.self_attn.v_proj 32x16
        attention_output model.layers.*.self_attn.o_proj 32x32
        ffn_gate model.layers.*.mlp.gate_proj 32x48
        ffn_in model.layers.*.mlp.up_proj 32x48
        ffn_out model.layers.*.mlp.down_proj 48x32
        attention_norm model.layers.*.input_layernorm 32x32 norm
        ffn_norm model.layers.*.post_attention_layernorm 32x32 norm
        q_norm model.layers.*.self_attn.q_norm 8x8 norm
        k_norm model.layers.*.self_attn.k_norm 8x8 norm
        final_norm model.norm 32x32 norm
        token_embedding model.embed_tokens 100x32 embedding
        attention_block q..attention_output
        ffn_block ffn_gate..ffn_out
    """,
    "mistral": """
        q model.layers.*.self_attn.q_proj 32x32
        k model.layers.*.self_attn.k_proj 32x16
        v model.layers.*.self_attn.v_proj 32x16
        attention_output model.layers.*.self_attn.o_proj 32x32
        ffn_gate model.layers.*.mlp.gate_proj 32x48
        ffn_in model.layers.*.mlp.up_proj 32x48
        ffn_out model.layers.*.mlp.down_proj 48x32
        attention_norm model.layers.*.input_layernorm 32x32 norm
        ffn_norm model.layers.*.post_attention_layernorm 32x32 norm
        final_norm model.norm 32x32 norm
        token_embedding model.embed_tokens 100x32 embedding
        attention_block q..attention_output
        ffn_block ffn_gate..ffn_out
    """,
    "gemma": """
        q model.layers.*.self_attn.q_proj 32x64
        k model.layers.*.self_attn.k_proj 32x32
        v model.layers.*.self_attn.v_proj 32x32
        attention_output model.layers.*.self_attn.o_proj 64x32
        ffn_gate model.layers.*.mlp.gate_proj 32x48
        ffn_in model.layers.*.mlp.up_proj 32x48
        ffn_out model.layers.*.mlp.down_proj 48x32
        attention_norm model.layers.*.input_layernorm 32x32 norm
        ffn_norm model.layers.*.post_attention_layernorm 32x32 norm
        final_norm model.norm 32x32 norm
        token_embedding model.embed_tokens 100x32 embedding
        attention_block q..attention_output
        ffn_block ffn_gate..ffn_out
    """,
    "gemma2": """
        q model.layers.*.self_attn.q_proj 32x64
        k model.layers.*.self_attn.k_proj 32x32
        v model.layers.*.self_attn.v_proj 32x32
        attention_output model.layers.*.self_attn.o_proj 64x32
        ffn_gate model.layers.*.mlp.gate_proj 32x48
        ffn_in model.layers.*.mlp.up_proj 32x48
        ffn_out model.layers.*.mlp.down_proj 48x32
        attention_norm model.layers.*.input_layernorm 32x32 norm
        post_attention_norm model.layers.*.post_attention_layernorm 32x32 norm
        ffn_norm model.layers.*.pre_feedforward_layernorm 32x32 norm
        post_ffn_norm model.layers.*.post_feedforward_layernorm 32x32 norm
        final_norm model.norm 32x32 norm
        token_embedding model.embed_tokens 100x32 embedding
        attention_block q..attention_output
        ffn_block ffn_gate..ffn_out
    """,
    "gemma3": """
        q model.layers.*.self_attn.q_proj 32x64
        k model.layers.*.self_attn.k_proj 32x32
        v model.layers.*.self_attn.v_proj 32x32
        attention_output model.layers.*.self_attn.o_proj 64x32
        ffn_gate model.layers.*.mlp.gate_proj 32x48
        ffn_in model.layers.*.mlp.up_proj 32x48
        ffn_out model.layers.*.mlp.down_proj 48x32
        attention_norm model.layers.*.input_layernorm 32x32 norm
        post_attention_norm model.layers.*.post_attention_layernorm 32x32 norm
        ffn_norm model.layers.*.pre_feedforward_layernorm 32x32 norm
        post_ffn_norm model.layers.*.post_feedforward_layernorm 32x32 norm
        q_norm model.layers.*.self_attn.q_norm 16x16 norm
        k_norm model.layers.*.self_attn.k_norm 16x16 norm
        final_norm model.norm 32x32 norm
        token_embedding model.embed_tokens 100x32 embedding
        attention_block q..attention_output
        ffn_block ffn_gate..ffn_out
    """,
    "mixtral": """
        q model.layers.*.self_attn.q_proj 32x32
        k model.layers.*.self_attn.k_proj 32x16
        v model.layers.*.self_attn.v_proj 32x16
        attention_output model.layers.*.self_attn.o_proj 32x32
        attention_norm model.layers.*.input_layernorm 32x32 norm
        ffn_norm model.layers.*.post_attention_layernorm 32x32 norm
        final_norm model.norm 32x32 norm
        token_embedding model.embed_tokens 100x32 embedding
        attention_block q..attention_output
        ffn_block model.layers.*.mlp
        router model.layers.*.mlp.gate.weight 32x4 parameter
        experts_gate_in model.layers.*.mlp.experts.gate_up_proj 32x96 (4) parameter
        experts_out model.layers.*.mlp.experts.down_proj 48x32 (4) parameter
    """,
    "qwen2-moe": """
        q model.layers.*.self_attn.q_proj 32x32 bias
        k model.layers.*.self_attn.k_proj 32x16 bias
        v model.layers.*.self_attn.v_proj 32x16 bias
        attention_output model.layers.*.self_attn.o_proj 32x32
        ffn_gate model.layers.*.mlp.gate_proj 32x48 layers=0
        ffn_gate model.layers.*.mlp.shared_expert.gate_proj 32x24 layers=1
        ffn_in model.layers.*.mlp.up_proj 32x48 layers=0
        ffn_in model.layers.*.mlp.shared_expert.up_proj 32x24 layers=1
        ffn_out model.layers.*.mlp.down_proj 48x32 layers=0
        ffn_out model.layers.*.mlp.shared_expert.down_proj 24x32 layers=1
        attention_norm model.layers.*.input_layernorm 32x32 norm
        ffn_norm model.layers.*.post_attention_layernorm 32x32 norm
        final_norm model.norm 32x32 norm
        token_embedding model.embed_tokens 100x32 embedding
        attention_block q..attention_output
        ffn_block ffn_gate..ffn_out layers=0
        ffn_block model.layers.*.mlp layers=1
        router model.layers.*.mlp.gate.weight 32x4 parameter layers=1
        experts_gate_in model.layers.*.mlp.experts.gate_up_proj 32x32 (4) parameter layers=1
        experts_out model.layers.*.mlp.experts.down_proj 16x32 (4) parameter layers=1
    """,
    "t5": """
        q encoder.block.*.layer.0.SelfAttention.q 32x32 layers=0,1
        q decoder.block.*.layer.0.SelfAttention.q 32x32 layers=2,3
        k encoder.block.*.layer.0.SelfAttention.k 32x32 layers=0,1
        k decoder.block.*.layer.0.SelfAttention.k 32x32 layers=2,3
        v encoder.block.*.layer.0.SelfAttention.v 32x32 layers=0,1
        v decoder.block.*.layer.0.SelfAttention.v 32x32 layers=2,3
        attention_output encoder.block.*.layer.0.SelfAttention.o 32x32 layers=0,1
        attention_output decoder.block.*.layer.0.SelfAttention.o 32x32 layers=2,3
        cross_q decoder.block.*.layer.1.EncDecAttention.q 32x32 layers=2,3
        cross_k decoder.block.*.layer.1.EncDecAttention.k 32x32 layers=2,3
        cross_v decoder.block.*.layer.1.EncDecAttention.v 32x32 layers=2,3
        cross_attention_output decoder.block.*.layer.1.EncDecAttention.o 32x32 layers=2,3
        ffn_in encoder.block.*.layer.1.DenseReluDense.wi 32x48 layers=0,1
        ffn_in decoder.block.*.layer.2.DenseReluDense.wi 32x48 layers=2,3
        ffn_out encoder.block.*.layer.1.DenseReluDense.wo 48x32 layers=0,1
        ffn_out decoder.block.*.layer.2.DenseReluDense.wo 48x32 layers=2,3
        attention_norm encoder.block.*.layer.0.layer_norm 32x32 norm layers=0,1
        attention_norm decoder.block.*.layer.0.layer_norm 32x32 norm layers=2,3
        cross_attention_norm decoder.block.*.layer.1.layer_norm 32x32 norm layers=2,3
        ffn_norm encoder.block.*.layer.1.layer_norm 32x32 norm layers=0,1
        ffn_norm decoder.block.*.layer.2.layer_norm 32x32 norm layers=2,3
        final_norm encoder.final_layer_norm 32x32 norm
        final_norm decoder.final_layer_norm 32x32 norm
        token_embedding encoder.embed_tokens 100x32 embedding
        attention_block q..attention_output layers=0,1
        attention_block q..attention_output layers=2,3
        cross_attention_block cross_q..cross_attention_output layers=2,3
        ffn_block ffn_in..ffn_out layers=0,1
        ffn_block ffn_in..ffn_out layers=2,3
    """,
    "t5-gated": """
        q encoder.block.*.layer.0.SelfAttention.q 32x32 layers=0,1
        q decoder.block.*.layer.0.SelfAttention.q 32x32 layers=2,3,4
        k encoder.block.*.layer.0.SelfAttention.k 32x32 layers=0,1
        k decoder.block.*.layer.0.SelfAttention.k 32x32 layers=2,3,4
        v encoder.block.*.layer.0.SelfAttention.v 32x32 layers=0,1
        v decoder.block.*.layer.0.SelfAttention.v 32x32 layers=2,3,4
        attention_output encoder.block.*.layer.0.SelfAttention.o 32x32 layers=0,1
        attention_output decoder.block.*.layer.0.SelfAttention.o 32x32 layers=2,3,4
        cross_q decoder.block.*.layer.1.EncDecAttention.q 32x32 layers=2,3,4
        cross_k decoder.block.*.layer.1.EncDecAttention.k 32x32 layers=2,3,4
        cross_v decoder.block.*.layer.1.EncDecAttention.v 32x32 layers=2,3,4
        cross_attention_output decoder.block.*.layer.1.EncDecAttention.o 32x32 layers=2,3,4
        ffn_gate encoder.block.*.layer.1.DenseReluDense.wi_0 32x48 layers=0,1
        ffn_gate decoder.block.*.layer.2.DenseReluDense.wi_0 32x48 layers=2,3,4
        ffn_in encoder.block.*.layer.1.DenseReluDense.wi_1 32x48 layers=0,1
        ffn_in decoder.block.*.layer.2.DenseReluDense.wi_1 32x48 layers=2,3,4
        ffn_out encoder.block.*.layer.1.DenseReluDense.wo 48x32 layers=0,1
        ffn_out decoder.block.*.layer.2.DenseReluDense.wo 48x32 layers=2,3,4
        attention_norm encoder.block.*.layer.0.layer_norm 32x32 norm layers=0,1
        attention_norm decoder.block.*.layer.0.layer_norm 32x32 norm layers=2,3,4
        cross_attention_norm decoder.block.*.layer.1.layer_norm 32x32 norm layers=2,3,4
        ffn_norm encoder.block.*.layer.1.layer_norm 32x32 norm layers=0,1
        ffn_norm decoder.block.*.layer.2.layer_norm 32x32 norm layers=2,3,4
        final_norm encoder.final_layer_norm 32x32 norm
        final_norm decoder.final_layer_norm 32x32 norm
        token_embedding encoder.embed_tokens 100x32 embedding
        attention_block q..attention_output layers=0,1
        attention_block q..attention_output layers=2,3,4
        cross_attention_block cross_q..cross_attention_output layers=2,3,4
        ffn_block ffn_gate..ffn_out layers=0,1
        ffn_block ffn_gate..ffn_out layers=2,3,4
    """,
    "vit": """
        q vit.layers.*.attention.q_proj 32x32 bias
        k vit.layers.*.attention.k_proj 32x32 bias
        v vit.layers.*.attention.v_proj 32x32 bias
        attention_output vit.layers.*.attention.o_proj 32x32 bias
        ffn_in vit.layers.*.mlp.fc1 32x48 bias
        ffn_out vit.layers.*.mlp.fc2 48x32 bias
        attention_norm vit.layers.*.layernorm_before 32x32 norm bias
        ffn_norm vit.layers.*.layernorm_after 32x32 norm bias
        final_norm vit.layernorm 32x32 norm bias
        attention_block q..attention_output
        ffn_block ffn_in..ffn_out
        patch_embedding vit.embeddings.patch_embeddings.projection 3x32 (4x4) convolution bias
    """,
    "ast": """
        q audio_spectrogram_transformer.layers.*.attention.q_proj 32x32 bias
        k audio_spectrogram_transformer.layers.*.attention.k_proj 32x32 bias
        v audio_spectrogram_transformer.layers.*.attention.v_proj 32x32 bias
        attention_output audio_spectrogram_transformer.layers.*.attention.o_proj 32x32 bias
        ffn_in audio_spectrogram_transformer.layers.*.mlp.fc1 32x48 bias
        ffn_out audio_spectrogram_transformer.layers.*.mlp.fc2 48x32 bias
        attention_norm audio_spectrogram_transformer.layers.*.layernorm_before 32x32 norm bias
        ffn_norm audio_spectrogram_transformer.layers.*.layernorm_after 32x32 norm bias
        final_norm audio_spectrogram_transformer.layernorm 32x32 norm bias
        attention_block q..attention_output
        ffn_block ffn_in..ffn_out
        patch_embedding audio_spectrogram_transformer.embeddings.patch_embeddings.projection \
1x32 (4x4) convolution bias
    """,
    "clip-vision": """
        q vision_model.encoder.layers.*.self_attn.q_proj 32x32 bias
        k vision_model.encoder.layers.*.self_attn.k_proj 32x32 bias
        v vision_model.encoder.layers.*.self_attn.v_proj 32x32 bias
        attention_output vision_model.encoder.layers.*.self_attn.out_proj 32x32 bias
        ffn_in vision_model.encoder.layers.*.mlp.fc1 32x48 bias
        ffn_out vision_model.encoder.layers.*.mlp.fc2 48x32 bias
        attention_norm vision_model.encoder.layers.*.layer_norm1 32x32 norm bias
        ffn_norm vision_model.encoder.layers.*.layer_norm2 32x32 norm bias
        embedding_norm vision_model.pre_layrnorm 32x32 norm bias
        position_embedding vision_model.embeddings.position_embedding 5x32 embedding
        attention_block q..attention_output
        ffn_block ffn_in..ffn_out
        patch_embedding vision_model.embeddings.patch_embedding 3x32 (4x4) convolution
    """,
    "mamba": """
        mixer_in backbone.layers.*.mixer.in_proj 32x128
        mixer_x backbone.layers.*.mixer.x_proj 64x10
        mixer_dt backbone.layers.*.mixer.dt_proj 2x64 bias
        mixer_out backbone.layers.*.mixer.out_proj 64x32
        mixer_norm backbone.layers.*.norm 32x32 norm
        final_norm backbone.norm_f 32x32 norm
        token_embedding backbone.embeddings 100x32 embedding
        mixer_block mixer_in..mixer_out
        mixer_convolution backbone.layers.*.mixer.conv1d 64x64 (4) convolution bias
    """,
}
