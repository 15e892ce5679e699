"""Keep out of the log what a library warns of and nobody can act on; the rest gets through."""

from __future__ import annotations

import logging

#: Beginnings of such messages by logger: that a kernel is not on this machine for a use that is
#: switched off here (``quantization.settle``), that 8-bit layers round their inputs, said at
#: every call, and that under gradient checkpointing nothing is cached, which no training reads.
_HARMLESS = {
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    "bitsandbytes.autograd._functions": "MatMul8bitLt: inputs will be cast",
    "transformers.utils.generic": "`use_cache=True` is incompatible with gradient checkpointing",
}


class _Without(logging.Filter):
    """Let through whatever does not begin so."""

    def __init__(self, beginning: str) -> None:
        super().__init__()
        self._beginning = beginning

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(self._beginning)


def hide_harmless_messages() -> None:
    """Hide the harmless messages in this process; calling it again changes nothing."""
    for name, beginning in _HARMLESS.items():
        logger = logging.getLogger(name)
        if not any(isinstance(each, _Without) for each in logger.filters):
            logger.addFilter(_Without(beginning))
