"""Which characters the assistant wrote, against templates of every kind.

Each expectation is written out by hand: the rendered conversation with the trained characters
in angle quotes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autopeft.errors import DataError, ModelError
from autopeft.workers.data.chat import TEMPLATES, ChatFormat, read_chat_template
from autopeft.workers.settings import DataSettings
from tests.workers import tiny_lm

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim "
    "+ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{% endif %}"
)
MARKED = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|im_start|>assistant\n"
    "{% generation %}{{ m['content'] }}{% endgeneration %}<|im_end|>\n"
    "{% else %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: Reasoning is dropped from every turn but the last, as Qwen3 and DeepSeek do it.
FORGETFUL = (
    "{% for m in messages %}{% set text = m['content'] %}"
    "{% if m['role'] == 'assistant' and not loop.last and '</think>' in text %}"
    "{% set text = text.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ text }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: The end token stands once, after everything, unless a generation prompt is wanted (Phi-3).
ENDS_ONCE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% else %}{{ eos_token }}{% endif %}"
)
#: There is no generation prompt, and a conversation must begin with a user (Llama-2, Mistral).
INSTRUCT = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
#: Something of the whole conversation stands at its beginning, so that no part begins it.
COUNTS = (
    "{{ messages | length }} messages\n{% for m in messages %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

SYSTEM = {"role": "system", "content": "S"}
ONE = {"role": "user", "content": "one"}
TWO = {"role": "assistant", "content": "two\n"}
THREE = {"role": "user", "content": "three"}
FOUR = {"role": "assistant", "content": " four"}
THOUGHT = {"role": "assistant", "content": "<think>x</think>\ntwo"}

CASES = {
    "chatml": (
        TEMPLATES["chatml"],
        [SYSTEM, ONE, TWO, THREE, FOUR],
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\none<|im_end|>\n"
        "<|im_start|>assistant\n«two\n<|im_end|>»\n<|im_start|>user\nthree<|im_end|>\n"
        "<|im_start|>assistant\n« four<|im_end|>»\n",
    ),
    "plain": (
        TEMPLATES["plain"],
        [ONE, TWO, THREE, FOUR],
        "<s>### User:\none\n\n### Assistant:\n«two\n</s>»\n\n"
        "### User:\nthree\n\n### Assistant:\n« four</s>»\n\n",
    ),
    "llama-3": (
        LLAMA3,
        [ONE, TWO, THREE, FOUR],
        "<s><|start_header_id|>user<|end_header_id|>\n\none<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«two<|eot_id|>»"
        "<|start_header_id|>user<|end_header_id|>\n\nthree<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«four<|eot_id|>»",
    ),
    "marked": (
        MARKED,
        [ONE, TWO, THREE, FOUR],
        "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n«two\n<|im_end|>»\n"
        "<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\n« four<|im_end|>»\n",
    ),
    "forgetful": (
        FORGETFUL,
        [ONE, THOUGHT, THREE, THOUGHT],
        "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n«two<|im_end|>»\n"
        "<|im_start|>user\nthree<|im_end|>\n"
        "<|im_start|>assistant\n«<think>x</think>\ntwo<|im_end|>»\n",
    ),
    "ends once": (
        ENDS_ONCE,
        [ONE, TWO, THREE, FOUR],
        "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n«two<|im_end|>»\n"
        "<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\n«four<|im_end|>\n</s>»",
    ),
    "instruct": (
        INSTRUCT,
        [ONE, FOUR, THREE, FOUR],
        "<s>[INST] one [/INST]«  four</s>»[INST] three [/INST]«  four</s>»",
    ),
    "counts": (
        COUNTS,
        [ONE, TWO, THREE, FOUR, ONE],
        "5 messages\n<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n«two\n<|im_end|>»\n"
        "<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\n« four<|im_end|>»\n"
        "<|im_start|>user\none<|im_end|>\n",
    ),
    "begins with the assistant": (
        TEMPLATES["chatml"],
        [TWO, THREE, FOUR],
        "<|im_start|>assistant\n«two\n<|im_end|>»\n<|im_start|>user\nthree<|im_end|>\n"
        "<|im_start|>assistant\n« four<|im_end|>»\n",
    ),
    "equal turns": (
        TEMPLATES["chatml"],
        [ONE, {"role": "assistant", "content": "one"}, ONE],
        "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n«one<|im_end|>»\n"
        "<|im_start|>user\none<|im_end|>\n",
    ),
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_lm.make_tokenizer()


@pytest.mark.parametrize("name", CASES)
def test_the_turns_of_the_assistant_and_their_ends_are_trained_on(
    name: str, tokenizer: Any
) -> None:
    template, messages, expected = CASES[name]
    extra = ["<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
    if name == "llama-3":
        tokenizer = tiny_lm.make_tokenizer(
            additional_special_tokens=["<|im_start|>", "<|im_end|>", *extra]
        )
    chat = ChatFormat(tokenizer, template)
    text = chat.render(messages)
    marked = text
    for start, end in reversed(chat.assistant_spans(messages, text)):
        marked = marked[:start] + "«" + marked[start:end] + "»" + marked[end:]

    assert marked == expected


@pytest.mark.parametrize("name", ["chatml", "marked"])
def test_turns_before_the_first_one_to_train_on_are_left_alone(name: str, tokenizer: Any) -> None:
    template, messages, _ = CASES[name]
    chat = ChatFormat(tokenizer, template)
    text = chat.render(messages)
    spans = chat.assistant_spans(messages, text, first=len(messages) - 1)

    assert [text[start:end] for start, end in spans] == [" four<|im_end|>"]


@pytest.mark.parametrize(
    "template",
    [
        # Contents are written in another order than they were said, or changed on the way.
        "{% for m in messages | reverse %}{{ m['content'] }}\n{% endfor %}",
        "{{ messages | length }}{% for m in messages %}{{ m['content'] | upper }}{% endfor %}",
        "{{ messages | length }}{% for m in messages %}{{ m['content'] * 2 }}{% endfor %}",
        "{{ messages | length }}{{ messages[0]['content'] }}",
    ],
)
def test_a_template_that_does_not_tell_is_refused(template: str, tokenizer: Any) -> None:
    chat = ChatFormat(tokenizer, template)
    messages = [ONE, TWO, THREE, FOUR]
    with pytest.raises(DataError, match=r"cannot tell which part of the conv.*'one'") as caught:
        chat.assistant_spans(messages, chat.render(messages))
    assert caught.value.hint is not None
    assert "{% generation %}" in caught.value.hint


def test_a_conversation_that_the_template_refuses_is_named(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="refuses the conversation 'one': roles must alternate"):
        ChatFormat(tokenizer, INSTRUCT).render([ONE, THREE])


def test_without_any_template_one_must_be_named() -> None:
    bare = tiny_lm.make_tokenizer(chat_template=None)
    with pytest.raises(ModelError, match="tokenizer has no chat template") as caught:
        ChatFormat(bare).render([ONE])
    assert caught.value.hint is not None
    assert "chat_template: chatml" in caught.value.hint


def test_a_template_comes_from_a_name_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text("{{ messages }}", encoding="utf-8")

    def read(name: str | None) -> str | None:
        return read_chat_template(DataSettings(chat_template=name), tmp_path)

    assert read(None) is None
    assert read("chatml") == TEMPLATES["chatml"]
    assert read("own.jinja") == "{{ messages }}"
    with pytest.raises(DataError, match="neither a template nor a file 'chatlm'; did you mean 'ch"):
        read("chatlm")
