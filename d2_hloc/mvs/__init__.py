"""Depth of undistorted views from each other: plane sweep, consistency, normals, files.

Pixel centres are at integers; depth is z in the camera's frame in the model's units, 0 where there
is none. Everything is computed on the device of the views' images.
"""
