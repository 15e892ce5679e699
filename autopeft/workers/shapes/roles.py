"""Say what each layer of a transformer block is, by what feeds it.

One layer is described as a :class:`Block`: the names of ``search_spaces.targets`` with the module
paths that carry them. :func:`roles_by_flow` reads it off a traced forward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from autopeft.workers.shapes.tracing import Node, layer_kind

_PARTS = ("q", "k", "v")


@dataclass(slots=True)
class Block:
    """What one layer of a stack holds.

    Attributes:
        sites: Module path (or parameter path) of each site, norms and convolutions included.
        blocks: First and last module of each block.
    """

    sites: dict[str, str] = field(default_factory=dict)
    blocks: dict[str, tuple[str, str]] = field(default_factory=dict)

    def name(self, site: str, path: str) -> None:
        """Give a name to a layer; a name that is taken stays with the first."""
        if path and site not in self.sites and path not in self.sites.values():
            self.sites[site] = path


def roles_by_flow(root: nn.Module, prefix: str, nodes: Sequence[Node]) -> Block:
    """Return what a layer holds, from the layers that ran in it.

    Args:
        root: The layer's module.
        prefix: Its path.
        nodes: Every node of the trace whose path is below ``prefix``, and the attentions that
            they feed, in forward order.
    """
    block = Block()
    linears = [node for node in nodes if node.kind in ("linear", "conv1d")]
    for attention in (node for node in nodes if node.kind == "attention"):
        _name_attention(block, attention, linears)
    _name_mixer(block, root, prefix, linears)
    name_experts(block, root, prefix)
    _name_ffn(block, root, prefix, linears)
    name_blocks(block)
    _name_norms(block, nodes)
    return block


def _name_attention(block: Block, attention: Node, linears: Sequence[Node]) -> None:
    """Name what makes queries, keys and values, and what takes the result."""
    made = [_behind_norms(argument) for argument in attention.arguments]
    mark = ""
    if all(len(nodes) == 1 for nodes in made) and set().union(*made) <= set(linears):
        q, k, v = (next(iter(nodes)) for nodes in made)
        mark = "" if q is k or q.inputs == k.inputs else "cross_"
        if q is k is v:
            block.name("qkv", q.path)
        else:
            for part, node in zip(_PARTS, (q, k, v), strict=True):
                block.name(f"{mark}{part}", node.path)
    for part, argument in zip(("q_norm", "k_norm"), attention.arguments[:2], strict=True):
        for node in argument if not mark else ():
            if node.kind == "norm":
                block.name(part, node.path)
    for node in linears:
        if attention in node.inputs:
            block.name(f"{mark}attention_output", node.path)


def _behind_norms(nodes: Iterable[Node]) -> set[Node]:
    """Return the nodes with each normalisation replaced by what feeds it."""
    found: set[Node] = set()
    for node in nodes:
        found |= _behind_norms(node.inputs) if node.kind == "norm" else {node}
    return found


def _name_ffn(block: Block, root: nn.Module, prefix: str, linears: Sequence[Node]) -> None:
    """Name the first linear layer that nothing but other linear layers feeds, and those layers.

    Of two that feed it, the one behind the activation function is the gate. One that is twice as
    wide as what it feeds holds both.
    """
    named = set(block.sites.values())
    free = [node for node in linears if node.path not in named]
    for out in free:
        sources = _behind_norms(out.inputs)
        if not sources or not sources <= set(free):
            continue
        if len(sources) == 1:
            (source,) = sources
            wide = _widths(root, prefix, source.path)[1] == 2 * _widths(root, prefix, out.path)[0]
            block.name("ffn_gate_in" if wide else "ffn_in", source.path)
        else:
            in_order = sorted(sources, key=lambda node: node.order)
            gate = next((node for node in in_order if node in out.activated), in_order[0])
            block.name("ffn_gate", gate.path)
            block.name("ffn_in", next(node.path for node in in_order if node is not gate))
        block.name("ffn_out", out.path)
        return


def _widths(root: nn.Module, prefix: str, path: str) -> tuple[int, int]:
    """Return inputs and outputs of a linear layer."""
    return linear_widths(root.get_submodule(path.removeprefix(prefix).removeprefix(".")))


def linear_widths(module: Any) -> tuple[int, int]:
    """Return inputs and outputs of an ``nn.Linear`` or a ``Conv1D`` of transformers."""
    rows, columns = module.weight.shape
    return (rows, columns) if layer_kind(module) == "conv1d" else (columns, rows)


def _name_mixer(block: Block, root: nn.Module, prefix: str, linears: Sequence[Node]) -> None:
    """Name the layers of a state-space mixer: a module with a 1-d convolution among its children.

    ``mixer_dt`` is found by its width alone, since Mamba reads its weight without calling it.
    """
    for path, module in root.named_modules(prefix=prefix):
        children = dict(module.named_children())
        convolutions = [name for name, child in children.items() if isinstance(child, nn.Conv1d)]
        ran = [node for node in linears if node.path.rpartition(".")[0] == path]
        if not convolutions or len(ran) < 2:
            continue
        first, last = ran[0], ran[-1]
        block.name("mixer_in", first.path)
        if len(ran) > 2:
            block.name("mixer_x", ran[1].path)
        dt = [
            name
            for name, child in children.items()
            if isinstance(child, nn.Linear) and f"{path}.{name}" not in {n.path for n in ran}
        ]
        if dt:
            block.name("mixer_dt", f"{path}.{dt[0]}")
        block.name("mixer_out", last.path)
        block.name("mixer_convolution", f"{path}.{convolutions[0]}")
        return


def name_experts(block: Block, root: nn.Module, prefix: str) -> None:
    """Name stacked experts, what chooses among them, and the block around both."""
    for path, module in root.named_modules(prefix=prefix):
        if layer_kind(module) != "experts":
            continue
        own = {name: p for name, p in module.named_parameters(recurse=False) if p.ndim == 3}
        if len(own) < 2:
            continue
        (first, weight), *_, (last, _) = own.items()
        block.name("experts_gate_in", f"{path}.{first}")
        block.name("experts_out", f"{path}.{last}")
        parent = path.rpartition(".")[0]
        owner = root.get_submodule(parent.removeprefix(prefix).removeprefix("."))
        for name, child in owner.named_children():
            matrix = getattr(child, "weight", None)
            if matrix is not None and matrix.ndim == 2 and matrix.shape[0] == weight.shape[0]:
                is_linear = layer_kind(child) == "linear"
                block.name("router", f"{parent}.{name}" + ("" if is_linear else ".weight"))
        block.blocks["ffn_block"] = (parent, parent)
        return


def name_blocks(block: Block) -> None:
    """Put first and last module of each block together."""
    sites = block.sites
    for name, firsts, last in (
        ("attention_block", ("q", "qkv"), "attention_output"),
        ("cross_attention_block", ("cross_q",), "cross_attention_output"),
        ("ffn_block", ("ffn_gate", "ffn_in", "ffn_gate_in"), "ffn_out"),
        ("mixer_block", ("mixer_in",), "mixer_out"),
    ):
        first = next((sites[site] for site in firsts if site in sites), None)
        if first and last in sites and name not in block.blocks:
            block.blocks[name] = (first, sites[last])


def _name_norms(block: Block, nodes: Sequence[Node]) -> None:
    """Name the normalisations before, after and between the blocks.

    A layer normalises after its blocks (BERT) where a normalisation inside it takes the
    feed-forward's output and none feeds the queries; before them (GPT-2, Llama) otherwise. A
    normalisation of nothing but a block's output, in a layer that also normalises before it, is
    the block's second one (Gemma 2).
    """
    by_path = {node.path: node for node in nodes if node.path}
    norms = [node for node in nodes if node.kind == "norm"]
    edges = (
        ("attention_norm", "post_attention_norm", "attention_block"),
        ("cross_attention_norm", "", "cross_attention_block"),
        ("ffn_norm", "post_ffn_norm", "ffn_block"),
        ("mixer_norm", "", "mixer_block"),
    )
    ends = {name: by_path.get(last) for name, (_, last) in block.blocks.items()}
    if "ffn_block" in block.blocks and ends["ffn_block"] is None:
        parent = block.blocks["ffn_block"][0]
        ends["ffn_block"] = next(
            (n for n in nodes if n.kind == "experts" and n.path.startswith(f"{parent}.")), None
        )

    def before(name: str) -> Node | None:
        if name not in block.blocks:
            return None
        path = block.blocks[name][0]
        first = by_path.get(path) or next((n for n in nodes if n.path.startswith(f"{path}.")), None)
        return None if first is None else next((n for n in norms if n in first.inputs), None)

    last_end = ends.get("ffn_block")
    is_post = (
        before("attention_block") is None
        and "attention_block" in block.blocks
        and any(last_end in norm.inputs for norm in norms)
    )
    for norm_name, post_name, block_name in edges:
        end = ends.get(block_name)
        if is_post:
            found = next((n for n in norms if end is not None and end in n.inputs), None)
        else:
            found = before(block_name)
        if found is not None:
            block.name(norm_name, found.path)
        if post_name and not is_post and end is not None:
            for norm in norms:
                if norm.inputs == {end}:
                    block.name(post_name, norm.path)
