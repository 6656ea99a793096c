"""Readers of benchmarks, one for each layout."""
