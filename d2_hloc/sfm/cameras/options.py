"""Choices for cameras that are not known: COLMAP's model of them, and which images share one."""

from __future__ import annotations

from typing import Literal

MODEL = "SIMPLE_RADIAL"  # COLMAP's default
CameraSharing = Literal["auto", "single", "per-folder", "per-image"]
