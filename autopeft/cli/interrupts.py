"""Ctrl-C, however often: the command ends, and no traceback is shown."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType


def guarded(work: Callable[[], int], interrupted: int) -> int:
    """Return the exit code of ``work``; that of an interruption where Ctrl-C ended it.

    While ``work`` runs Ctrl-C raises ``KeyboardInterrupt`` in it as usual, also when it is pressed
    again while ``work`` cleans up. Once ``work`` is over, when nobody would catch that, it ends the
    process at once. So it stays after an interruption, for what Python does before it ends.

    Args:
        work: What is done.
        interrupted: Exit code where it was interrupted.
    """
    if not _is_ours():
        try:
            return work()
        except KeyboardInterrupt:
            return interrupted
    was_pressed = False

    def run() -> int:
        return work()

    def on_ctrl_c(number: int, frame: FrameType | None) -> None:
        nonlocal was_pressed
        was_pressed = True
        while frame is not None:
            if frame.f_code is run.__code__:
                raise KeyboardInterrupt
            frame = frame.f_back
        os._exit(interrupted)

    signal.signal(signal.SIGINT, on_ctrl_c)
    try:
        return run()
    except KeyboardInterrupt:
        return interrupted
    finally:
        if not was_pressed:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_ours() -> bool:
    """Tell whether Ctrl-C is Python's own here: not in another thread, nor where it is ignored."""
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
