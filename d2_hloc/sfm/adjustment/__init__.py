"""Outliers: pairs that others contradict, observations that a model does, and its adjustment."""
