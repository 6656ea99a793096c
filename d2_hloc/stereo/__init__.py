"""Depth of undistorted views from each other: plane sweep, consistency, normals, files.

Pixel centres are at integers; depth is z in the camera's frame in the model's units, 0 where there
is none. Everything is computed on the device of the views' images.
"""

from d2_hloc.stereo.consistency import ConsistencyOptions, consistent
from d2_hloc.stereo.depth_map import (
    DepthMapError,
    is_map,
    read_depth_h5,
    read_map,
    write_depth_h5,
    write_map,
)
from d2_hloc.stereo.normals import normals
from d2_hloc.stereo.plane_sweep import SweepOptions, sweep
from d2_hloc.stereo.sources import choose_sources, depth_range, shared_points
from d2_hloc.stereo.views import View, grey

__all__ = [
    "ConsistencyOptions",
    "DepthMapError",
    "SweepOptions",
    "View",
    "choose_sources",
    "consistent",
    "depth_range",
    "grey",
    "is_map",
    "normals",
    "read_depth_h5",
    "read_map",
    "shared_points",
    "sweep",
    "write_depth_h5",
    "write_map",
]
