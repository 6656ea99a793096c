"""Depth of undistorted views from each other.

Pixel centres are at integers; depth is z in the camera's frame in the model's units, 0 where there
is none. Everything is computed on the device of the views' images.
"""

from d2_hloc.stereo.plane_sweep import SweepOptions, sweep
from d2_hloc.stereo.views import View, grey

__all__ = ["SweepOptions", "View", "grey", "sweep"]
