"""Relative poses of image pairs with known cameras."""
