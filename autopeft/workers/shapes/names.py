"""Say what each layer of a transformer block is by its name, where no forward pass can be traced.

The names are those of published models. What :func:`roles_by_flow` finds is not guessed, and
both agree on every family that the tests know.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from autopeft.workers.shapes.roles import Block, linear_widths, name_blocks, name_experts
from autopeft.workers.shapes.tracing import layer_kind

#: Last names of linear layers in published models, by site. Where a name could stand in the
#: attention and in the feed-forward, the path decides.
_ATTENTION_NAMES = {
    "q": {"q", "query", "q_proj", "q_lin", "query_proj", "wq", "to_q"},
    "k": {"k", "key", "k_proj", "k_lin", "key_proj", "wk", "to_k"},
    "v": {"v", "value", "v_proj", "v_lin", "value_proj", "wv", "to_v"},
    "qkv": {"qkv", "qkv_proj", "c_attn", "wqkv", "query_key_value", "in_proj", "att_proj"},
    "attention_output": {"o", "o_proj", "out_proj", "out_lin", "wo", "c_proj", "dense", "to_out"},
}
_FFN_NAMES = {
    "ffn_gate": {"gate_proj", "wi_0", "w1"},
    "ffn_in": {"fc1", "lin1", "c_fc", "wi", "wi_1", "up_proj", "dense_h_to_4h", "w3", "linear1"},
    "ffn_gate_in": {"gate_up_proj"},
    "ffn_out": {"fc2", "lin2", "c_proj", "wo", "down_proj", "dense_4h_to_h", "w2", "linear2"},
}
_MIXER_NAMES = {
    "mixer_in": {"in_proj"},
    "mixer_x": {"x_proj"},
    "mixer_dt": {"dt_proj"},
    "mixer_out": {"out_proj"},
}


def roles_by_name(root: nn.Module, prefix: str) -> Block:
    """Return what a layer holds, from the names of its modules.

    Args:
        root: The layer's module.
        prefix: Its path.
    """
    block = Block()
    modules = dict(root.named_modules(prefix=prefix))
    for path, module in modules.items():
        if layer_kind(module) not in ("linear", "conv1d"):
            continue
        for site in _names_of(path.removeprefix(f"{prefix}."), module, modules):
            block.name(site, path)
    for path, module in modules.items():
        if isinstance(module, nn.Conv1d):
            block.name("mixer_convolution", path)
    name_experts(block, root, prefix)
    name_blocks(block)
    _name_norms_by_name(block, modules)
    return block


def _names_of(path: str, module: Any, modules: dict[str, nn.Module]) -> tuple[str, ...]:
    """Return the sites that a linear layer's path and widths allow, most likely first."""
    words = path.casefold().split(".")
    last = words[-1]
    in_features, out_features = linear_widths(module)
    is_mixer = any(word in ("mixer", "mamba", "ssm") for word in words[:-1])
    table = _MIXER_NAMES if is_mixer else None
    is_cross = any("cross" in word or "encdec" in word or "encoder_attn" in word for word in words)
    is_attention = is_cross or any("attn" in w or "attention" in w for w in words[:-1])
    if table is None:
        table = _ATTENTION_NAMES if is_attention else _FFN_NAMES
    if not is_attention and words[-2:] == ["intermediate", "dense"]:
        return ("ffn_in",)
    if not is_attention and words[-2:] == ["output", "dense"]:
        return ("ffn_out",)
    found = [site for site, names in table.items() if last in names]
    if (
        found == ["ffn_in"]
        and out_features % 2 == 0
        and _is_fused_gate(path, out_features, modules)
    ):
        found = ["ffn_gate_in"]
    if not found and is_attention and out_features == 3 * in_features:
        found = ["qkv"]
    return tuple(f"cross_{site}" if is_cross else site for site in found)


def _is_fused_gate(path: str, out_features: int, modules: dict[str, nn.Module]) -> bool:
    """Tell whether the layer next to ``path`` that leads back takes half of its outputs."""
    parent = path.rpartition(".")[0]
    for other, module in modules.items():
        if other.endswith(path) or not other.rpartition(".")[0].endswith(parent):
            continue
        if layer_kind(module) == "linear" and getattr(module, "in_features", 0) * 2 == out_features:
            return other.rpartition(".")[2].casefold() in _FFN_NAMES["ffn_out"]
    return False


def _name_norms_by_name(block: Block, modules: dict[str, nn.Module]) -> None:
    """Name the normalisations by their order: a layer's first belongs to its first block."""
    norms = [path for path, module in modules.items() if layer_kind(module) == "norm"]
    for path in norms:
        last = path.rpartition(".")[2].casefold()
        if last in ("q_norm", "k_norm", "q_layernorm", "k_layernorm"):
            block.name(f"{last[0]}_norm", path)
    rest = [path for path in norms if path not in block.sites.values()]
    order = ("attention", "cross_attention", "ffn", "mixer")
    present = [name for name in order if f"{name}_block" in block.blocks]
    names = [f"{name}_norm" for name in present]
    if len(rest) == 2 * len(names):
        names = [
            name
            for block_name in present
            for name in (f"{block_name}_norm", f"post_{block_name}_norm")
        ]
    if len(rest) == len(names):
        for name, path in zip(names, rest, strict=True):
            block.name(name, path)
