"""A wrong flag or a wrong command, told as every other mistake is: one error, one hint."""

from __future__ import annotations

import re
from typing import Any

import typer

from autopeft.errors import AutopeftError
from autopeft.naming import or_nearest

#: What parsing the command line raises; typer has it from click, or brings its own.
UsageError: Any = typer.BadParameter.__base__


def is_only_help(error: Any) -> bool:
    """Tell whether nothing is wrong but that nothing was asked; the help is printed then."""
    return type(error).__name__ == "NoArgsIsHelpError"


def as_our_own(error: Any) -> AutopeftError:
    """Return what parsing the command line raised as an error with a hint."""
    command = "autopeft" if error.ctx is None else error.ctx.command_path
    return AutopeftError(_message(error), hint=f"`{command} --help` tells what it takes")


def _message(error: Any) -> str:
    if possible := getattr(error, "possibilities", None):
        near = " or ".join(repr(each) for each in possible)
        return f"{error.message.rstrip('.')}; did you mean {near}?"
    message = str(error.format_message()).removesuffix(".").replace("Value error, ", "")
    if (choice := re.search("'([^']*)' is not one of (.*)", message)) is not None:
        return message + or_nearest(choice[1], re.findall("'(.*?)'", choice[2]))
    findings: list[Any] = getattr(error.__context__, "errors", list)()
    if findings:  # pydantic's
        message = re.sub(", unable to parse .*", "", message)
        message = message.replace("Input should be", "expected")
        message += f", got {findings[0]['input']!r}"
    return message
