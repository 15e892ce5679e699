"""IAPT: the generator's equation, padding, and the attention that its prompts enter."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from autopeft.search_spaces.method import get_method
from autopeft.workers.modules._framework import parts_of
from autopeft.workers.modules.iapt import (
    IaptConfig,
    IaptPart,
    near_gelu,
    rational,
    text_of,
)
from tests.workers import families
from tests.workers.modules.building import injected, module_of, run, shape_of
from tests.workers.modules.parts import close, inputs, part_of

D, M, L = 12, 5, 3


def generator() -> Any:
    config = IaptConfig(num_virtual_tokens=L, bottleneck=M, width=D)
    return part_of(IaptPart, torch.nn.Identity(), config)


def test_prompts_follow_the_equation() -> None:
    part, states = generator(), inputs(2, 7, D)
    expected = torch.empty(2, L, D, dtype=torch.float64)
    for row in range(2):
        short = states[row] @ part.down.T
        for place in range(L):
            weights = (short @ part.queries[place] / math.sqrt(M)).softmax(0)
            pooled = weights @ short
            above = sum(a * pooled**power for power, a in enumerate(part.numerator))
            below = sum(b * pooled**power for power, b in enumerate(part.denominator, 1))
            expected[row, place] = (above / (1 + below.abs()) @ part.up.T).detach()

    assert close(part.prompts(states, None), expected)


def test_padding_is_not_read() -> None:
    part, states = generator(), inputs(2, 7, D)
    is_text = torch.ones(2, 7, dtype=torch.bool)
    is_text[:, 5:] = False
    changed = states.clone()
    changed[:, 5:] = 100.0

    assert close(part.prompts(states, is_text), part.prompts(changed, is_text))
    assert close(part.prompts(states, is_text), part.prompts(states[:, :5], None))


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_text_is_what_the_last_token_may_look_at(dtype: torch.dtype) -> None:
    seen = torch.tensor([[True, True, False]])
    mask = seen[:, None, None, :].expand(1, 1, 3, 3)
    if dtype == torch.float32:
        mask = torch.zeros(1, 1, 3, 3).masked_fill(~mask, torch.finfo(torch.float32).min)
    found = text_of(mask)

    assert found is not None
    assert torch.equal(found, seen)


def test_activation_starts_near_gelu() -> None:
    x = torch.linspace(-3, 3, 200)

    assert torch.allclose(rational(x, *near_gelu()), functional.gelu(x), atol=1e-3)


def test_attention_has_the_projected_prompts_in_front() -> None:
    shape = shape_of("bert")
    model = injected("bert", module_of("iapt", shape, layers=(0,), num_virtual_tokens=2))
    ((_, part),) = parts_of(model, IaptPart)
    name = "bert.encoder.layer.0.attention.self"
    attention: Any = next(m for path, m in model.named_modules() if path.endswith(name))
    seen: dict[str, Any] = {}

    def keep(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        seen["x"], seen["y"] = (*args, kwargs.get("hidden_states"))[0], output[0]

    handle = attention.register_forward_hook(keep, with_kwargs=True)
    with torch.no_grad():
        run(model, "bert")
        handle.remove()
        x = seen["x"]
        prompts = part.prompts(x, None)
        rows = [
            torch.cat([layer(prompts), layer(x)], dim=1)
            for layer in (attention.key, attention.value)
        ]
        heads = [row.view(*row.shape[:2], 4, 8).transpose(1, 2) for row in rows]
        query = attention.query(x).unflatten(-1, (4, 8)).transpose(1, 2)
        weights = (query @ heads[0].transpose(2, 3) / math.sqrt(8)).softmax(-1)
        expected = (weights @ heads[1]).transpose(1, 2).flatten(2)

    assert torch.allclose(seen["y"], expected, atol=1e-5)


def test_padded_batch_gives_what_the_short_one_gives() -> None:
    model = injected("bert", module_of("iapt", shape_of("bert")))
    ids = families.inputs("bert")["input_ids"]
    padded = functional.pad(ids, (0, 3))
    with torch.no_grad():
        short = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        long = model(input_ids=padded, attention_mask=(padded != 0).long()).logits

    assert torch.allclose(short, long, atol=1e-5)


def test_language_models_are_refused_with_the_reason() -> None:
    reason = get_method("iapt").unavailable(shape_of("llama"))

    assert reason is not None
    assert "not for causal-lm" in reason
