"""A small stand-in for hloc: the same rule of loading models, confs, arguments and files."""
