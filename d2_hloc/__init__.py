"""D2-Net local features for hloc and COLMAP."""

import zlib  # noqa: F401 - before pycolmap, whoever imports that: the other order aborts
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from d2_hloc.core.structs import Features, Matches
    from d2_hloc.hloc.plugin import register
    from d2_hloc.matching.nearest import match_descriptors
    from d2_hloc.matching.options import MatchingOptions
    from d2_hloc.network.d2net import D2Net
    from d2_hloc.network.options import D2NetOptions
    from d2_hloc.refinement.image_matches import match_images
    from d2_hloc.sfm.image_pair import ImagePair, match_pair
    from d2_hloc.sfm.options import PairMatchingOptions, VerificationOptions
    from d2_hloc.sfm.two_view import verify_pair

__version__ = "0.2.0"
__all__ = [
    "D2Net",
    "D2NetOptions",
    "Features",
    "ImagePair",
    "Matches",
    "MatchingOptions",
    "PairMatchingOptions",
    "VerificationOptions",
    "match_descriptors",
    "match_images",
    "match_pair",
    "register",
    "verify_pair",
]

_MODULES = {
    "D2Net": "network.d2net",
    "D2NetOptions": "network.options",
    "Features": "core.structs",
    "ImagePair": "sfm.image_pair",
    "Matches": "core.structs",
    "MatchingOptions": "matching.options",
    "PairMatchingOptions": "sfm.options",
    "VerificationOptions": "sfm.options",
    "match_descriptors": "matching.nearest",
    "match_images": "refinement.image_matches",
    "match_pair": "sfm.image_pair",
    "register": "hloc.plugin",
    "verify_pair": "sfm.two_view",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: torch takes a second, pycolmap another."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
