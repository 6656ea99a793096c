"""Choices of cameras that are not known."""

from __future__ import annotations

from typing import Literal

MODEL = "SIMPLE_RADIAL"  # COLMAP's default
CameraSharing = Literal["auto", "single", "per-folder", "per-image"]
