"""ShadowPEFT: a small network beside the model whose state corrects the input of every block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange, Method

RANKS = (2, 4, 8, 16, 32)
ALPHAS = (0.05, 0.1, 0.3, 1.0)
#: Decoders whose parts are exactly the sites and normalisations of a shape.
MODEL_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3"})


@METHODS.register("shadow")
class Shadow(Method):
    """Li et al. 2026 (equations 2 to 7 of arXiv 2604.19254) with a one-layer mirror of the model.

    The auxiliary loss of equation 8 is not used: the job's own loss is all that trains. The
    state that the last block would hand on is read by nobody, so its update never learns.
    """

    name = "shadow"
    title = "ShadowPEFT"
    family = "side network"
    paper = "arXiv 2604.19254"
    module_file = "autopeft.workers.modules.shadow"
    is_placeable = False
    is_combinable = False
    tasks: ClassVar[frozenset[str] | None] = frozenset({"causal-lm"})
    # A network drawn at random is trained beside a low-rank injection: rates of LoRA's lower half.
    learning_rate = LearningRateRange(low=1e-4, default=1e-3, high=5e-3)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return rank and strength of the injection."""
        ranks = tuple(rank for rank in RANKS if rank <= shape.hidden_size)
        return (
            Dimension(
                name="rank",
                kind="ordinal",
                values=ranks,
                default=min(ranks, key=lambda rank: abs(rank - 8), default=8),
                help="Width of the injection and of the update's networks.",
            ),
            Dimension(
                name="alpha",
                kind="ordinal",
                values=ALPHAS,
                default=0.1,
                help="Strength of the correction.",
            ),
        )

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count one layer of the model, its last normalisation, and what each block gets."""
        rank, width = module["rank"], shape.hidden_size
        assert isinstance(rank, int)
        injection = 2 * rank * width
        update = 2 * ((width + 1) * rank + (rank + 1) * width)
        mirror = sum(_size(site) for site in (*shape.sites, *shape.norms) if _is_mirrored(site))
        return mirror + shape.num_layers * (injection + update)

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of ``peft.ShadowConfig``."""
        return {
            "peft_type": "SHADOW",
            "r": module["rank"],
            "shadow_alpha": module["alpha"],
            "shadow_dropout": 0.0,
            "shadow_num_hidden_layers": 1,
            "auxiliary_loss_weight": 0.0,
        }

    def unavailable(self, shape: ModelShape) -> str | None:
        """Refuse models that are no plain decoder."""
        if shape.model_type not in MODEL_TYPES:
            return f"it mirrors {', '.join(sorted(MODEL_TYPES))} only, not {shape.model_type}"
        return super().unavailable(shape)


def _is_mirrored(site: SiteShape) -> bool:
    return not site.is_in_layers or 0 in site.layers_among((0,))


def _size(site: SiteShape) -> int:
    if site.kind == "norm":
        return site.out_features * (2 if site.has_bias else 1)
    return site.in_features * site.out_features + (site.out_features if site.has_bias else 0)
