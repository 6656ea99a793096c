"""D2-Net local features for hloc and COLMAP."""

import zlib  # noqa: F401 - before pycolmap, whoever imports that: the other order aborts

from d2_hloc.core.structs import Features, Matches
from d2_hloc.hloc.plugin import register
from d2_hloc.matching.nearest import MatchingOptions, match_descriptors
from d2_hloc.network.d2net import D2Net, D2NetOptions

__version__ = "0.1.0"
__all__ = [
    "D2Net",
    "D2NetOptions",
    "Features",
    "Matches",
    "MatchingOptions",
    "match_descriptors",
    "register",
]
