"""BOFT without its CUDA extension, which PEFT would try to compile for every layer it makes.

With one butterfly factor, all that is offered, the extension computes what PyTorch does.
"""

from __future__ import annotations

from peft.tuners.boft import layer

layer._FBD_CUDA = False
