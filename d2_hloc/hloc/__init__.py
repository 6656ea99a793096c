"""The plugin for hloc: the only room that names it, but for features.hloc_confs."""
