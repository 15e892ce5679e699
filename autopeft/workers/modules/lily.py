"""Lily without weights: its wide matrices are made where the model is, and not drawn."""

from __future__ import annotations

import torch


def on_meta() -> torch.device:
    """Return the device, as a context, that everything new is made on."""
    return torch.device("meta")
