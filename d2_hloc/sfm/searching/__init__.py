"""Observations that a model leads to: what one image shows is searched for in the others."""
