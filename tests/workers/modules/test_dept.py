"""DePT: the prompt as tokens, the update of the text, two learning rates, generation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.method import get_method
from autopeft.workers.hooks import hooks_of
from autopeft.workers.modules._framework import parts_of
from autopeft.workers.modules._layers import MethodLayer
from autopeft.workers.modules.dept import DeptPart
from tests.workers import families
from tests.workers.modules.building import base_of, injected, module_of, run, shape_of

LENGTH = 4


def model_of(family: str) -> tuple[Any, DeptPart]:
    model = injected(family, module_of("dept", shape_of(family), num_virtual_tokens=LENGTH, rank=2))
    ((_, part),) = parts_of(model, DeptPart)
    return model, part


def updated(part: DeptPart, text: torch.Tensor) -> torch.Tensor:
    """Return the text's embeddings after the update, by the paper's equation."""
    return text + part.A[: text.shape[1]] @ part.B


def test_language_model_sees_the_prompt_in_front_of_the_updated_text() -> None:
    model, part = model_of("llama")
    base, batch = base_of("llama"), families.inputs("llama")
    text = updated(part, base.get_input_embeddings()(batch["input_ids"]))
    given = torch.cat([part.prompt.expand(len(text), -1, -1), text], dim=1)

    with torch.no_grad():
        expected = base(inputs_embeds=given).logits[:, LENGTH:]
        assert torch.allclose(run(model, "llama"), expected, atol=1e-5)


def test_encoder_keeps_its_first_token_first() -> None:
    model, part = model_of("bert")
    base, batch = base_of("bert"), families.inputs("bert")
    text = updated(part, base.get_input_embeddings()(batch["input_ids"]))
    prompt = part.prompt.expand(len(text), -1, -1)
    given = torch.cat([text[:, :1], prompt, text[:, 1:]], dim=1)
    with torch.no_grad():
        states = base.bert(inputs_embeds=given).pooler_output
        found = run(model, "bert")
        head: Any = model.get_submodule("classifier")
        expected = head(states)

    assert part.place == 1
    assert torch.allclose(found, expected, atol=1e-5)


def test_padding_changes_nothing() -> None:
    model, _ = model_of("llama")
    ids = torch.randint(3, 100, (2, 5), generator=torch.Generator().manual_seed(3))
    padded = torch.cat([ids, torch.zeros(2, 3, dtype=torch.int64)], dim=1)
    mask = (padded != 0).long()
    with torch.no_grad():
        short = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        long = model(input_ids=padded, attention_mask=mask).logits[:, :5]

    assert torch.allclose(short, long, atol=1e-5)


def test_text_beyond_the_update_keeps_its_embeddings() -> None:
    model, part = model_of("llama")
    part.A.data = part.A.data[:3]
    base, batch = base_of("llama"), families.inputs("llama")
    text = base.get_input_embeddings()(batch["input_ids"])
    text = torch.cat([updated(part, text[:, :3]), text[:, 3:]], dim=1)
    given = torch.cat([part.prompt.expand(len(text), -1, -1), text], dim=1)

    with torch.no_grad():
        expected = base(inputs_embeds=given).logits[:, LENGTH:]
        assert torch.allclose(run(model, "llama"), expected, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_generation_continues_behind_prompt_and_text(family: str) -> None:
    model, part = model_of(family)
    part.B.data.zero_()  # generated tokens are not updated, so text and they are alike without
    batch = families.inputs(family)
    with torch.no_grad():
        generated = model.generate(
            **batch, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0
        )
        tokens = batch["input_ids"]
        for _ in range(4):
            logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[:, -1]
            logits[:, model.generation_config.eos_token_id] = -torch.inf
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=1)

    assert torch.equal(generated, tokens)


def test_generated_tokens_continue_behind_the_prompt() -> None:
    model, part = model_of("llama")
    part.A.data.zero_()
    batch = families.inputs("llama")
    with torch.no_grad():
        first = model(**batch, use_cache=True)
        token = first.logits[:, -1:].argmax(-1)
        mask = torch.ones(2, batch["input_ids"].shape[1] + 1, dtype=torch.int64)
        position = mask.sum(1, keepdim=True) - 1
        step = model(
            input_ids=token,
            attention_mask=mask,
            position_ids=position,
            past_key_values=first.past_key_values,
        ).logits
        whole = model(
            input_ids=torch.cat([batch["input_ids"], token], dim=1), attention_mask=mask
        ).logits

    assert torch.allclose(step[:, -1], whole[:, -1], atol=1e-5)


def test_factors_train_at_their_part_of_the_rate() -> None:
    shape = shape_of("llama")
    module = module_of("dept", shape, rate_ratio=0.03)
    configuration = Configuration(modules=(module,), learning_rate=0.1)
    model = injected("llama", module)
    scales = hooks_of(configuration).learning_rate_scales(model, 0.1)

    assert {name.rpartition(".")[2]: scale for name, scale in scales.items()} == {
        "A": 0.03,
        "B": 0.03,
    }


def test_count_is_that_of_the_paper() -> None:
    shape = shape_of("llama")
    module = module_of("dept", shape, num_virtual_tokens=8, rank=4)

    # m d + (s + d) r with s = 256, section 2.2.
    assert get_method("dept").num_parameters(shape, module) == 8 * 32 + (256 + 32) * 4


def test_given_embeddings_are_refused() -> None:
    model, _ = model_of("llama")
    with pytest.raises(ValueError, match="DePT takes token ids"):
        model(inputs_embeds=torch.zeros(1, 3, 32))


def test_switched_off_the_model_is_the_base() -> None:
    model, _ = model_of("llama")
    for module in model.modules():
        if isinstance(module, MethodLayer):
            BaseTunerLayer.enable_adapters(module, False)
    with torch.no_grad():
        assert torch.equal(run(model, "llama"), run(base_of("llama"), "llama"))
