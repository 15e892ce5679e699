"""Rows of a language model to tokens, and which of the tokens are trained on.

A token that is not trained on has the label -100, as everywhere in transformers. The first
token of a sequence is never trained on: nothing comes before it.

Longer examples than ``max_tokens`` are cut:

* a text or a conversation loses its end;
* a prompt loses its beginning (a leading start-of-text token stays), since the end of a prompt
  says what to write; but it may always keep half of the tokens, and what then is left of the
  completion loses its end.

An example without a token to train on after that is left out, with a :class:`DataWarning` that
counts them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.errors import ModelError
from autopeft.workers.data.chat import ChatFormat
from autopeft.workers.data.conversations import ASSISTANT, Message
from autopeft.workers.data.table import DataWarning
from autopeft.workers.data.tokenization import NUM_ROWS_AT_ONCE, padding_token, ragged
from autopeft.workers.dataset import INPUT_IDS, EncodedSplit, Rows

NOT_TRAINED = -100

#: Tokens of one example, and which of them are trained on.
Example = tuple[list[int], list[bool]]


def encode_language(
    rows: Rows, tokenizer: Any, max_tokens: int, chat_template: str | None = None
) -> EncodedSplit:
    """Return rows of messages, of prompts and completions, or of texts as tokens and labels.

    Args:
        rows: Their columns tell what they are.
        tokenizer: A fast tokenizer of transformers.
        max_tokens: Longer examples are cut.
        chat_template: Replaces the tokenizer's own.

    Raises:
        AutopeftError: no token of any row can be trained on, or conversations cannot be written.
    """
    examples: list[Example] = []
    for start in range(0, len(rows), NUM_ROWS_AT_ONCE):
        part = rows.take(range(start, min(len(rows), start + NUM_ROWS_AT_ONCE)))
        if is_conversational(rows):
            examples += _conversations(part, ChatFormat(tokenizer, chat_template), max_tokens)
        elif "prompt" in rows.columns:
            examples += _completions(part, tokenizer, max_tokens)
        else:
            examples += _texts(part.text, tokenizer, max_tokens)
    return as_split(examples, padding_token(tokenizer), max_tokens)


def is_conversational(rows: Rows) -> bool:
    """Return whether rows hold messages, under that name or as prompts and completions."""
    prompts = rows.columns.get("prompt")
    return "messages" in rows.columns or bool(prompts and isinstance(prompts[0], list))


def conversation(rows: Rows, row: int) -> tuple[list[Message], int]:
    """Return the messages of a row, and the first one that may be trained on."""
    if "messages" in rows.columns:
        return rows.columns["messages"][row], 0
    prompt = rows.columns["prompt"][row]
    return [*prompt, *rows.columns["completion"][row]], len(prompt)


def as_split(examples: Sequence[Example], pad_token_id: int, max_tokens: int) -> EncodedSplit:
    """Return examples as arrays; those without a trained token are left out with a warning."""
    kept: list[int] = []
    labels: list[NDArray[np.int32]] = []
    for number, (ids, is_trained) in enumerate(examples):
        label = np.where(is_trained, np.array(ids, np.int32), np.int32(NOT_TRAINED))
        label[:1] = NOT_TRAINED
        if np.any(label != NOT_TRAINED):
            kept.append(number)
            labels.append(label.astype(np.int32))
    if len(kept) < len(examples):
        message = (
            f"{len(examples) - len(kept)} of {len(examples)} rows have no token to train on "
            f"within training.max_tokens {max_tokens}"
        )
        if not kept:
            raise ModelError(message, hint="raise training.max_tokens")
        warnings.warn(f"left out: {message}", DataWarning, stacklevel=3)
    fields = {
        INPUT_IDS: ragged([examples[i][0] for i in kept], np.int32, pad_token_id),
        "labels": ragged(labels, np.int32, NOT_TRAINED),
    }
    counts = np.array([int((label != NOT_TRAINED).sum()) for label in labels], dtype=np.int64)
    rows = None if len(kept) == len(examples) else np.array(kept, dtype=np.int64)
    return EncodedSplit(fields=fields, labels=counts, rows=rows)


def _texts(texts: Sequence[str], tokenizer: Any, max_tokens: int) -> list[Example]:
    """Train on everything, the token that ends a text included."""
    eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    examples = []
    for ids in _tokens(tokenizer, texts):
        ids = [*ids, *eos][:max_tokens]
        examples.append((ids, [True] * len(ids)))
    return examples


def _completions(rows: Rows, tokenizer: Any, max_tokens: int) -> list[Example]:
    """Train on the completion, the token that ends it included.

    The tokens of the prompt are those the prompt has by itself, as in generation, also where
    the tokenizer would merge its last letters with the first ones of the completion.
    """
    prompts, completions = rows.columns["prompt"], rows.columns["completion"]
    eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    together = _tokens(tokenizer, [p + c for p, c in zip(prompts, completions, strict=True)])
    alone = _tokens(tokenizer, prompts)
    examples = []
    for prompt, whole, completion in zip(alone, together, completions, strict=True):
        if whole[: len(prompt)] == prompt and len(whole) > len(prompt):
            answer = [*whole[len(prompt) :], *eos]
        else:
            answer = [*_tokens(tokenizer, [completion], add_special_tokens=False)[0], *eos]
        room = max(max_tokens // 2, max_tokens - len(answer))
        ids = cut_beginning(prompt, room, tokenizer)
        answer = answer[: max_tokens - len(ids)]
        examples.append(([*ids, *answer], [False] * len(ids) + [True] * len(answer)))
    return examples


def cut_beginning(ids: list[int], room: int, tokenizer: Any) -> list[int]:
    """Return the last ``room`` tokens; a leading start-of-text token is among them."""
    if len(ids) <= room:
        return ids
    if tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id:
        return [ids[0], *ids[len(ids) - room + 1 :]]
    return ids[len(ids) - room :]


def _conversations(rows: Rows, chat: ChatFormat, max_tokens: int) -> list[Example]:
    """Train on the turns of the assistant, the tokens that end them included."""
    if not chat.tokenizer.is_fast:
        raise ModelError(
            f"{type(chat.tokenizer).__name__} does not tell which characters a token stands for, "
            "which conversations need",
            hint="use a model with a fast tokenizer (a tokenizer.json), or write the data as "
            "prompt and completion",
        )
    conversations = [conversation(rows, row) for row in range(len(rows))]
    texts = [chat.render(messages) for messages, _ in conversations]
    encoded = chat.tokenizer(
        texts,
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    examples = []
    for (messages, first), text, ids, offsets in zip(
        conversations, texts, encoded[INPUT_IDS], encoded["offset_mapping"], strict=True
    ):
        starts = np.array([start for start, _ in offsets])
        is_trained = np.zeros(len(ids), dtype=bool)
        for start, end in chat.assistant_spans(messages, text, first=first):
            # A token that reaches into the turn from before it is one that generation, which
            # starts after the prompt's tokens, never writes.
            is_trained |= (starts >= start) & (starts < end)
        examples.append((ids[:max_tokens], is_trained[:max_tokens].tolist()))
    return examples


def prompt_tokens(
    rows: Rows, tokenizer: Any, max_tokens: int, chat_template: str | None = None
) -> list[list[int]]:
    """Return for each row the tokens that the reference is the answer to.

    A conversation is given up to the last turn of the assistant, which is left out, with the
    generation prompt. Longer prompts than ``max_tokens`` lose their beginning.
    """
    if is_conversational(rows):
        chat = ChatFormat(tokenizer, chat_template)
        texts = []
        for row in range(len(rows)):
            messages, _ = conversation(rows, row)
            given = messages[: last_turn(messages)]
            texts.append(chat.render(given, add_generation_prompt=True))
        prompts = _tokens(tokenizer, texts, add_special_tokens=False)
    else:
        prompts = _tokens(tokenizer, rows.columns["prompt"])
    return [cut_beginning(ids, max_tokens, tokenizer) for ids in prompts]


def reference_texts(rows: Rows) -> list[str]:
    """Return for each row what is to be written: the completion, or the assistant's last turn."""
    if not is_conversational(rows):
        return list(rows.columns["completion"])
    found = []
    for row in range(len(rows)):
        messages, _ = conversation(rows, row)
        found.append(str(messages[last_turn(messages)]["content"]))
    return found


def last_turn(messages: Sequence[Message]) -> int:
    """Return the number of the last message that the assistant wrote."""
    return max(i for i, message in enumerate(messages) if message["role"] == ASSISTANT)


def _tokens(
    tokenizer: Any, texts: Sequence[str], *, add_special_tokens: bool = True
) -> list[list[int]]:
    """Return the tokens of texts, without one that ends them."""
    if not texts:
        return []
    encoded = tokenizer(
        list(texts),
        add_special_tokens=add_special_tokens,
        return_attention_mask=False,
        verbose=False,
    )
    eos = tokenizer.eos_token_id
    found: list[list[int]] = encoded[INPUT_IDS]
    return [ids[:-1] if eos is not None and ids[-1:] == [eos] else ids for ids in found]
