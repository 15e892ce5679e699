"""Weights that train in full: which they are, and how many numbers they have."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import Dimension

Placed = Iterable[tuple[SiteShape, tuple[int, ...]]]
#: Beginnings of site names, by the half of a transformer layer they belong to.
CATEGORIES = {
    "attention": ("q", "k", "v", "attention", "cross"),
    "ffn": ("ffn",),
    "mixer": ("mixer",),
}


def numbers_in(site: SiteShape, *, has_bias: bool | None = None) -> int:
    """Return the numbers in one layer's weight and, unless told otherwise, its bias."""
    bias = site.has_bias if has_bias is None else has_bias
    if site.kind == "norm":
        return site.out_features * (2 if bias else 1)
    return site.in_features * site.out_features + (site.out_features if bias else 0)


def numbers_in_parameter(site: SiteShape) -> int:
    """Return the numbers in one layer's stacked weight."""
    return site.in_features * site.out_features * math.prod(site.kernel_size)


def num_parameters(placed: Placed) -> int:
    """Return the numbers in all layers of ``placed``."""
    return sum(numbers_in(site) * max(1, len(layers)) for site, layers in placed)


def in_layers(shape: ModelShape) -> tuple[SiteShape, ...]:
    """Return the linear layers and the normalisations inside the transformer layers."""
    # Mamba reads the weight of ``mixer_dt`` past its layer, so that nothing can be put on it.
    sites = (site for site in shape.sites if site.site != "mixer_dt")
    return tuple(site for site in (*sites, *shape.norms) if site.is_in_layers)


def trainable_in(shape: ModelShape, module: Module) -> Iterator[tuple[SiteShape, tuple[int, ...]]]:
    """Yield what :func:`in_layers` holds in the layers of a module."""
    for site in in_layers(shape):
        if layers := site.layers_among(module.layers):
            yield site, layers


def category_of(site: SiteShape) -> str:
    """Return ``attention``, ``ffn``, ``mixer`` or ``norm``."""
    if site.kind == "norm":
        return "norm"
    for category, beginnings in CATEGORIES.items():
        if site.site.startswith(beginnings):
            return category
    return "ffn"


def sites_among(
    found: Iterable[SiteShape], *, default: tuple[str, ...] = (), help: str
) -> Dimension:
    """Declare ``sites`` over the names of what was found, all of them by default."""
    names = tuple(dict.fromkeys(site.site for site in found))
    chosen = tuple(name for name in names if name in default) or names
    return Dimension(name="sites", kind="subset", values=names, default=chosen, help=help)


def switch(name: str, *, default: bool, help: str) -> Dimension:
    """Declare a setting that is on or off, the default first."""
    values = (default, not default)
    return Dimension(name=name, kind="categorical", values=values, default=default, help=help)
