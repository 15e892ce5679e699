"""What methods that change weight matrices have in common, each matrix by itself."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module, Setting
from autopeft.search_spaces.method import Dimension, Method
from autopeft.search_spaces.targets import (
    NOT_IN_ALL_LINEAR,
    SITE_NAMES,
    all_linear,
    placed_on,
    site_dimension,
    sites_of,
    target_pattern,
)


class MatrixMethod(Method):
    """A method with ``sites`` and sizes whose count is a sum over the chosen matrices.

    Abstract: :meth:`sizes` and :meth:`num_parameters_at`. The PEFT config holds every setting
    but the sites under its own name.
    """

    saved_as = "ours"
    is_mergeable = True
    #: Name of the type its module file registers.
    peft_type: ClassVar[str]
    #: Sites chosen where nothing is known; None stands for all linear layers.
    default_sites: ClassVar[tuple[str, ...] | None] = None
    #: Whether it reads the frozen weight itself, which a quantised base does not have.
    reads_weight: ClassVar[bool] = False

    @abstractmethod
    def sizes(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return the dimensions beside the sites."""

    @abstractmethod
    def num_parameters_at(self, site: SiteShape, settings: Mapping[str, Setting]) -> int:
        """Return how many parameters one matrix gets."""

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return the sizes and the sites."""
        sites = site_dimension(
            shape,
            # A weight that the model reads past its layer would not be changed.
            [name for name in SITE_NAMES if name not in NOT_IN_ALL_LINEAR],
            default=all_linear(shape) if self.default_sites is None else self.default_sites,
            help="Linear layers whose weight changes.",
        )
        return (*self.sizes(shape), sites)

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Sum over the matrices."""
        settings = module.as_dict()
        return sum(
            self.num_parameters_at(site, settings) * len(layers)
            for site, layers in placed_on(shape, module)
        )

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the type, the target and every setting but the sites."""
        settings = {name: value for name, value in module.settings if name != "sites"}
        target = target_pattern(shape, module.layers, sites_of(module))
        return {"peft_type": self.peft_type, "target_modules": target, **settings}

    def inference_extra_flops(self, shape: ModelShape, module: Module) -> int:
        """Return 0 where it is merged; else the dense change costs what the layers cost."""
        if self.can_merge(shape, module):
            return 0
        sites = self.sites_with_layers(shape, module)
        return sum(2 * site.in_features * site.out_features * count for site, count in sites)

    def sites_with_layers(self, shape: ModelShape, module: Module) -> list[tuple[SiteShape, int]]:
        """Return each site shape with the number of layers it is adapted in."""
        return [(site, len(layers)) for site, layers in placed_on(shape, module)]

    def can_merge(self, shape: ModelShape, module: Module) -> bool:
        """Refuse where the weights are stored in four or eight bits."""
        return self.is_mergeable and shape.quantization is None

    def unavailable(self, shape: ModelShape) -> str | None:
        """Refuse quantised bases where the frozen weight is read."""
        if self.reads_weight and shape.quantization is not None:
            return f"it computes with the frozen weights, which are stored in {shape.quantization}"
        return super().unavailable(shape)


def num_matrices(shape: ModelShape, module: Module) -> int:
    """Return the number of matrices a module is put on."""
    return sum(len(layers) for _, layers in placed_on(shape, module))


def whole(settings: Mapping[str, Setting], name: str) -> int:
    """Return a setting that is a whole number."""
    value = settings[name]
    assert isinstance(value, int)
    return value


def real(settings: Mapping[str, Setting], name: str) -> float:
    """Return a setting that is a number."""
    value = settings[name]
    assert isinstance(value, int | float)
    return float(value)


def ranks_up_to(shape: ModelShape, ranks: tuple[int, ...]) -> tuple[int, ...]:
    """Return the ranks that no matrix of the model is too narrow for."""
    widths = [
        min(site.in_features, site.out_features)
        for site in shape.sites
        if site.site not in NOT_IN_ALL_LINEAR
    ]
    return tuple(rank for rank in ranks if rank <= min(widths, default=0))


def rank_dimension(
    shape: ModelShape, ranks: tuple[int, ...], *, default: int, help: str
) -> Dimension:
    """Declare the dimension ``rank`` over what fits the model."""
    fitting = ranks_up_to(shape, ranks)
    chosen = default if default in fitting else max(fitting, default=default)
    return Dimension(name="rank", kind="ordinal", values=fitting, default=chosen, help=help)


def num_kept(size: int, density: float) -> int:
    """Return how many of ``size`` numbers a density keeps: at least one, at most all."""
    return min(size, max(1, round(density * size)))
