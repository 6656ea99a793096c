"""Extractors that hloc can load by name; plugin.register() puts this folder on its path."""
