"""BitFit: train the bias vectors and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange, Method
from autopeft.search_spaces.targets import placed_on, sites_of, target_pattern


@METHODS.register("bias")
class Bias(Method):
    """Ben Zaken et al. 2022: every bias inside the transformer layers, normalisations' too.

    PEFT's BEFT (method ``beft``) covers ``nn.Linear`` only; this one also takes the biases of
    normalisations, of the keys and of GPT-2's layers. The gradient of a key's bias is zero
    where positions are not rotated: it shifts all scores of a query alike, and the softmax
    cancels that. It is offered because the paper trains it.
    """

    name = "bias"
    title = "BitFit (every bias)"
    family = "bias"
    paper = "arXiv 2106.10199"
    exclusive = frozenset({"bias vectors"})
    saved_as = "ours"
    is_mergeable = True
    module_file = "autopeft.workers.modules.bias"
    # BitFit reports 1e-4 to 1e-2 over several epochs, the best results on small sets at the
    # upper end; about a hundred steps on vectors that start at 0 need more.
    learning_rate = LearningRateRange(low=1e-3, default=1e-2, high=1e-1)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return the layers that have a bias."""
        names = tuple(dict.fromkeys(site.site for site in _with_bias(shape)))
        return (
            Dimension(
                name="sites",
                kind="subset",
                values=names,
                default=names,
                help="Layers whose bias is trained.",
            ),
        )

    def unavailable(self, shape: ModelShape) -> str | None:
        """Refuse models whose layers have no biases."""
        if not _with_bias(shape):
            return f"the layers of {shape.model_type} have no biases"
        return super().unavailable(shape)

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count one number for each output feature."""
        return sum(site.out_features * len(layers) for site, layers in placed_on(shape, module))

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of the config."""
        target = target_pattern(shape, module.layers, sites_of(module))
        return {"peft_type": "AUTOPEFT_BIAS", "target_modules": target}

    def can_merge(self, shape: ModelShape, module: Module) -> bool:
        """Refuse where the layers are stored in four or eight bits."""
        return shape.quantization is None


def _with_bias(shape: ModelShape) -> tuple[SiteShape, ...]:
    """Return the layers whose name stands for layers with a bias only."""
    sites = [site for site in (*shape.sites, *shape.norms) if site.is_in_layers]
    without = {site.site for site in sites if not site.has_bias}
    return tuple(site for site in sites if site.site not in without and site.site != "mixer_dt")
