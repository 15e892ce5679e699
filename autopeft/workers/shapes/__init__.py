"""What a search space needs to know of a model, found on the meta device: no weights are read."""

from __future__ import annotations

from autopeft.workers.shapes.finding import meta_model, model_shape, shape_from_config

__all__ = ["meta_model", "model_shape", "shape_from_config"]
