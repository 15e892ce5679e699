"""Sites of a model and the pattern that names them to PEFT, exactly.

PEFT matches a string ``target_modules`` against whole module names with ``re.fullmatch``
(a list would match by suffix, and so reach a pooler). The pattern built here spells out every
layer and site, so nothing else can match, and what is saved says precisely what was adapted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import Dimension

#: The public names of the sites, in forward order. A model may lack some of them.
SITE_NAMES = ("q", "k", "v", "attention_output", "ffn_in", "ffn_out")


def site_dimension(
    shape: ModelShape, names: Iterable[str], *, default: Iterable[str], help: str
) -> Dimension:
    """Declare the dimension ``sites`` over those of ``names`` that the model has.

    ``values`` is empty where it has none of them; the method is then unavailable on it.
    """
    values = tuple(name for name in SITE_NAMES if name in set(names) & set(shape.site_names))
    wanted = set(default)
    chosen = tuple(name for name in values if name in wanted) or values
    return Dimension(name="sites", kind="subset", values=values, default=chosen, help=help)


def sites_of(module: Module) -> tuple[str, ...]:
    """Return the sites a module adapts."""
    sites = module["sites"]
    assert isinstance(sites, tuple)
    return sites


def target_pattern(shape: ModelShape, layers: Iterable[int], sites: Iterable[str]) -> str:
    """Return the regular expression that matches these sites of these layers and nothing else."""
    numbers = "|".join(str(layer) for layer in layers)
    paths = []
    for name in sites:
        before, after = shape.site(name).path.split("{layer}")
        paths.append(f"{re.escape(before)}(?:{numbers}){re.escape(after)}")
    return "|".join(f"(?:{path})" for path in paths)
