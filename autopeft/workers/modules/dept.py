"""DePT: a short soft prompt, and a low-rank update of the text's embeddings.

Shi and Lipani 2024, arXiv 2309.05173, section 2.2: of the numbers a long soft prompt would take,
some go into a short prompt ``P`` of ``m x d``, the rest into two factors that change the embeddings
of the text, place by place::

    [P; W_i + A B],  A: s x r,  B: r x d

for a text of at most ``s`` tokens; the prompt learns at a higher rate than the factors (section
3.1).
``P`` starts as the embeddings of drawn tokens, ``A`` is drawn, ``B`` starts at zero.

The prompt takes part as tokens: before the model runs, ``m`` placeholders enter its input, and the
token embedding gives them the rows of ``P``. So positions, masks and the search for the last token
are the model's own. Encoders that classify keep their first token first: there the prompt stands
behind it. What the model says of the placeholders is cut away. Text beyond ``s`` tokens, and what
is generated, has its plain embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from autopeft.workers.modules._framework import (
    MethodConfig,
    MethodTuner,
    parts_of,
    register_method,
)
from autopeft.workers.modules._layers import MethodLayer, Part, Pool
from autopeft.workers.modules._weights import weight_of

Tensor = torch.Tensor


@dataclass
class DeptConfig(MethodConfig):
    """Config of DePT; ``target_modules`` is the token embedding.

    Attributes:
        num_virtual_tokens: Rows of the prompt.
        rank: Rank of the update of the text's embeddings.
        max_tokens: Tokens of the text that are updated.
        rate_ratio: Learning rate of the factors as a part of the prompt's.
        place: Where the prompt stands: 0 in front, 1 behind the first token.
    """

    num_virtual_tokens: int = field(default=16, metadata={"help": "Rows of the prompt."})
    rank: int = field(default=8, metadata={"help": "Rank of the update."})
    max_tokens: int = field(default=256, metadata={"help": "Tokens that are updated."})
    rate_ratio: float = field(default=0.01, metadata={"help": "Rate of the factors."})
    place: int = field(default=0, metadata={"help": "Tokens before the prompt."})


class DeptPart(Part):
    """The prompt and the two factors, around the token embedding."""

    def __init__(self, base: nn.Module, config: DeptConfig, path: str, pool: Pool) -> None:
        super().__init__()
        weight = weight_of(base)
        rows, width = weight.shape
        self.place, self.rate_ratio = config.place, config.rate_ratio
        drawn = torch.randint(rows, (config.num_virtual_tokens,))
        start = torch.zeros(len(drawn), width) if weight.is_meta else weight.float().cpu()[drawn]
        self.prompt = nn.Parameter(start)
        self.A = nn.Parameter(torch.empty(config.max_tokens, config.rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.B = nn.Parameter(torch.zeros(config.rank, width))
        #: Whether the next tokens hold the placeholders; else they are generated ones.
        self.is_awaited = False

    def forward(self, base: Callable[..., Any], ids: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return embeddings ``batch x (m + s) x d``: the prompt's, and the updated text's."""
        plain: Tensor = base(ids, *args, **kwargs)
        if not self.is_awaited:
            return plain
        self.is_awaited = False
        behind = self.place + len(self.prompt)
        text = torch.cat([plain[:, : self.place], plain[:, behind:]], dim=1)
        update = (self.A[: text.shape[1]] @ self.B).to(plain.dtype)
        text = text + nn.functional.pad(update, (0, 0, 0, text.shape[1] - len(update)))
        prompt = self.prompt.to(plain.dtype).expand(len(text), -1, -1)
        return torch.cat([text[:, : self.place], prompt, text[:, self.place :]], dim=1)


class DeptTuner(MethodTuner):
    """Also lets the model take in the placeholders, and cut what it says of them."""

    def _post_injection_hook(self, model: nn.Module, config: Any, adapter_name: str) -> None:
        super()._post_injection_hook(model, config, adapter_name)
        layers = [m for m in model.modules() if isinstance(m, self.tuner_layer_cls)]
        if len(layers) != 1:
            raise ValueError(f"DePT needs one token embedding, {len(layers)} match its target")
        model.register_forward_pre_hook(Insert(layers[0], model.config), with_kwargs=True)
        model.register_forward_hook(Cut(layers[0]))


class Insert:
    """Hook before the model: put the placeholders among the tokens."""

    #: What is as long as the tokens, and what the placeholders have there.
    FILLS = (("attention_mask", 1), ("token_type_ids", 0), ("labels", -100))

    def __init__(self, layer: MethodLayer, config: Any) -> None:
        self.layer = layer
        padding = getattr(config, "pad_token_id", None)
        # Some models count positions, or look for the last token, by what is no padding.
        self.token = 1 if padding == 0 else 0

    def __call__(self, model: nn.Module, args: Any, kwargs: Any) -> Any:
        """Return the model's arguments with the placeholders in them."""
        part = next(self.layer.active_parts(), None)
        if part is None:
            return None
        kwargs = dict(kwargs)
        if args:
            kwargs["input_ids"], *rest = args
            if rest:
                raise ValueError("call a model with DePT with named arguments")
        if kwargs.get("input_ids") is None:
            raise ValueError("DePT takes token ids: it cannot be used on given embeddings")
        length, place = len(part.prompt), part.place
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0:
            # The placeholders are in the cache: only what counts them needs to know.
            if kwargs.get("attention_mask") is not None:
                kwargs["attention_mask"] = filled(kwargs["attention_mask"], 1, place, length)
            if kwargs.get("position_ids") is not None:
                kwargs["position_ids"] = kwargs["position_ids"] + length
            return (), kwargs
        kwargs.pop("position_ids", None)
        kwargs.pop("cache_position", None)
        kwargs["input_ids"] = filled(kwargs["input_ids"], self.token, place, length)
        for name, value in self.FILLS:
            if kwargs.get(name) is not None and kwargs[name].ndim == kwargs["input_ids"].ndim:
                kwargs[name] = filled(kwargs[name], value, place, length)
        part.is_awaited = True
        return (), kwargs


class Cut:
    """Hook behind the model: forget the outputs of the placeholders."""

    def __init__(self, layer: MethodLayer) -> None:
        self.layer = layer

    def __call__(self, model: nn.Module, args: Any, output: Any) -> Any:
        """Return the model's output without the placeholders' logits."""
        part = next(self.layer.active_parts(), None)
        logits = getattr(output, "logits", None)
        if part is not None and logits is not None and logits.ndim == 3:
            length, place = len(part.prompt), part.place
            if logits.shape[1] > length:
                kept = [logits[:, :place], logits[:, place + length :]]
                output.logits = torch.cat(kept, dim=1)
        return output


def filled(tokens: Tensor, value: int, place: int, length: int) -> Tensor:
    """Return ``... x s`` tokens with ``length`` times ``value`` behind the first ``place``."""
    fill = tokens.new_full((*tokens.shape[:-1], length), value)
    return torch.cat([tokens[..., :place], fill, tokens[..., place:]], dim=-1)


def param_groups(model: nn.Module, learning_rate: float) -> list[dict[str, Any]]:
    """Let the factors train at their part of the prompt's rate."""
    return [
        {"params": [part.A, part.B], "lr_scale": part.rate_ratio}
        for _, part in parts_of(model, DeptPart)
    ]


register_method("autopeft_dept", DeptConfig, DeptPart, tuner_class=DeptTuner)
