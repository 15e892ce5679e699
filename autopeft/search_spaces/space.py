"""A search space on one model: sample, mutate, encode, decode, count."""

from __future__ import annotations
