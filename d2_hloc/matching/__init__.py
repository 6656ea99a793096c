"""Pairs of images -> matches.h5: which pairs, nearest neighbours, tracks."""
