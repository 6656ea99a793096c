"""Geometry of two images: how points agree on it, how sure it is, and refined matches."""
