"""The plugin for hloc: the only room that names it, but for features.adapters.hloc_confs."""
