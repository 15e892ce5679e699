"""Sites of a model and the patterns that name them to PEFT, exactly.

PEFT matches a string ``target_modules`` against whole module names with ``re.fullmatch``
(a list would match by suffix, and so reach a pooler). The pattern built here spells out every
layer and site, so nothing else can match, and what is saved says precisely what was adapted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import Dimension

#: Linear layers inside a transformer layer, in forward order. ``qkv`` and ``ffn_gate_in`` are
#: fused layers; ``cross_*`` belong to a decoder's attention to its encoder; ``mixer_*`` to a
#: state-space layer (Mamba: in_proj, x_proj, dt_proj, out_proj). A model lacks most of them.
SITE_NAMES = (
    "q",
    "k",
    "v",
    "qkv",
    "attention_output",
    "cross_q",
    "cross_k",
    "cross_v",
    "cross_attention_output",
    "router",
    "ffn_gate",
    "ffn_in",
    "ffn_gate_in",
    "ffn_out",
    "mixer_in",
    "mixer_x",
    "mixer_dt",
    "mixer_out",
)
#: Linear sites that "all linear layers" leaves out: adapting a router changes which expert
#: sees a token, and Mamba reads the weight of ``mixer_dt`` without calling the layer.
NOT_IN_ALL_LINEAR = frozenset({"router", "mixer_dt"})
#: Sites whose output enters the residual stream.
OUTPUT_SITES = ("attention_output", "cross_attention_output", "ffn_out", "mixer_out")
NORM_NAMES = (
    "attention_norm",
    "post_attention_norm",
    "cross_attention_norm",
    "ffn_norm",
    "post_ffn_norm",
    "q_norm",
    "k_norm",
    "mixer_norm",
    "embedding_norm",
    "final_norm",
)
EMBEDDING_NAMES = ("token_embedding", "position_embedding", "type_embedding")
BLOCK_NAMES = ("attention_block", "cross_attention_block", "ffn_block", "mixer_block")
CONVOLUTION_NAMES = ("patch_embedding", "mixer_convolution")
PARAMETER_NAMES = ("experts_gate_in", "experts_out")
_PLACES = (*SITE_NAMES, *PARAMETER_NAMES)
#: Words that stand for several sites in a space file.
SITE_GROUPS = {
    "attention": frozenset(
        {
            *("q", "k", "v", "qkv", "attention_output", "attention_block"),
            *("cross_q", "cross_k", "cross_v", "cross_attention_output", "cross_attention_block"),
            *("attention_norm", "post_attention_norm", "cross_attention_norm", "q_norm", "k_norm"),
        }
    ),
    "ffn": frozenset(
        {
            *("ffn_gate", "ffn_in", "ffn_gate_in", "ffn_out", "ffn_block", "ffn_norm"),
            *("post_ffn_norm", "experts_gate_in", "experts_out"),
        }
    ),
    "mixer": frozenset(
        {
            *("mixer_in", "mixer_x", "mixer_dt", "mixer_out", "mixer_block", "mixer_norm"),
            "mixer_convolution",
        }
    ),
}


def all_linear(shape: ModelShape) -> tuple[str, ...]:
    """Return the sites that "LoRA on all linear layers" means on a model, in forward order."""
    return tuple(name for name in shape.site_names if name not in NOT_IN_ALL_LINEAR)


def site_dimension(
    shape: ModelShape, names: Iterable[str], *, default: Iterable[str], help: str
) -> Dimension:
    """Declare the dimension ``sites`` over those of ``names`` that the model has.

    ``values`` is empty where it has none of them; the method is then unavailable on it.
    """
    have = {*shape.site_names, *(s.site for s in shape.parameters if s.site in PARAMETER_NAMES)}
    have.intersection_update(names)
    values = tuple(name for name in _PLACES if name in have)
    wanted = set(default)
    chosen = tuple(name for name in values if name in wanted) or values
    return Dimension(name="sites", kind="subset", values=values, default=chosen, help=help)


def sites_of(module: Module) -> tuple[str, ...]:
    """Return the sites a module adapts."""
    sites = module["sites"]
    assert isinstance(sites, tuple)
    return sites


def placed_sites(
    shape: ModelShape, names: Iterable[str], layers: Iterable[int]
) -> Iterator[tuple[SiteShape, tuple[int, ...]]]:
    """Yield each site shape called one of ``names`` with those of ``layers`` that have it.

    What stands outside the layers is yielded with no layers. Site shapes that none of the
    layers has are left out.
    """
    layers = tuple(layers)
    for name in names:
        for site in shape.sites_called(name):
            if not site.is_in_layers:
                yield site, ()
            elif own := site.layers_among(layers):
                yield site, own


def placed_on(shape: ModelShape, module: Module) -> Iterator[tuple[SiteShape, tuple[int, ...]]]:
    """Yield the site shapes a module adapts, each with the layers where it does."""
    return placed_sites(shape, sites_of(module), module.layers)


def target_pattern(shape: ModelShape, layers: Iterable[int], sites: Iterable[str]) -> str:
    """Return the regular expression that matches these sites of these layers and nothing else."""
    return pattern_of(placed_sites(shape, sites, layers))


def pattern_of(placed: Iterable[tuple[SiteShape, tuple[int, ...]]], *, end: bool = False) -> str:
    """Return the regular expression for site shapes and their layers.

    Args:
        placed: As :func:`placed_sites` yields them.
        end: Name the modules whose output ends a block, in place of those that begin it.
    """
    paths = []
    for site, layers in placed:
        path = (site.end_path or site.path) if end else site.path
        if not layers:
            paths.append(re.escape(path))
            continue
        before, after = path.split("{layer}")
        numbers = "|".join(str(layer - site.first_layer) for layer in layers)
        paths.append(f"{re.escape(before)}(?:{numbers}){re.escape(after)}")
    return "|".join(f"(?:{path})" for path in paths)
