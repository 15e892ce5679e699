"""The command line: every command, and how a run of one ends.

Each command's module imports what it needs when it runs and nothing heavy before, so that
``autopeft --help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from autopeft.cli import failures, interrupts
from autopeft.cli.bench_app import bench
from autopeft.cli.typer_app import app
from autopeft.cli.usage import UsageError, as_our_own, is_only_help
from autopeft.errors import AutopeftError

# Importing a module adds its commands to the app, in the order that the help lists them.
# isort: off
from autopeft.cli import job_commands as job_commands
from autopeft.cli import planning_commands as planning_commands
from autopeft.cli import catalogue_commands as catalogue_commands
# isort: on

__all__ = ["app", "main"]

app.add_typer(bench)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: Arguments without the program's name; those of the process where None.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return interrupts.guarded(lambda: _run(arguments), failures.INTERRUPTED)


def _run(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    token = failures.job_folder.set(None)
    try:
        with failures.plain_warnings():
            words = [word for word in arguments if word != "--debug"]
            code = app(words, prog_name="autopeft", standalone_mode=False)
            return code if isinstance(code, int) else 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except AutopeftError as error:
        return failures.explain(error, debug=debug)
    except UsageError as error:
        if is_only_help(error):
            return failures.WRONG_INPUT
        return failures.explain(as_our_own(error), debug=debug)
    except Exception as error:
        return failures.confess(error, debug=debug)
    finally:
        failures.job_folder.reset(token)
