"""D2-Net local features for hloc and COLMAP."""

__version__ = "0.1.0"
