"""Texts that a PEFT export carries: its README and, for several methods, its loader."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autopeft.search_spaces.training_domain import SEARCHABLE

CAUSAL_LM, SEQ2SEQ_LM = "causal-lm", "seq2seq-lm"

#: A prompt as built-in training data write it, by name of the data. Prompts of other data are
#: not shown: an export may go where its training rows must not.
EXAMPLE_PROMPTS = {
    "builtin:signatures": "# networkx.classes.graph.Graph\n"
    "def add_node(self, node_for_adding, **attr):\n",
}

#: Class names up to this many stand in the README's code, more are read from the facts.
MAX_NAMES = 8

#: Loads an export of several methods; needs transformers and PEFT only.
LOADER = '''"""Load this export: several PEFT methods on one base model, and their head.

    from load import load
    model, tokenizer = load()

One PEFT adapter holds one method, so each is a folder of its own here. They are injected one
after the other, and each is filled before the next one wraps the same layers.
"""

import importlib
import json
import warnings
from pathlib import Path

import torch
import transformers
from peft import PeftConfig, get_peft_model, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import load_file


def load(folder=Path(__file__).parent, base=None):
    """Return the model, ready to predict, and its tokenizer (or processor).

    Args:
        folder: This folder.
        base: Name or folder of the base model; by default the name in autopeft.json, save
            where the base model is a local folder, which is on no hub.
    """
    folder = Path(folder)
    facts = json.loads((folder / "autopeft.json").read_text(encoding="utf-8"))
    if base is None and facts.get("is_local_model"):
        name = facts["base_model"]
        raise ValueError(
            f"the base model is a local folder, called {name!r} when it was trained on, and is "
            f'on no hub: give its folder, as in load(base="PATH/TO/{name}")'
        )
    for name in facts["needs_modules"]:
        importlib.import_module(name)  # makes methods known that are not part of PEFT
    labels = {"id2label": dict(enumerate(facts["id2label"]))} if facts["id2label"] else {}
    if facts["num_labels"]:
        labels["num_labels"] = facts["num_labels"]
    if facts.get("quantization"):
        kinds = {
            "4bit": {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_use_double_quant": True,
                "bnb_4bit_compute_dtype": "bfloat16",
            },
            "8bit": {"load_in_8bit": True},
        }
        settings = transformers.BitsAndBytesConfig(
            **kinds[facts["quantization"]], llm_int8_skip_modules=facts["kept_in_full"]
        )
        labels["quantization_config"] = settings
    model = getattr(transformers, facts["auto_class"]).from_pretrained(
        base or facts["base_model"],
        dtype=facts["dtype"],
        revision=facts.get("revision") or "main",
        trust_remote_code=bool(facts.get("trust_remote_code")),
        **labels,
    )
    if (folder / "head.safetensors").is_file():
        head = load_file(folder / "head.safetensors")
        unknown = model.load_state_dict(head, strict=False, assign=True).unexpected_keys
        if unknown:
            raise ValueError(f"the base model has no such head: {unknown[:3]}")
    parts = {path.parent.name: path.parent for path in sorted(folder.glob("*/adapter_config.json"))}
    configs = {name: PeftConfig.from_pretrained(str(part)) for name, part in parts.items()}
    # What acts on whole blocks sees what acts inside them; prompt learning wraps the whole model.
    for name in sorted(configs, key=lambda name: (order(configs[name]), name)):
        tensors = load_file(parts[name] / "adapter_model.safetensors")
        with warnings.catch_warnings():
            # Several methods under distinct names are meant to be in one model here.
            warnings.filterwarnings("ignore", "You are trying to modify a model with PEFT")
            warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
            warnings.filterwarnings("ignore", ".*`base_model_name_or_path` was renamed")
            model = add_part(model, name, configs[name], tensors)
    kinds = {"image": "AutoImageProcessor", "audio": "AutoFeatureExtractor"}
    processor = getattr(transformers, kinds.get(facts["modality"], "AutoTokenizer"))
    return model.eval(), processor.from_pretrained(folder)


def order(config):
    """Return when a method is put in, as in training: first what needs layers without another."""
    is_late = config.peft_type not in ("ADALORA", "GLORA", "HRA", "MISS", "SHIRA")
    return config.is_prompt_learning, is_late, getattr(config, "injection_order", 0)


def add_part(model, name, config, tensors):
    """Return the model with one more method in it, filled with its tensors."""
    adapter = f"part_{name}"
    if config.is_prompt_learning:
        model = get_peft_model(model, config, adapter_name=adapter)
        with torch.no_grad():
            weight = model.prompt_encoder[adapter].embedding.weight
            weight.copy_(tensors["prompt_embeddings"])
        return model
    model = inject_adapter_in_model(config, model, adapter_name=adapter)
    unknown = set_peft_model_state_dict(model, tensors, adapter_name=adapter).unexpected_keys
    if unknown:
        raise ValueError(f"{name} does not fit the model: {unknown[:3]}")
    return model
'''


def readme(facts: Mapping[str, Any], *, is_parts: bool) -> str:
    """Return the README of an export.

    Args:
        facts: What ``autopeft.json`` of the export holds.
        is_parts: Whether it holds several methods, each in its own folder.
    """
    trial = facts["trial"]
    code = "\n".join([*(_load_parts(facts) if is_parts else _load_plain(facts)), *_predict(facts)])
    has_head = facts["task"] not in (CAUSAL_LM, SEQ2SEQ_LM)
    if is_parts:
        head = ", `head.safetensors` (the task head)" if has_head else ""
        files = f"one folder for each method{head}, `load.py`"
    else:
        held = " (adapter and task head)" if has_head else ""
        files = f"`adapter_config.json` and `adapter_model.safetensors`{held}"
    more = [f"`{name}`" for name in facts["needs_modules"]]
    if facts.get("quantization"):
        more.insert(0, "`bitsandbytes` (the base is quantised)")
    needs = "With `transformers` and `peft` alone"
    if more:
        listed = ", ".join(["`transformers`", "`peft`", *more[:-1]])
        needs = f"With {listed} and {more[-1]} installed"
    if facts["needs_modules"]:
        needs = f"This method is not part of PEFT: {needs[0].lower()}{needs[1:]}"
    job = f" of job {facts['job']!r}" if facts.get("job") else ""
    merging = ""
    if facts.get("is_mergeable"):
        merging = """
It merges into the base weights without a trace, and costs nothing then:

```python
model = model.merge_and_unload()
model.save_pretrained("merged")
```
"""
    return f"""\
# {trial["description"]}

A parameter-efficient fine-tuning of {_base_model(facts)} for {facts["task"]}, found by
AutoPEFT as trial {trial["number"]}{job}.

| | |
| --- | --- |
| {facts["metric"]} on the search-validation split | {_figure(trial["metric_value"])} |
| trainable parameters, head included | {trial["num_trainable_parameters"]:,} |
| adapter parameters | {trial["num_adapter_parameters"]:,} |
| training memory, predicted | {trial["train_memory_bytes"] / 2**20:,.0f} MiB |
| optimiser steps | {trial["steps"]} |
{_trained_with(facts)}\
| seed | {trial["seed"]} |

The search chose among trials by that metric, so expect less on new data; `autopeft confirm`
measures how much.

## Load and predict

{_base_model_note(facts, is_parts=is_parts)}

{needs}, in this folder:

```python
{code}
```
{merging}
## Files

- {files}
- the tokenizer's files
- `autopeft.json`: labels, text length, padding and the facts of the trial
"""


def _base_model(facts: Mapping[str, Any]) -> str:
    name = f"`{facts['base_model']}`"
    return f"the local model folder {name}" if facts.get("is_local_model") else name


def _local_path(facts: Mapping[str, Any]) -> str:
    """Return what stands for the folder of a base model that is found by no name."""
    return f"PATH/TO/{facts['base_model']}"


def _base_model_note(facts: Mapping[str, Any], *, is_parts: bool) -> str:
    """Say where the base model is found."""
    if facts.get("is_local_model"):
        configs = "each `adapter_config.json`" if is_parts else "`adapter_config.json`"
        return (
            f"**The base model is a local folder**, called `{facts['base_model']}` when it was "
            "searched. As far as\nAutoPEFT knows it is on no hub: a hub may hold somebody "
            "else's model of that name. Put your copy of\nthe folder in place of "
            f'`"{_local_path(facts)}"` below. {configs[0].upper()}{configs[1:]} keeps the bare '
            "name, which\nfinds nothing by itself: load the base model first, as here."
        )
    built = facts.get("built_by")
    if built:
        return (
            f"The base model is on no hub: `{built}` builds it (or finds it) and\nprints its "
            f'folder. Put that folder in place of `"{facts["base_model"]}"` below.'
        )
    return "The base model is loaded by its public name; put a folder there if you keep a copy."


def _base_model_comment(facts: Mapping[str, Any]) -> list[str]:
    """Return the lines above the one that names the base model, where that is no public name."""
    if facts.get("is_local_model"):
        return ["# Not a name on a hub: the folder of the base model on your machine."]
    built = facts.get("built_by")
    return [f"# Not a name on a hub: the folder that `{built}` prints."] if built else []


def _trained_with(facts: Mapping[str, Any]) -> str:
    """Return the row that says how it was trained; nothing where the facts do not tell."""
    settings = facts.get("training") or {}
    told = []
    for name in SEARCHABLE:
        value = settings.get(name)
        if isinstance(value, bool):
            value = "on" if value else "off"
        if value is not None:
            told.append(f"{name.replace('_', ' ')} {value}")
    return f"| trained with | {', '.join(told)} |\n" if told else ""


def _figure(value: float | None) -> str:
    return "not known" if value is None else f"{value:.6g}"


def _load_plain(facts: Mapping[str, Any]) -> list[str]:
    names, lines = facts["id2label"], ["import torch"]
    arguments = []
    if facts["num_labels"]:
        arguments.append(f"num_labels={facts['num_labels']}")
    if _is_short(names):
        arguments.append(f"id2label={dict(enumerate(names))!r}")
    elif names is not None:
        lines = [
            "import json, torch",
            "from pathlib import Path",
            'facts = json.loads(Path("autopeft.json").read_text(encoding="utf-8"))',
        ]
        arguments.append('id2label=dict(enumerate(facts["id2label"]))')
    arguments.append(f'dtype="{facts["dtype"]}"')
    classes = [_auto_class(facts), _processor_class(facts)]
    if facts.get("quantization"):
        classes.append("BitsAndBytesConfig")
        settings = {
            "4bit": 'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, '
            'bnb_4bit_compute_dtype="bfloat16"',
            "8bit": "load_in_8bit=True",
        }[facts["quantization"]]
        settings += f", llm_int8_skip_modules={list(facts.get('kept_in_full', ()))!r}"
        arguments.append(f"quantization_config=BitsAndBytesConfig({settings})")
    if facts.get("revision"):
        arguments.append(f"revision={facts['revision']!r}")
    if facts.get("trust_remote_code"):
        arguments.append("trust_remote_code=True")
    auto, processor = _auto_class(facts), _processor_class(facts)
    is_local = bool(facts.get("is_local_model"))
    named = "base" if is_local else f'"{facts["base_model"]}"'
    return [
        *lines,
        *_ours(facts),
        "from peft import PeftModel",
        f"from transformers import {', '.join(classes)}",
        *_base_model_comment(facts),
        *([f'base = "{_local_path(facts)}"'] if is_local else []),
        f"base = {auto}.from_pretrained(",
        f"    {named}, {', '.join(arguments)})",
        'model = PeftModel.from_pretrained(base, ".").eval()',
        f'{_processor_name(facts)} = {processor}.from_pretrained(".")',
    ]


def _load_parts(facts: Mapping[str, Any]) -> list[str]:
    name = _processor_name(facts)
    base = f', base="{facts["base_model"]}"' if facts.get("built_by") else ""
    if facts.get("is_local_model"):
        base = f', base="{_local_path(facts)}"'
    return [
        "import torch",
        "from load import load",
        *_base_model_comment(facts),
        f'model, {name} = load("."{base})',
    ]


def _ours(facts: Mapping[str, Any]) -> list[str]:
    """Return the line that makes methods of ours known to PEFT, where the export has one."""
    return [f"import {name}  # makes its method known to PEFT" for name in facts["needs_modules"]]


def _auto_class(facts: Mapping[str, Any]) -> str:
    return str(facts.get("auto_class") or "AutoModelForSequenceClassification")


def _processor_class(facts: Mapping[str, Any]) -> str:
    classes = {"image": "AutoImageProcessor", "audio": "AutoFeatureExtractor"}
    return classes.get(str(facts.get("modality")), "AutoTokenizer")


def _processor_name(facts: Mapping[str, Any]) -> str:
    return {"image": "processor", "audio": "extractor"}.get(str(facts.get("modality")), "tokenizer")


def _predict(facts: Mapping[str, Any]) -> list[str]:
    return _PREDICT.get(facts["task"], _predict_from_text)(facts)


def _predict_from_text(facts: Mapping[str, Any]) -> list[str]:
    is_pair = len(facts["text_columns"]) == 2
    texts = '["A first text."], ["A second text."]' if is_pair else '["A text."]'
    outcome = (
        "logits[:, 0].tolist()"
        if facts["id2label"] is None
        else "[model.config.id2label[i] for i in logits.argmax(-1).tolist()]"
    )
    return [
        f"batch = tokenizer({texts}, padding=True, truncation=True,",
        f'                  max_length={facts["max_tokens"]}, return_tensors="pt")',
        *_forward(facts, outcome),
    ]


def _generate(facts: Mapping[str, Any]) -> list[str]:
    """Return the lines that answer a prompt, made as in training."""
    roles = facts.get("input_roles") or ["text"]
    if facts.get("is_conversational") or "messages" in roles:
        batch = [
            'messages = [{"role": "user", "content": "A question."}]',
            "# Written by the chat template of the training, which is in this folder.",
            "batch = tokenizer.apply_chat_template(messages, add_generation_prompt=True,",
            '                                      return_dict=True, return_tensors="pt")',
        ]
    else:
        batch = [*_prompt(facts, roles), 'batch = tokenizer([prompt], return_tensors="pt")']
    stop = ""
    if facts.get("stop_ids"):
        stop = f", eos_token_id={list(facts['stop_ids'])}"
    new = "tokens[0]" if facts["task"] == SEQ2SEQ_LM else 'tokens[0, batch["input_ids"].shape[1]:]'
    return [
        *batch,
        *_context(facts),
        "    tokens = model.generate(**batch, max_new_tokens=64, do_sample=False,",
        f"                            pad_token_id=tokenizer.pad_token_id{stop})",
        f"print(tokenizer.decode({new}, skip_special_tokens=True))",
    ]


def _prompt(facts: Mapping[str, Any], roles: Sequence[str]) -> list[str]:
    """Return the lines that hold a prompt, and say how it must be written."""
    columns = dict(zip(roles, facts["text_columns"], strict=False))
    if "prompt" in columns:
        how = (
            f"# Written as in column {columns['prompt']!r} of the training data, to the last space."
        )
    else:
        column = facts["text_columns"][0]
        how = f"# The beginning of a text as in column {column!r} of the training data."
    return [how, f"prompt = {facts.get('example_prompt') or 'A prompt.'!r}"]


def _predict_tags(facts: Mapping[str, Any]) -> list[str]:
    return [
        'batch = tokenizer([["A", "list", "of", "words"]], is_split_into_words=True,',
        f"                  truncation=True, max_length={facts['max_tokens']}, "
        'return_tensors="pt")',
        "# A learned prompt has outputs of its own, in front of those of the tokens.",
        'length = batch["input_ids"].shape[1]',
        *_forward(
            facts, "[model.config.id2label[i] for i in logits[0, -length:].argmax(-1).tolist()]"
        ),
    ]


def _predict_choice(facts: Mapping[str, Any]) -> list[str]:
    return [
        'choices = ["A first choice.", "A second choice."]',
        'batch = tokenizer(["A question."] * len(choices), choices, padding=True, truncation=True,',
        f'                  max_length={facts["max_tokens"]}, return_tensors="pt")',
        "batch = {name: tensor[None] for name, tensor in batch.items()}  # one question",
        *_forward(facts, "logits.argmax(-1).tolist()"),
    ]


def _predict_image(facts: Mapping[str, Any]) -> list[str]:
    return [
        "import numpy as np",
        "image = np.zeros((32, 32, 3), dtype=np.uint8)  # your picture: height x width x RGB",
        'batch = processor(image, return_tensors="pt")',
        *_forward(facts, "[model.config.id2label[i] for i in logits.argmax(-1).tolist()]"),
    ]


def _predict_audio(facts: Mapping[str, Any]) -> list[str]:
    return [
        "import numpy as np",
        "rate = extractor.sampling_rate",
        "sound = np.zeros(rate, dtype=np.float32)  # your recording at that rate, in [-1, 1]",
        'batch = extractor(sound, sampling_rate=rate, return_tensors="pt")',
        *_forward(facts, "[model.config.id2label[i] for i in logits.argmax(-1).tolist()]"),
    ]


def _context(facts: Mapping[str, Any]) -> list[str]:
    """Return the lines that the model runs below: in the precision it was scored in."""
    dtype, enabled = facts.get("dtype", "float32"), ""
    if facts.get("precision") != "bfloat16" and not facts.get("quantization"):
        if dtype == "float32":
            return ["with torch.inference_mode():"]
        enabled = ", enabled=model.dtype != torch.float32" if dtype == "auto" else ""
    return [
        f"half = torch.autocast(model.device.type, torch.bfloat16{enabled})",
        "with torch.inference_mode(), half:",
    ]


def _forward(facts: Mapping[str, Any], outcome: str) -> list[str]:
    return [
        *_context(facts),
        "    logits = model(**batch).logits",
        f"print({outcome})",
    ]


_PREDICT: Mapping[str, Callable[[Mapping[str, Any]], list[str]]] = {
    CAUSAL_LM: _generate,
    SEQ2SEQ_LM: _generate,
    "token-classification": _predict_tags,
    "multiple-choice": _predict_choice,
    "image-classification": _predict_image,
    "audio-classification": _predict_audio,
}


def _is_short(names: list[str] | None) -> bool:
    """Whether class names can stand in a line of code inside a fenced block."""
    return names is not None and len(names) <= MAX_NAMES and "```" not in repr(names)
