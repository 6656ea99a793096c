"""D2-Net local features for hloc and COLMAP."""

import zlib  # noqa: F401 - before pycolmap, whoever imports that: the other order aborts
from importlib import import_module

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
    "VerificationOptions",
    "match_descriptors",
    "match_images",
    "register",
    "verify_pair",
]

_LATE = {
    "match_images": "d2_hloc.refinement.image_matches",
    "VerificationOptions": "d2_hloc.sfm.options",
    "verify_pair": "d2_hloc.sfm.two_view",
}


def __getattr__(name: str) -> object:
    """Import what needs pycolmap or kornia when it is first asked for."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATE[name]), name)
