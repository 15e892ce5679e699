"""ShadowPEFT without weights: what each block gets is made where the model is."""

from __future__ import annotations

import torch


def on_meta() -> torch.device:
    """Return the device, as a context, that everything new is made on."""
    return torch.device("meta")
