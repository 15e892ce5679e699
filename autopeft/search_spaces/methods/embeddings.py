"""Train the embeddings in full, alone or together with the output layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange, Method
from autopeft.search_spaces.methods._in_full import sites_among, switch
from autopeft.search_spaces.targets import pattern_of, placed_sites, sites_of

TOKENS = "token_embedding"
LANGUAGE_MODELS = frozenset({"causal-lm", "seq2seq-lm"})


@METHODS.register("embeddings")
class Embeddings(Method):
    """Artetxe et al. 2020: the embeddings train, the body of the model stays.

    With ``output`` the output layer of a language model trains too: as one matrix with the
    token embedding where the model ties them, else as a second one. The head of any other
    task trains anyway.
    """

    name = "embeddings"
    title = "Embeddings (and head)"
    family = "selective"
    paper = "arXiv 1910.11856"
    saved_as = "ours"
    is_mergeable = True
    is_placeable = False
    module_file = "autopeft.workers.modules.embeddings"
    # Rows of an embedding get a gradient only where their token occurs, so that they bear more
    # than the rates of full fine-tuning; rates around 1e-3 are common for new tokens.
    learning_rate = LearningRateRange(low=1e-4, default=1e-3, high=1e-2)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return the embeddings and, for language models, whether the output layer trains."""
        outside = [site for site in shape.embeddings if not site.is_in_layers]
        sites = sites_among(outside, default=(TOKENS,), help="Embeddings that train.")
        if shape.task not in LANGUAGE_MODELS or TOKENS not in sites.values:
            return (sites,)
        output = switch("output", default=False, help="Whether the output layer trains too.")
        return (sites, output)

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count the rows, and those of an output layer of its own."""
        count = sum(site.in_features * site.out_features for site, _ in _placed(shape, module))
        if _has_output(module) and not _is_shared(shape, module):
            count += shape.vocab_size * shape.hidden_size
        return count

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of the config."""
        return {
            "peft_type": "AUTOPEFT_EMBEDDINGS",
            "target_modules": pattern_of(_placed(shape, module)),
            "output": _has_output(module),
        }

    def can_merge(self, shape: ModelShape, module: Module) -> bool:
        """Refuse tied embeddings, which merging would untie."""
        return not shape.has_tied_embeddings and shape.quantization is None


def _placed(shape: ModelShape, module: Module) -> list[tuple[SiteShape, tuple[int, ...]]]:
    return [
        (site, layers)
        for site, layers in placed_sites(shape, sites_of(module), ())
        if not site.is_in_layers
    ]


def _has_output(module: Module) -> bool:
    return bool(module.as_dict().get("output", False))


def _is_shared(shape: ModelShape, module: Module) -> bool:
    """Tell whether token embedding and output layer learn one matrix."""
    tied = shape.has_tied_embeddings and TOKENS in sites_of(module)
    return _has_output(module) and tied
