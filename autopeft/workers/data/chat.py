"""Conversations as text, and which characters of it the assistant wrote.

A conversation is rendered once, by the chat template, exactly as it would be for inference.
What is trained on is what the model would have to write after the generation prompt: from where
a turn of the assistant begins to the token that ends it. It is found

* from ``{% generation %}`` blocks, where the template marks the assistant's words itself;
* else from the rendered beginnings of the conversation: the one that ends in the generation
  prompt before the turn, and the one that ends with the turn;
* where the template writes earlier turns differently once others follow (drops their reasoning,
  say), so that such a beginning is not one, from where a stand-in for the turn's content lands.

Where none of these tells, the conversation is refused rather than trained on by guess.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from autopeft.errors import DataError, ModelError
from autopeft.naming import or_nearest
from autopeft.workers.data.conversations import ASSISTANT, Message
from autopeft.workers.settings import DataSettings

Span = tuple[int, int]

#: Templates by name, for models whose tokenizer brings none. ``chatml`` suits tokenizers that
#: know its two tokens; ``plain`` ends turns with the tokenizer's own end token.
TEMPLATES = {
    "chatml": (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "plain": (
        "{{ bos_token or '' }}"
        "{% for message in messages %}"
        "{{ '### ' + message['role'] | capitalize + ':\\n' + message['content'] }}"
        "{{ eos_token if message['role'] == 'assistant' else '' }}{{ '\\n\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Assistant:\\n' }}{% endif %}"
    ),
}

_MARKS_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
#: Stands for a content; no template tests for it, and trimming leaves it whole.
_STAND_IN = "kq7stand0in7qk"


def read_chat_template(settings: DataSettings, base: Path) -> str | None:
    """Return the template a job names, or None where it leaves that to the tokenizer.

    Args:
        settings: What the job says about its data.
        base: Folder that a relative path starts from.

    Raises:
        DataError: there is neither a template nor a readable file of that name.
    """
    name = settings.chat_template
    if name is None:
        return None
    if name in TEMPLATES:
        return TEMPLATES[name]
    path = base / Path(name).expanduser()
    if not path.is_file():
        raise DataError(
            f"data.chat_template: there is neither a template nor a file {name!r}"
            f"{or_nearest(name, TEMPLATES)}",
            hint=f"name a Jinja file, or one of: {', '.join(TEMPLATES)}",
        )
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.chat_template: {name} cannot be read: {error}") from error


@dataclass(frozen=True)
class ChatFormat:
    """A tokenizer with the template that writes conversations for it.

    Attributes:
        tokenizer: A tokenizer of transformers.
        given: A template that replaces the tokenizer's own.
    """

    tokenizer: Any
    given: str | None = None

    @cached_property
    def template(self) -> str:
        """The template's text.

        Raises:
            ModelError: there is none.
        """
        if self.given is not None:
            return self.given
        try:
            template: str = self.tokenizer.get_chat_template()
        except ValueError as error:
            raise ModelError(
                "the data are conversations, but the model's tokenizer has no chat template",
                hint="name one in the job file: data: {chat_template: chatml}; it may also be "
                f"{' or '.join(name for name in TEMPLATES if name != 'chatml')}, or a Jinja file",
            ) from error
        return template

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """Return the conversation as text.

        Raises:
            DataError: the template refuses it.
        """
        from jinja2 import TemplateError

        try:
            text: str = self.tokenizer.apply_chat_template(
                list(messages),
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except (TemplateError, TypeError, KeyError, IndexError, AttributeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(
                f"the chat template refuses the conversation {_beginning(messages)}: {reason}",
                hint="change the row, or name another template in data.chat_template",
            ) from error
        return text

    def assistant_spans(
        self, messages: Sequence[Message], text: str, *, first: int = 0
    ) -> list[Span]:
        """Return where in ``text`` the turns of the assistant stand, as ``[start, end)``.

        Args:
            messages: The conversation.
            text: The same, rendered.
            first: Turns before this message are not looked for.

        Raises:
            DataError: it cannot be told.
        """
        turns = [
            i for i, message in enumerate(messages) if message["role"] == ASSISTANT and i >= first
        ]
        if _MARKS_GENERATION.search(self.template):
            spans = self._marked_spans(messages)
            all_turns = sum(message["role"] == ASSISTANT for message in messages)
            if len(spans) == all_turns:
                spans = spans[all_turns - len(turns) :]
                return [(start, self._with_end_token(text, end)) for start, end in spans]
        spans = []
        for turn in turns:
            span = self._span(messages, text, turn)
            if span is None or (spans and span[0] < spans[-1][1]):
                raise DataError(
                    f"cannot tell which part of the conversation {_beginning(messages)} is message "
                    f"{turn + 1}, which the assistant wrote, once the chat template has written it",
                    hint="mark the assistant's words in the template with {% generation %} ... "
                    "{% endgeneration %}, or name another template in data.chat_template",
                )
            spans.append(span)
        return spans

    def _marked_spans(self, messages: Sequence[Message]) -> list[Span]:
        from transformers.utils.chat_template_utils import render_jinja_template

        _, spans = render_jinja_template(
            conversations=[list(messages)],
            chat_template=self.template,
            return_assistant_tokens_mask=True,
            **self.tokenizer.special_tokens_map,
        )
        return [(int(start), int(end)) for start, end in spans[0]]

    def _span(self, messages: Sequence[Message], text: str, turn: int) -> Span | None:
        start = self._length(messages[:turn], text, add_generation_prompt=True)
        end = self._length(messages[: turn + 1], text)
        if turn == len(messages) - 1:
            end = len(text)
        if start is not None and end is not None and start < end:
            return start, start + len(self._without_tail(text[start:end]))
        around = self._around(messages, text, turn)
        if around is None:
            return None
        start = around[0] if start is None or start > around[0] else start
        return start, self._with_end_token(text, around[1])

    def _length(
        self, messages: Sequence[Message], text: str, *, add_generation_prompt: bool = False
    ) -> int | None:
        """Return the length of a rendered beginning; None where ``text`` does not begin so."""
        if not messages:  # transformers writes no empty conversation
            return None
        try:
            part = self.render(messages, add_generation_prompt=add_generation_prompt)
        except DataError:  # for example a template that wants a user to speak first
            return None
        return len(part) if text.startswith(part) else None

    def _around(self, messages: Sequence[Message], text: str, turn: int) -> Span | None:
        """Return where the content of a message stands in ``text``, by a stand-in for it."""
        others = list(messages)
        others[turn] = {**others[turn], "content": _STAND_IN}
        try:
            rendered = self.render(others)
        except DataError:
            return None
        if rendered.count(_STAND_IN) != 1:
            return None
        before, after = rendered.split(_STAND_IN)
        start, end = len(before), len(text) - len(after)
        if not (text.startswith(before) and text.endswith(after) and start < end):
            return None
        return start, end

    def _with_end_token(self, text: str, end: int) -> int:
        """Return the end of a turn with the token that ends it, where one follows directly."""
        found = self._special_tokens.match(text, end)
        return end if found is None else found.end()

    def _without_tail(self, turn: str) -> str:
        """Return a turn without the white space that follows the token that ends it."""
        stripped = turn.rstrip()
        ends = [found.end() for found in self._special_tokens.finditer(stripped)]
        return stripped if ends and ends[-1] == len(stripped) else turn

    @cached_property
    def _special_tokens(self) -> re.Pattern[str]:
        tokens = {
            token.content
            for token in self.tokenizer.added_tokens_decoder.values()
            if token.special and token.content != self.tokenizer.bos_token
        }
        tokens.update(token for token in (self.tokenizer.eos_token, "<|im_end|>") if token)
        longest_first = sorted(tokens, key=lambda token: (-len(token), token))
        return re.compile("|".join(re.escape(token) for token in longest_first))


def _beginning(messages: Sequence[Message]) -> str:
    text = next((str(m["content"]) for m in messages if m.get("content")), "")
    return repr(text if len(text) <= 50 else text[:47] + "...")
