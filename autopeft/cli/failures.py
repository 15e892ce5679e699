"""How a command ends: what a person reads, and the exit code.

==== ==========================================================================
code meaning
==== ==========================================================================
0    done
1    a bug of AutoPEFT's; the traceback is in a file, or on screen with --debug
2    the command or its input is wrong; one message says what and what to do
130  interrupted by Ctrl-C
==== ==========================================================================
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import typer

import autopeft
from autopeft.errors import AutopeftError

BUG, WRONG_INPUT, INTERRUPTED = 1, 2, 130

#: Folder of the job a command works on; a crash report goes there.
job_folder: ContextVar[Path | None] = ContextVar("job_folder", default=None)


def explain(error: AutopeftError, *, debug: bool) -> int:
    """Print what is wrong and what to do; return the exit code."""
    if debug:
        traceback.print_exception(error)
    say("error", error.message, colour=typer.colors.RED)
    if error.hint is not None:
        say("hint", error.hint, colour=typer.colors.CYAN)
    return WRONG_INPUT


def confess(error: Exception, *, debug: bool) -> int:
    """Print that this is a bug and where its traceback is; return the exit code."""
    if debug:
        traceback.print_exception(error)
    summary = " ".join(str(error).split())
    what = f"{type(error).__name__}: {summary[:200]}" if summary else type(error).__name__
    say(
        "error",
        f"this is a bug in AutoPEFT: {what} (full traceback in {_write_report(error)})",
        colour=typer.colors.RED,
    )
    return BUG


def say(label: str, text: str, *, colour: str) -> None:
    """Print ``label: text`` to stderr, the label in colour on a terminal."""
    typer.secho(f"{label}: ", fg=colour, bold=True, err=True, nl=False)
    typer.echo(text, err=True)


def warn(text: str) -> None:
    """Print a warning to stderr."""
    say("warning", text, colour=typer.colors.YELLOW)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Print our own warnings as :func:`warn` does, without the line of code they come from."""
    show = warnings.showwarning

    def show_plainly(message: Any, category: Any, *where: Any, **options: Any) -> None:
        if str(category.__module__).partition(".")[0] == "autopeft":
            warn(str(message))
        else:
            show(message, category, *where, **options)

    warnings.showwarning = show_plainly
    try:
        yield
    finally:
        warnings.showwarning = show


def _write_report(error: Exception) -> Path:
    text = "\n".join(
        [
            f"autopeft {autopeft.__version__}, Python {platform.python_version()}, "
            f"{platform.platform()}",
            f"command: {' '.join(sys.argv)}",
            "",
            "".join(traceback.format_exception(error)),
        ]
    )
    folder = job_folder.get()
    if folder is not None and folder.is_dir():
        path = folder / time.strftime("crash-%Y%m%d-%H%M%S.txt")
        try:
            path.write_text(text, encoding="utf-8")
        except OSError:
            pass
        else:
            return path
    handle, name = tempfile.mkstemp(prefix="autopeft-crash-", suffix=".txt", text=True)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    return Path(name)
