"""Ctrl-C at every moment of a command: exit code 130, and never a traceback."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from autopeft.cli.interrupts import guarded

PRESS = "os.kill(os.getpid(), signal.SIGINT)"
#: Where Ctrl-C is pressed, by what is run.
MOMENTS = {
    "in the work": """
def work():
    PRESS
""",
    "twice, also while the work cleans up": """
def work():
    try:
        PRESS
    finally:
        PRESS
""",
    "three times": """
def work():
    try:
        PRESS
    except KeyboardInterrupt:
        try:
            PRESS
        finally:
            PRESS
""",
    "again when Python ends": """
import atexit
atexit.register(lambda: PRESS)
def work():
    PRESS
""",
    "again between the work and the end": """
def work():
    PRESS
after = "PRESS"
""",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_no_traceback_is_shown(moment: str) -> None:
    code = (
        "import os, signal, sys\n"
        # A shell starts what it puts into the background with Ctrl-C ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from autopeft.cli.interrupts import guarded\n"
        "after = ''\n"
        f"{MOMENTS[moment]}\n"
        "code = guarded(work, 130)\n"
        "exec(after)\n"
        "sys.exit(code)\n"
    ).replace("PRESS", PRESS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")


def test_what_ends_by_itself_leaves_ctrl_c_as_it_was() -> None:
    before = signal.getsignal(signal.SIGINT)
    assert guarded(lambda: 7, 130) == 7
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interruption_without_ctrl_c_ends_the_same_way() -> None:
    def work() -> int:
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    assert guarded(work, 130) == 130
    assert signal.getsignal(signal.SIGINT) is before
