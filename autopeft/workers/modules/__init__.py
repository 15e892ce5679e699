"""Methods that PEFT lacks: what to build one from, and one file for each of ours.

Importing this package registers nothing; :func:`register_all` does. ``_framework`` teaches how
to write a method.
"""

from __future__ import annotations

import importlib

from autopeft.search_spaces.method import METHODS
from autopeft.workers.modules._blocks import Beside, BlockPart
from autopeft.workers.modules._bottleneck import Bottleneck, Gate
from autopeft.workers.modules._framework import (
    BlockConfig,
    MethodConfig,
    MethodTuner,
    parts_of,
    register_method,
)
from autopeft.workers.modules._layers import (
    AdditivePart,
    Around,
    Part,
    Pool,
    dtype_of,
    substituted,
    widths_of,
)
from autopeft.workers.modules._types import add_peft_type

__all__ = [
    "AdditivePart",
    "Around",
    "Beside",
    "BlockConfig",
    "BlockPart",
    "Bottleneck",
    "Gate",
    "MethodConfig",
    "MethodTuner",
    "Part",
    "Pool",
    "add_peft_type",
    "dtype_of",
    "parts_of",
    "register_all",
    "register_method",
    "substituted",
    "widths_of",
]


def register_all() -> None:
    """Register every known method with PEFT, those of other packages included.

    After it, ``PeftModel.from_pretrained`` loads whatever AutoPEFT saved.
    """
    for name in METHODS.names():
        module_file = METHODS.get(name).module_file
        if module_file is not None:
            importlib.import_module(module_file)
