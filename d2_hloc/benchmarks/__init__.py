"""Benchmarks of the paper: the data set, the run and its scores, the report of each."""
