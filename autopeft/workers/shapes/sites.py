"""Turn what was found in a model into site shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from autopeft.errors import ModelError
from autopeft.naming import or_nearest
from autopeft.records import SiteKind, SiteShape
from autopeft.search_spaces.targets import (
    BLOCK_NAMES,
    CONVOLUTION_NAMES,
    EMBEDDING_NAMES,
    NORM_NAMES,
    PARAMETER_NAMES,
    SITE_NAMES,
)
from autopeft.workers.shapes.roles import linear_widths, name_blocks
from autopeft.workers.shapes.stacks import Stack
from autopeft.workers.shapes.tracing import Trace, layer_kind

_ALL_NAMES = (
    *SITE_NAMES,
    *NORM_NAMES,
    *EMBEDDING_NAMES,
    *BLOCK_NAMES,
    *CONVOLUTION_NAMES,
    *PARAMETER_NAMES,
)
#: What a person may name in a job file.
NAMEABLE = tuple(name for name in _ALL_NAMES if name not in BLOCK_NAMES)


def describe(
    model: nn.Module, site: str, path: str, *, hidden_size: int, end_path: str | None = None
) -> SiteShape:
    """Return the shape of one layer or stacked parameter, with its full path."""
    kind: SiteKind
    kernel_size: tuple[int, ...] = ()
    if end_path is not None:
        return SiteShape(
            site=site,
            path=path,
            in_features=hidden_size,
            out_features=hidden_size,
            has_bias=False,
            kind="block",
            end_path=None if end_path == path else end_path,
        )
    owner, _, last = path.rpartition(".")
    parameter = getattr(model.get_submodule(owner), last)
    if isinstance(parameter, nn.Parameter):
        kind = "parameter"
        *extents, rows, columns = parameter.shape
        is_transposed = columns != hidden_size if site != "experts_out" else rows != hidden_size
        widths = (rows, columns) if is_transposed else (columns, rows)
        kernel_size = tuple(extents)
        bias = getattr(model.get_submodule(owner), f"{last}_bias", None)
        if last == "weight":
            bias = getattr(model.get_submodule(owner), "bias", None)
        has_bias = bias is not None
    else:
        module: Any = parameter
        found = layer_kind(module)
        has_bias = getattr(module, "bias", None) is not None
        if found in ("linear", "conv1d"):
            kind, widths = found, linear_widths(module)
        elif found == "convolution":
            kind, widths = "convolution", (module.in_channels, module.out_channels)
            kernel_size = tuple(module.kernel_size)
        elif found == "embedding":
            kind, widths = "embedding", (module.num_embeddings, module.embedding_dim)
        else:
            kind, widths = "norm", (module.weight.numel(), module.weight.numel())
    return SiteShape(
        site=site,
        path=path,
        in_features=widths[0],
        out_features=widths[1],
        has_bias=has_bias,
        kind=kind,
        kernel_size=kernel_size,
    )


def layered_sites(model: nn.Module, stacks: Sequence[Stack], hidden_size: int) -> list[SiteShape]:
    """Return the sites inside the layers, in the order of :data:`SITE_NAMES` and the like.

    Layers that have a site at the same place in the same shape share one site shape.
    """
    num_layers = sum(len(stack.layers) for stack in stacks)
    groups: dict[SiteShape, list[int]] = {}
    for stack in stacks:
        for number, block in enumerate(stack.layers):
            prefix = f"{stack.path}.{number}."
            shapes = [
                *(describe(model, s, p, hidden_size=hidden_size) for s, p in block.sites.items()),
                *(
                    describe(model, name, first, hidden_size=hidden_size, end_path=last)
                    for name, (first, last) in block.blocks.items()
                ),
            ]
            for shape in shapes:
                general = _changed(
                    shape,
                    path=_with_layer(shape.path, stack.path, prefix),
                    end_path=shape.end_path and _with_layer(shape.end_path, stack.path, prefix),
                    first_layer=stack.first_layer,
                )
                groups.setdefault(general, []).append(stack.first_layer + number)
    sites = [
        shape if len(layers) == num_layers else _changed(shape, layers=tuple(layers))
        for shape, layers in groups.items()
    ]
    return sorted(sites, key=lambda s: (_ALL_NAMES.index(s.site), s.first_layer))


def _with_layer(path: str, stack: str, prefix: str) -> str:
    assert path.startswith(prefix), (path, prefix)
    return f"{stack}.{{layer}}.{path.removeprefix(prefix)}"


def _changed(shape: SiteShape, **changes: Any) -> SiteShape:
    return replace(shape, **changes)


def outer_sites(
    model: Any, stacks: Sequence[Stack], trace: Trace | None, head: Sequence[str], hidden_size: int
) -> list[SiteShape]:
    """Return embeddings, convolutions and normalisations that stand outside the layers.

    Modules of the task head, and those that do not reach the model's output, are left out.
    """
    base = model.base_model_prefix
    within = f"{base}." if base and isinstance(getattr(model, base, None), nn.Module) else ""
    outside = [*(f"{stack.path}." for stack in stacks), *(f"{path}." for path in head)]
    nodes = {} if trace is None else trace.by_path()
    token_embedding = input_embedding(model)
    found: list[SiteShape] = []
    weights: set[int] = set()
    for path, module in model.named_modules():
        kind = layer_kind(module)
        is_known = kind in ("embedding", "convolution", "norm") and path.startswith(within)
        if not is_known or path in head or path.startswith(tuple(outside)):
            continue
        if trace is not None and path not in nodes:
            continue
        name = _outer_name(path, module, kind, stacks, nodes, token_embedding)
        if name is not None and id(module.weight) not in weights:
            weights.add(id(module.weight))
            found.append(describe(model, name, path, hidden_size=hidden_size))
    return sorted(found, key=lambda site: _ALL_NAMES.index(site.site))


def input_embedding(model: Any) -> Any:
    """Return the module that embeds the inputs; None where transformers does not say."""
    try:
        return model.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        return None


def _outer_name(
    path: str,
    module: Any,
    kind: str | None,
    stacks: Sequence[Stack],
    nodes: Mapping[str, Any],
    token_embedding: Any,
) -> str | None:
    last = path.rpartition(".")[2].casefold()
    if kind == "embedding":
        if module is token_embedding or module.weight is getattr(token_embedding, "weight", 0):
            return "token_embedding"
        if "position" in last or last == "wpe":
            return "position_embedding"
        return "type_embedding" if "type" in last else None
    if kind == "convolution":
        return "patch_embedding" if "patch" in path else None
    if not nodes:
        return "embedding_norm" if "embed" in path else "final_norm"
    node = nodes[path]
    if any(source.kind in ("embedding", "convolution") for source in node.inputs) and all(
        not source.path.startswith(f"{stack.path}.") for source in node.inputs for stack in stacks
    ):
        return "embedding_norm"
    last_call = min(
        max((n.order for p, n in nodes.items() if p.startswith(f"{stack.path}.")), default=0)
        for stack in stacks
    )
    return "final_norm" if node.order > last_call else None


def name_by_hand(
    model: nn.Module, stacks: Sequence[Stack], sites: Mapping[str, str], hidden_size: int
) -> list[SiteShape]:
    """Give layers the names a job file has for them; return those that stand outside the layers.

    Args:
        model: The model.
        stacks: Its stacks; their layers take the names, in place of what was found there.
        sites: For each site the end of its module path, or a regular expression for the whole
            path. ``experts_*`` name parameters.
        hidden_size: Width of the residual stream.

    Raises:
        ModelError: a name is unknown, or nothing matches it.
    """
    outer: list[SiteShape] = []
    for site, paths in matching_paths(model, sites).items():
        for path in paths:
            for stack in stacks:
                number = path.removeprefix(f"{stack.path}.").partition(".")[0]
                if path.startswith(f"{stack.path}.") and number.isdigit():
                    _put(stack.layers[int(number)].sites, site, path)
                    break
            else:
                outer.append(describe(model, site, path, hidden_size=hidden_size))
    for block in (block for stack in stacks for block in stack.layers):
        block.blocks = {n: ends for n, ends in block.blocks.items() if ends[0] == ends[1]}
        name_blocks(block)
    return outer


def _put(sites: dict[str, str], site: str, path: str) -> None:
    """Name a path, which takes the name from another path and other names from this one."""
    for other in [name for name, taken in sites.items() if taken == path]:
        del sites[other]
    sites[site] = path


def matching_paths(model: nn.Module, sites: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the paths that each hand-given pattern names.

    Raises:
        ModelError: a name or a pattern is unknown or broken, or nothing matches it.
    """
    layers = [path for path, module in model.named_modules() if layer_kind(module) is not None]
    parameters = [path for path, _ in model.named_parameters()]
    found: dict[str, list[str]] = {}
    for site, pattern in sites.items():
        if site not in NAMEABLE:
            raise ModelError(
                f"model.sites names an unknown site {site!r}{or_nearest(site, NAMEABLE)}",
                hint=f"known sites: {', '.join(NAMEABLE)}",
            )
        candidates = parameters if site in PARAMETER_NAMES else layers
        found[site] = _matching(candidates, pattern, site)
    return found


def _matching(candidates: Iterable[str], pattern: str, site: str) -> list[str]:
    candidates = list(candidates)
    ending = [p for p in candidates if p == pattern or p.endswith(f".{pattern}")]
    if ending:
        return ending
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ModelError(
            f"model.sites.{site}: {pattern!r} is neither the end of a module path nor a regular "
            f"expression ({error})",
            hint="write the end of a path, such as attention.wq",
        ) from error
    if matched := [path for path in candidates if expression.fullmatch(path)]:
        return matched
    general = dict.fromkeys(re.sub(r"\.\d+(?=\.|$)", ".*", path) for path in candidates)
    raise ModelError(
        f"model.sites.{site}: nothing in the model is called {pattern!r}",
        hint=f"the model has {', '.join(general)}",
    )
