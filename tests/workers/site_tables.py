"""What each family of ``families.py`` holds: site, path, widths, and what is not the default.

A block is written as its first and its last module. Read off the modules of transformers by eye.
"""

from __future__ import annotations

from collections.abc import Mapping

TABLES: Mapping[str, str] = {
    "bert": """
        q bert.encoder.layer.{layer}.attention.self.query 32x32 bias
        k bert.encoder.layer.{layer}.attention.self.key 32x32 bias
        v bert.encoder.layer.{layer}.attention.self.value 32x32 bias
        attention_output bert.encoder.layer.{layer}.attention.output.dense 32x32 bias
        ffn_in bert.encoder.layer.{layer}.intermediate.dense 32x48 bias
        ffn_out bert.encoder.layer.{layer}.output.dense 48x32 bias
        attention_norm bert.encoder.layer.{layer}.attention.output.LayerNorm 32x32 norm bias
        ffn_norm bert.encoder.layer.{layer}.output.LayerNorm 32x32 norm bias
        embedding_norm bert.embeddings.LayerNorm 32x32 norm bias
        token_embedding bert.embeddings.word_embeddings 100x32 embedding
        position_embedding bert.embeddings.position_embeddings 64x32 embedding
        type_embedding bert.embeddings.token_type_embeddings 2x32 embedding
        attention_block bert.encoder.layer.{layer}.attention.self.query -> bert.encoder.layer.{layer}.attention.output.dense
        ffn_block bert.encoder.layer.{layer}.intermediate.dense -> bert.encoder.layer.{layer}.output.dense
    """,
    "roberta": """
        q roberta.encoder.layer.{layer}.attention.self.query 32x32 bias
        k roberta.encoder.layer.{layer}.attention.self.key 32x32 bias
        v roberta.encoder.layer.{layer}.attention.self.value 32x32 bias
        attention_output roberta.encoder.layer.{layer}.attention.output.dense 32x32 bias
        ffn_in roberta.encoder.layer.{layer}.intermediate.dense 32x48 bias
        ffn_out roberta.encoder.layer.{layer}.output.dense 48x32 bias
        attention_norm roberta.encoder.layer.{layer}.attention.output.LayerNorm 32x32 norm bias
        ffn_norm roberta.encoder.layer.{layer}.output.LayerNorm 32x32 norm bias
        embedding_norm roberta.embeddings.LayerNorm 32x32 norm bias
        token_embedding roberta.embeddings.word_embeddings 100x32 embedding
        position_embedding roberta.embeddings.position_embeddings 64x32 embedding
        type_embedding roberta.embeddings.token_type_embeddings 2x32 embedding
        attention_block roberta.encoder.layer.{layer}.attention.self.query -> roberta.encoder.layer.{layer}.attention.output.dense
        ffn_block roberta.encoder.layer.{layer}.intermediate.dense -> roberta.encoder.layer.{layer}.output.dense
    """,
    "deberta-v2": """
        q deberta.encoder.layer.{layer}.attention.self.query_proj 32x32 bias
        k deberta.encoder.layer.{layer}.attention.self.key_proj 32x32 bias
        v deberta.encoder.layer.{layer}.attention.self.value_proj 32x32 bias
        attention_output deberta.encoder.layer.{layer}.attention.output.dense 32x32 bias
        ffn_in deberta.encoder.layer.{layer}.intermediate.dense 32x48 bias
        ffn_out deberta.encoder.layer.{layer}.output.dense 48x32 bias
        attention_norm deberta.encoder.layer.{layer}.attention.output.LayerNorm 32x32 norm bias
        ffn_norm deberta.encoder.layer.{layer}.output.LayerNorm 32x32 norm bias
        embedding_norm deberta.embeddings.LayerNorm 32x32 norm bias
        token_embedding deberta.embeddings.word_embeddings 100x32 embedding
        attention_block deberta.encoder.layer.{layer}.attention.self.query_proj -> deberta.encoder.layer.{layer}.attention.output.dense
        ffn_block deberta.encoder.layer.{layer}.intermediate.dense -> deberta.encoder.layer.{layer}.output.dense
    """,
    "distilbert": """
        q distilbert.transformer.layer.{layer}.attention.q_lin 32x32 bias
        k distilbert.transformer.layer.{layer}.attention.k_lin 32x32 bias
        v distilbert.transformer.layer.{layer}.attention.v_lin 32x32 bias
        attention_output distilbert.transformer.layer.{layer}.attention.out_lin 32x32 bias
        ffn_in distilbert.transformer.layer.{layer}.ffn.lin1 32x48 bias
        ffn_out distilbert.transformer.layer.{layer}.ffn.lin2 48x32 bias
        attention_norm distilbert.transformer.layer.{layer}.sa_layer_norm 32x32 norm bias
        ffn_norm distilbert.transformer.layer.{layer}.output_layer_norm 32x32 norm bias
        embedding_norm distilbert.embeddings.LayerNorm 32x32 norm bias
        token_embedding distilbert.embeddings.word_embeddings 100x32 embedding
        position_embedding distilbert.embeddings.position_embeddings 64x32 embedding
        attention_block distilbert.transformer.layer.{layer}.attention.q_lin -> distilbert.transformer.layer.{layer}.attention.out_lin
        ffn_block distilbert.transformer.layer.{layer}.ffn.lin1 -> distilbert.transformer.layer.{layer}.ffn.lin2
    """,
    "modernbert": """
        qkv model.layers.{layer}.attn.Wqkv 32x96
        attention_output model.layers.{layer}.attn.Wo 32x32
        ffn_gate_in model.layers.{layer}.mlp.Wi 32x96
        ffn_out model.layers.{layer}.mlp.Wo 48x32
        attention_norm model.layers.{layer}.attn_norm 32x32 norm layers=1
        ffn_norm model.layers.{layer}.mlp_norm 32x32 norm
        embedding_norm model.embeddings.norm 32x32 norm
        final_norm model.final_norm 32x32 norm
        token_embedding model.embeddings.tok_embeddings 100x32 embedding
        attention_block model.layers.{layer}.attn.Wqkv -> model.layers.{layer}.attn.Wo
        ffn_block model.layers.{layer}.mlp.Wi -> model.layers.{layer}.mlp.Wo
    """,
    "gpt2": """
        qkv transformer.h.{layer}.attn.c_attn 32x96 conv1d bias
        attention_output transformer.h.{layer}.attn.c_proj 32x32 conv1d bias
        ffn_in transformer.h.{layer}.mlp.c_fc 32x48 conv1d bias
        ffn_out transformer.h.{layer}.mlp.c_proj 48x32 conv1d bias
        attention_norm transformer.h.{layer}.ln_1 32x32 norm bias
        ffn_norm transformer.h.{layer}.ln_2 32x32 norm bias
        final_norm transformer.ln_f 32x32 norm bias
        token_embedding transformer.wte 100x32 embedding
        position_embedding transformer.wpe 64x32 embedding
        attention_block transformer.h.{layer}.attn.c_attn -> transformer.h.{layer}.attn.c_proj
        ffn_block transformer.h.{layer}.mlp.c_fc -> transformer.h.{layer}.mlp.c_proj
    """,
    "llama": """
        q model.layers.{layer}.self_attn.q_proj 32x32
        k model.layers.{layer}.self_attn.k_proj 32x16
        v model.layers.{layer}.self_attn.v_proj 32x16
        attention_output model.layers.{layer}.self_attn.o_proj 32x32
        ffn_gate model.layers.{layer}.mlp.gate_proj 32x48
        ffn_in model.layers.{layer}.mlp.up_proj 32x48
        ffn_out model.layers.{layer}.mlp.down_proj 48x32
        attention_norm model.layers.{layer}.input_layernorm 32x32 norm
        ffn_norm model.layers.{layer}.post_attention_layernorm 32x32 norm
        final_norm model.norm 32x32 norm
        token_embedding model.embed_tokens 100x32 embedding
        attention_block model.layers.{layer}.self_attn.q_proj -> model.layers.{layer}.self_attn.o_proj
        ffn_block model.layers.{layer}.mlp.gate_proj -> model.layers.{layer}.mlp.down_proj
    """,
    "qwen2": """
        q model.layers.{layer}.self_attn.q_proj 32x32 bias
        k model.layers.{layer}.self_attn.k_proj 32x16 bias
        v model.layers.{layer}.self_attn.v_proj 32x16 bias
        attention_output model.layers.{layer}.self_attn.o_proj 32x32
        ffn_gate model.layers.{layer}.mlp.gate_proj 32x48
        ffn_in model.layers.{layer}.mlp.up_proj 32x48
        ffn_out model.layers.{layer}.mlp.down_proj 48x32
        attention_norm model.layers.{layer}.input_layernorm 32x32 norm
        ffn_norm model.layers.{layer}.post_attention_layernorm 32x32 norm
        final_norm model.norm 32x32 norm
        token_embedding model.embed_tokens 100x32 embedding
        attention_block model.layers.{layer}.self_attn.q_proj -> model.layers.{layer}.self_attn.o_proj
        ffn_block model.layers.{layer}.mlp.gate_proj -> model.layers.{layer}.mlp.down_proj
    """,
    "qwen3": """
        q model.layers.{layer}.self_attn.q_proj 32x32
        k model.layers.{layer}.self_attn.k_proj 32x16
        v model.layers.{layer}.self_attn.v_proj 32x16
        attention_output model.layers.{layer}.self_attn.o_proj 32x32
        ffn_gate model.layers.{layer}.mlp.gate_proj 32x48
        ffn_in model.layers.{layer}.mlp.up_proj 32x48
        ffn_out model.layers.{layer}.mlp.down_proj 48x32
        attention_norm model.layers.{layer}.input_layernorm 32x32 norm
        ffn_norm model.layers.{layer}.post_attention_layernorm 32x32 norm
        q_norm model.layers.{layer}.self_attn.q_norm 8x8 norm
        k_norm model.layers.{layer}.self_attn.k_norm 8x8 norm
        final_norm model.norm 32x32 norm
        token_embedding model.embed_tokens 100x32 embedding
        attention_block model.layers.{layer}.self_attn.q_proj -> model.layers.{layer}.self_attn.o_proj
        ffn_block model.layers.{layer}.mlp.gate_proj -> model.layers.{layer}.mlp.down_proj
    """,
    "mistral": """
        q model.layers.{layer}.self_attn.q_proj 32x32
        k model.layers.{layer}.self_attn.k_proj 32x16
        v model.layers.{layer}.self_attn.v_proj 32x16
        attention_output model.layers.{layer}.self_attn.o_proj 32x32
        ffn_gate model.layers.{layer}.mlp.gate_proj 32x48
        ffn_in model.layers.{layer}.mlp.up_proj 32x48
        ffn_out model.layers.{layer}.mlp.down_proj 48x32
        attention_norm model.layers.{layer}.input_layernorm 32x32 norm
        ffn_norm model.layers.{layer}.post_attention_layernorm 32x32 norm
        final_norm model.norm 32x32 norm
        token_embedding model.embed_tokens 100x32 embedding
        attention_block model.layers.{layer}.self_attn.q_proj -> model.layers.{layer}.self_attn.o_proj
        ffn_block model.layers.{layer}.mlp.gate_proj -> model.layers.{layer}.mlp.down_proj
    """,
    "gemma": """
        q model.layers.{layer}.self_attn.q_proj 32x64
        k model.layers.{layer}.self_attn.k_proj 32x32
        v model.layers.{layer}.self_attn.v_proj 32x32
        attention_output model.layers.{layer}.self_attn.o_proj 64x32
        ffn_gate model.layers.{layer}.mlp.gate_proj 32x48
        ffn_in model.layers.{layer}.mlp.up_proj 32x48
        ffn_out model.layers.{layer}.mlp.down_proj 48x32
        attention_norm model.layers.{layer}.input_layernorm 32x32 norm
        ffn_norm model.layers.{layer}.post_attention_layernorm 32x32 norm
        final_norm model.norm 32x32 norm
        token_embedding model.embed_tokens 100x32 embedding
        attention_block model.layers.{layer}.self_attn.q_proj -> model.layers.{layer}.self_attn.o_proj
        ffn_block model.layers.{layer}.mlp.gate_proj -> model.layers.{layer}.mlp.down_proj
    """,
    "gemma2": """
        q model.layers.{layer}.self_attn.q_proj 32x64
        k model.layers.{layer}.self_attn.k_proj 32x32
        v model.layers.{layer}.self_attn.v_proj 32x32
        attention_output model.layers.{layer}.self_attn.o_proj 64x32
        ffn_gate model.layers.{layer}.mlp.gate_proj 32x48
        ffn_in model.layers.{layer}.mlp.up_proj 32x48
        ffn_out model.layers.{layer}.mlp.down_proj 48x32
        attention_norm model.layers.{layer}.input_layernorm 32x32 norm
        post_attention_norm model.layers.{layer}.post_attention_layernorm 32x32 norm
        ffn_norm model.layers.{layer}.pre_feedforward_layernorm 32x32 norm
        post_ffn_norm model.layers.{layer}.post_feedforward_layernorm 32x32 norm
        final_norm model.norm 32x32 norm
        token_embedding model.embed_tokens 100x32 embedding
        attention_block model.layers.{layer}.self_attn.q_proj -> model.layers.{layer}.self_attn.o_proj
        ffn_block model.layers.{layer}.mlp.gate_proj -> model.layers.{layer}.mlp.down_proj
    """,
    "gemma3": """
        q model.layers.{layer}.self_attn.q_proj 32x64
        k model.layers.{layer}.self_attn.k_proj 32x32
        v model.layers.{layer}.self_attn.v_proj 32x32
        attention_output model.layers.{layer}.self_attn.o_proj 64x32
        ffn_gate model.layers.{layer}.mlp.gate_proj 32x48
        ffn_in model.layers.{layer}.mlp.up_proj 32x48
        ffn_out model.layers.{layer}.mlp.down_proj 48x32
        attention_norm model.layers.{layer}.input_layernorm 32x32 norm
        post_attention_norm model.layers.{layer}.post_attention_layernorm 32x32 norm
        ffn_norm model.layers.{layer}.pre_feedforward_layernorm 32x32 norm
        post_ffn_norm model.layers.{layer}.post_feedforward_layernorm 32x32 norm
        q_norm model.layers.{layer}.self_attn.q_norm 16x16 norm
        k_norm model.layers.{layer}.self_attn.k_norm 16x16 norm
        final_norm model.norm 32x32 norm
        token_embedding model.embed_tokens 100x32 embedding
        attention_block model.layers.{layer}.self_attn.q_proj -> model.layers.{layer}.self_attn.o_proj
        ffn_block model.layers.{layer}.mlp.gate_proj -> model.layers.{layer}.mlp.down_proj
    """,
    "mixtral": """
        q model.layers.{layer}.self_attn.q_proj 32x32
        k model.layers.{layer}.self_attn.k_proj 32x16
        v model.layers.{layer}.self_attn.v_proj 32x16
        attention_output model.layers.{layer}.self_attn.o_proj 32x32
        attention_norm model.layers.{layer}.input_layernorm 32x32 norm
        ffn_norm model.layers.{layer}.post_attention_layernorm 32x32 norm
        final_norm model.norm 32x32 norm
        token_embedding model.embed_tokens 100x32 embedding
        attention_block model.layers.{layer}.self_attn.q_proj -> model.layers.{layer}.self_attn.o_proj
        ffn_block model.layers.{layer}.mlp -> model.layers.{layer}.mlp
        router model.layers.{layer}.mlp.gate.weight 32x4 parameter
        experts_gate_in model.layers.{layer}.mlp.experts.gate_up_proj 32x96 kernel=4 parameter
        experts_out model.layers.{layer}.mlp.experts.down_proj 48x32 kernel=4 parameter
    """,
    "qwen2-moe": """
        q model.layers.{layer}.self_attn.q_proj 32x32 bias
        k model.layers.{layer}.self_attn.k_proj 32x16 bias
        v model.layers.{layer}.self_attn.v_proj 32x16 bias
        attention_output model.layers.{layer}.self_attn.o_proj 32x32
        ffn_gate model.layers.{layer}.mlp.gate_proj 32x48 layers=0
        ffn_gate model.layers.{layer}.mlp.shared_expert.gate_proj 32x24 layers=1
        ffn_in model.layers.{layer}.mlp.up_proj 32x48 layers=0
        ffn_in model.layers.{layer}.mlp.shared_expert.up_proj 32x24 layers=1
        ffn_out model.layers.{layer}.mlp.down_proj 48x32 layers=0
        ffn_out model.layers.{layer}.mlp.shared_expert.down_proj 24x32 layers=1
        attention_norm model.layers.{layer}.input_layernorm 32x32 norm
        ffn_norm model.layers.{layer}.post_attention_layernorm 32x32 norm
        final_norm model.norm 32x32 norm
        token_embedding model.embed_tokens 100x32 embedding
        attention_block model.layers.{layer}.self_attn.q_proj -> model.layers.{layer}.self_attn.o_proj
        ffn_block model.layers.{layer}.mlp.gate_proj -> model.layers.{layer}.mlp.down_proj layers=0
        ffn_block model.layers.{layer}.mlp -> model.layers.{layer}.mlp layers=1
        router model.layers.{layer}.mlp.gate.weight 32x4 parameter layers=1
        experts_gate_in model.layers.{layer}.mlp.experts.gate_up_proj 32x32 kernel=4 parameter layers=1
        experts_out model.layers.{layer}.mlp.experts.down_proj 16x32 kernel=4 parameter layers=1
    """,
    "t5": """
        q encoder.block.{layer}.layer.0.SelfAttention.q 32x32 layers=0,1
        q decoder.block.{layer}.layer.0.SelfAttention.q 32x32 layers=2,3
        k encoder.block.{layer}.layer.0.SelfAttention.k 32x32 layers=0,1
        k decoder.block.{layer}.layer.0.SelfAttention.k 32x32 layers=2,3
        v encoder.block.{layer}.layer.0.SelfAttention.v 32x32 layers=0,1
        v decoder.block.{layer}.layer.0.SelfAttention.v 32x32 layers=2,3
        attention_output encoder.block.{layer}.layer.0.SelfAttention.o 32x32 layers=0,1
        attention_output decoder.block.{layer}.layer.0.SelfAttention.o 32x32 layers=2,3
        cross_q decoder.block.{layer}.layer.1.EncDecAttention.q 32x32 layers=2,3
        cross_k decoder.block.{layer}.layer.1.EncDecAttention.k 32x32 layers=2,3
        cross_v decoder.block.{layer}.layer.1.EncDecAttention.v 32x32 layers=2,3
        cross_attention_output decoder.block.{layer}.layer.1.EncDecAttention.o 32x32 layers=2,3
        ffn_in encoder.block.{layer}.layer.1.DenseReluDense.wi 32x48 layers=0,1
        ffn_in decoder.block.{layer}.layer.2.DenseReluDense.wi 32x48 layers=2,3
        ffn_out encoder.block.{layer}.layer.1.DenseReluDense.wo 48x32 layers=0,1
        ffn_out decoder.block.{layer}.layer.2.DenseReluDense.wo 48x32 layers=2,3
        attention_norm encoder.block.{layer}.layer.0.layer_norm 32x32 norm layers=0,1
        attention_norm decoder.block.{layer}.layer.0.layer_norm 32x32 norm layers=2,3
        cross_attention_norm decoder.block.{layer}.layer.1.layer_norm 32x32 norm layers=2,3
        ffn_norm encoder.block.{layer}.layer.1.layer_norm 32x32 norm layers=0,1
        ffn_norm decoder.block.{layer}.layer.2.layer_norm 32x32 norm layers=2,3
        final_norm encoder.final_layer_norm 32x32 norm
        final_norm decoder.final_layer_norm 32x32 norm
        token_embedding encoder.embed_tokens 100x32 embedding
        attention_block encoder.block.{layer}.layer.0.SelfAttention.q -> encoder.block.{layer}.layer.0.SelfAttention.o layers=0,1
        attention_block decoder.block.{layer}.layer.0.SelfAttention.q -> decoder.block.{layer}.layer.0.SelfAttention.o layers=2,3
        cross_attention_block decoder.block.{layer}.layer.1.EncDecAttention.q -> decoder.block.{layer}.layer.1.EncDecAttention.o layers=2,3
        ffn_block encoder.block.{layer}.layer.1.DenseReluDense.wi -> encoder.block.{layer}.layer.1.DenseReluDense.wo layers=0,1
        ffn_block decoder.block.{layer}.layer.2.DenseReluDense.wi -> decoder.block.{layer}.layer.2.DenseReluDense.wo layers=2,3
    """,
    "t5-gated": """
        q encoder.block.{layer}.layer.0.SelfAttention.q 32x32 layers=0,1
        q decoder.block.{layer}.layer.0.SelfAttention.q 32x32 layers=2,3,4
        k encoder.block.{layer}.layer.0.SelfAttention.k 32x32 layers=0,1
        k decoder.block.{layer}.layer.0.SelfAttention.k 32x32 layers=2,3,4
        v encoder.block.{layer}.layer.0.SelfAttention.v 32x32 layers=0,1
        v decoder.block.{layer}.layer.0.SelfAttention.v 32x32 layers=2,3,4
        attention_output encoder.block.{layer}.layer.0.SelfAttention.o 32x32 layers=0,1
        attention_output decoder.block.{layer}.layer.0.SelfAttention.o 32x32 layers=2,3,4
        cross_q decoder.block.{layer}.layer.1.EncDecAttention.q 32x32 layers=2,3,4
        cross_k decoder.block.{layer}.layer.1.EncDecAttention.k 32x32 layers=2,3,4
        cross_v decoder.block.{layer}.layer.1.EncDecAttention.v 32x32 layers=2,3,4
        cross_attention_output decoder.block.{layer}.layer.1.EncDecAttention.o 32x32 layers=2,3,4
        ffn_gate encoder.block.{layer}.layer.1.DenseReluDense.wi_0 32x48 layers=0,1
        ffn_gate decoder.block.{layer}.layer.2.DenseReluDense.wi_0 32x48 layers=2,3,4
        ffn_in encoder.block.{layer}.layer.1.DenseReluDense.wi_1 32x48 layers=0,1
        ffn_in decoder.block.{layer}.layer.2.DenseReluDense.wi_1 32x48 layers=2,3,4
        ffn_out encoder.block.{layer}.layer.1.DenseReluDense.wo 48x32 layers=0,1
        ffn_out decoder.block.{layer}.layer.2.DenseReluDense.wo 48x32 layers=2,3,4
        attention_norm encoder.block.{layer}.layer.0.layer_norm 32x32 norm layers=0,1
        attention_norm decoder.block.{layer}.layer.0.layer_norm 32x32 norm layers=2,3,4
        cross_attention_norm decoder.block.{layer}.layer.1.layer_norm 32x32 norm layers=2,3,4
        ffn_norm encoder.block.{layer}.layer.1.layer_norm 32x32 norm layers=0,1
        ffn_norm decoder.block.{layer}.layer.2.layer_norm 32x32 norm layers=2,3,4
        final_norm encoder.final_layer_norm 32x32 norm
        final_norm decoder.final_layer_norm 32x32 norm
        token_embedding encoder.embed_tokens 100x32 embedding
        attention_block encoder.block.{layer}.layer.0.SelfAttention.q -> encoder.block.{layer}.layer.0.SelfAttention.o layers=0,1
        attention_block decoder.block.{layer}.layer.0.SelfAttention.q -> decoder.block.{layer}.layer.0.SelfAttention.o layers=2,3,4
        cross_attention_block decoder.block.{layer}.layer.1.EncDecAttention.q -> decoder.block.{layer}.layer.1.EncDecAttention.o layers=2,3,4
        ffn_block encoder.block.{layer}.layer.1.DenseReluDense.wi_0 -> encoder.block.{layer}.layer.1.DenseReluDense.wo layers=0,1
        ffn_block decoder.block.{layer}.layer.2.DenseReluDense.wi_0 -> decoder.block.{layer}.layer.2.DenseReluDense.wo layers=2,3,4
    """,
    "vit": """
        q vit.layers.{layer}.attention.q_proj 32x32 bias
        k vit.layers.{layer}.attention.k_proj 32x32 bias
        v vit.layers.{layer}.attention.v_proj 32x32 bias
        attention_output vit.layers.{layer}.attention.o_proj 32x32 bias
        ffn_in vit.layers.{layer}.mlp.fc1 32x48 bias
        ffn_out vit.layers.{layer}.mlp.fc2 48x32 bias
        attention_norm vit.layers.{layer}.layernorm_before 32x32 norm bias
        ffn_norm vit.layers.{layer}.layernorm_after 32x32 norm bias
        final_norm vit.layernorm 32x32 norm bias
        attention_block vit.layers.{layer}.attention.q_proj -> vit.layers.{layer}.attention.o_proj
        ffn_block vit.layers.{layer}.mlp.fc1 -> vit.layers.{layer}.mlp.fc2
        patch_embedding vit.embeddings.patch_embeddings.projection 3x32 kernel=4x4 convolution bias
    """,
    "ast": """
        q audio_spectrogram_transformer.layers.{layer}.attention.q_proj 32x32 bias
        k audio_spectrogram_transformer.layers.{layer}.attention.k_proj 32x32 bias
        v audio_spectrogram_transformer.layers.{layer}.attention.v_proj 32x32 bias
        attention_output audio_spectrogram_transformer.layers.{layer}.attention.o_proj 32x32 bias
        ffn_in audio_spectrogram_transformer.layers.{layer}.mlp.fc1 32x48 bias
        ffn_out audio_spectrogram_transformer.layers.{layer}.mlp.fc2 48x32 bias
        attention_norm audio_spectrogram_transformer.layers.{layer}.layernorm_before 32x32 norm bias
        ffn_norm audio_spectrogram_transformer.layers.{layer}.layernorm_after 32x32 norm bias
        final_norm audio_spectrogram_transformer.layernorm 32x32 norm bias
        attention_block audio_spectrogram_transformer.layers.{layer}.attention.q_proj -> audio_spectrogram_transformer.layers.{layer}.attention.o_proj
        ffn_block audio_spectrogram_transformer.layers.{layer}.mlp.fc1 -> audio_spectrogram_transformer.layers.{layer}.mlp.fc2
        patch_embedding audio_spectrogram_transformer.embeddings.patch_embeddings.projection 1x32 kernel=4x4 convolution bias
    """,
    "clip-vision": """
        q vision_model.encoder.layers.{layer}.self_attn.q_proj 32x32 bias
        k vision_model.encoder.layers.{layer}.self_attn.k_proj 32x32 bias
        v vision_model.encoder.layers.{layer}.self_attn.v_proj 32x32 bias
        attention_output vision_model.encoder.layers.{layer}.self_attn.out_proj 32x32 bias
        ffn_in vision_model.encoder.layers.{layer}.mlp.fc1 32x48 bias
        ffn_out vision_model.encoder.layers.{layer}.mlp.fc2 48x32 bias
        attention_norm vision_model.encoder.layers.{layer}.layer_norm1 32x32 norm bias
        ffn_norm vision_model.encoder.layers.{layer}.layer_norm2 32x32 norm bias
        embedding_norm vision_model.pre_layrnorm 32x32 norm bias
        position_embedding vision_model.embeddings.position_embedding 5x32 embedding
        attention_block vision_model.encoder.layers.{layer}.self_attn.q_proj -> vision_model.encoder.layers.{layer}.self_attn.out_proj
        ffn_block vision_model.encoder.layers.{layer}.mlp.fc1 -> vision_model.encoder.layers.{layer}.mlp.fc2
        patch_embedding vision_model.embeddings.patch_embedding 3x32 kernel=4x4 convolution
    """,
    "mamba": """
        mixer_in backbone.layers.{layer}.mixer.in_proj 32x128
        mixer_x backbone.layers.{layer}.mixer.x_proj 64x10
        mixer_dt backbone.layers.{layer}.mixer.dt_proj 2x64 bias
        mixer_out backbone.layers.{layer}.mixer.out_proj 64x32
        mixer_norm backbone.layers.{layer}.norm 32x32 norm
        final_norm backbone.norm_f 32x32 norm
        token_embedding backbone.embeddings 100x32 embedding
        mixer_block backbone.layers.{layer}.mixer.in_proj -> backbone.layers.{layer}.mixer.out_proj
        mixer_convolution backbone.layers.{layer}.mixer.conv1d 64x64 kernel=4 convolution bias
    """,
}
