"""The lines of code an export's README holds, task by task."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

from autopeft.results.exporters._peft_texts import EXAMPLE_PROMPTS, LOADER, readme
from autopeft.workers.data.signatures import prompt_of
from autopeft.workers.source_code import Definition

TRIAL = {
    "number": 3,
    "description": "lora[0-1] rank=8 lr=0.001",
    "metric_value": 0.5,
    "num_trainable_parameters": 1000,
    "num_adapter_parameters": 900,
    "train_memory_bytes": 2**20,
    "steps": 10,
    "seed": 0,
}
AUTO_CLASSES = {
    "classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "causal-lm": "AutoModelForCausalLM",
    "seq2seq-lm": "AutoModelForSeq2SeqLM",
    "token-classification": "AutoModelForTokenClassification",
    "multiple-choice": "AutoModelForMultipleChoice",
    "image-classification": "AutoModelForImageClassification",
    "audio-classification": "AutoModelForAudioClassification",
}
MODALITIES = {"image-classification": "image", "audio-classification": "audio"}


def facts_of(task: str, **changes: Any) -> dict[str, Any]:
    has_names = task not in ("regression", "causal-lm", "seq2seq-lm", "multiple-choice")
    facts = {
        "job": "tiny",
        "task": task,
        "metric": "accuracy",
        "base_model": "tiny/model",
        "auto_class": AUTO_CLASSES[task],
        "modality": MODALITIES.get(task, "text"),
        "dtype": "float32",
        "id2label": ["no", "yes"] if has_names else None,
        "num_labels": 0 if task.endswith("-lm") else 2,
        "max_tokens": 32,
        "text_columns": ["text"],
        "input_roles": ["text"],
        "needs_modules": [],
        "trial": TRIAL,
    }
    return {**facts, **changes}


def code_of(facts: dict[str, Any], *, is_parts: bool = False) -> str:
    match = re.search(r"```python\n(.*?)```", readme(facts, is_parts=is_parts), re.DOTALL)
    assert match is not None
    ast.parse(match.group(1))
    return match.group(1)


@pytest.mark.parametrize("is_parts", [False, True])
@pytest.mark.parametrize("task", AUTO_CLASSES)
def test_every_task_has_lines_that_parse(task: str, is_parts: bool) -> None:
    code = code_of(facts_of(task), is_parts=is_parts)
    assert (AUTO_CLASSES[task] in code) is not is_parts
    assert ("generate(" in code) is task.endswith("-lm")


def test_a_language_model_has_no_labels() -> None:
    assert "num_labels" not in code_of(facts_of("causal-lm"))


def test_a_chat_model_answers_by_its_template() -> None:
    code = code_of(facts_of("causal-lm", input_roles=["messages"]))
    assert "apply_chat_template" in code
    assert "apply_chat_template" not in code_of(facts_of("causal-lm", input_roles=["prompt"]))


def test_messages_are_a_chat_also_as_prompts_and_completions() -> None:
    facts = facts_of("causal-lm", input_roles=["prompt", "completion"], is_conversational=True)
    assert "apply_chat_template" in code_of(facts)


def test_an_answer_ends_where_training_taught_it_to() -> None:
    assert "eos_token_id=[1, 5])" in code_of(facts_of("causal-lm", stop_ids=[1, 5]))
    assert "eos_token_id" not in code_of(facts_of("causal-lm"))


def test_a_prompt_is_written_as_in_training() -> None:
    prompt = EXAMPLE_PROMPTS["builtin:signatures"]
    owner, header, end = prompt.removeprefix("# ").split("\n")
    definition = Definition(module="", owner=owner, header=header, docstring="")
    assert prompt_of(definition) == prompt
    assert end == ""
    facts = facts_of(
        "causal-lm",
        input_roles=["prompt", "completion"],
        text_columns=["instruction", "output"],
        example_prompt=prompt,
    )
    code = code_of(facts)
    assert f"prompt = {prompt!r}\n" in code
    assert "as in column 'instruction' of the training data" in code


@pytest.mark.parametrize("is_parts", [False, True])
def test_a_built_base_is_explained_before_it_is_named(is_parts: bool) -> None:
    command = "autopeft build docstring-lm"
    facts = facts_of("causal-lm", base_model="docstring-lm", built_by=command)
    text = readme(facts, is_parts=is_parts)
    assert text.index(f"`{command}` builds it") < text.index("```python")
    code = code_of(facts, is_parts=is_parts)
    assert code.index(f"`{command}` prints") < code.index('"docstring-lm"')


@pytest.mark.parametrize("is_parts", [False, True])
def test_a_local_base_is_no_name_to_look_up(is_parts: bool) -> None:
    facts = facts_of("seq2seq-lm", base_model="t5", is_local_model=True)
    text, code = readme(facts, is_parts=is_parts), code_of(facts, is_parts=is_parts)

    assert text.index("is a local folder**, called `t5`") < text.index("```python")
    assert "on no hub" in text
    assert "keeps the bare name" in " ".join(text.split())
    assert "public name" not in text
    assert '"t5"' not in code
    assert ('load(".", base="PATH/TO/t5")' if is_parts else 'base = "PATH/TO/t5"\n') in code


def test_the_loader_looks_up_no_local_base(tmp_path: Path) -> None:
    (tmp_path / "load.py").write_text(LOADER)
    (tmp_path / "autopeft.json").write_text('{"base_model": "t5", "is_local_model": true}')
    loader = run_path(str(tmp_path / "load.py"))

    with pytest.raises(ValueError, match=r'on no hub: .*load\(base="PATH/TO/t5"\)'):
        loader["load"](tmp_path)


@pytest.mark.parametrize(
    ("modules", "needs"),
    [
        ([], "With `transformers`, `peft` and `bitsandbytes` (the base is quantised) installed"),
        (
            ["some.adapters"],
            "with `transformers`, `peft`, `bitsandbytes` (the base is quantised) and "
            "`some.adapters` installed",
        ),
    ],
)
def test_a_quantised_base_needs_bitsandbytes(modules: list[str], needs: str) -> None:
    facts = facts_of("causal-lm", quantization="4bit", needs_modules=modules)
    assert needs in readme(facts, is_parts=False)
    assert "bitsandbytes" not in readme(facts_of("causal-lm"), is_parts=False)


def test_a_method_of_ours_says_what_it_needs() -> None:
    facts = facts_of("classification", needs_modules=["some_package.adapters"])
    assert "import some_package.adapters" in code_of(facts)
    assert "`some_package.adapters` installed" in readme(facts, is_parts=False)


def test_the_loader_parses() -> None:
    names = {node.name for node in ast.parse(LOADER).body if isinstance(node, ast.FunctionDef)}
    assert names == {"load", "add_part", "order"}
