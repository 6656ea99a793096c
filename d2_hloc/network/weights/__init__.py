"""Weights of the trunk: bundled, from a checkpoint, or from an explicit download.

Loading is safe: safetensors, or torch's weights-only reader with an allow-list for what a published
training checkpoint holds beside its tensors. Nothing is downloaded unless download_weights() is
called.
"""
