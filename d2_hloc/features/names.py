"""Names of local features, and the families that they belong to."""

from __future__ import annotations

# Feature: module of adapters/.
MODULES = {
    "d2net": "d2net",
    "d2net-ms": "d2net",
    "d2net-fine": "d2net",
    "d2net-dense": "d2net_dense",
    "densesfm": "densesfm",
    "sift": "sift",
    "keynet-affnet-hardnet": "hardnet",
    "hesaffnet-hardnet": "hardnet",
    "disk": "disk",
    "aliked": "aliked",
    "dedode": "dedode",
    "xfeat": "xfeat",
}
# How far off keypoints may be until they are refined, in pixels of the image that they are of.
REACH = {"d2net-dense": 8.0}
DENSE = ("d2net-dense", "densesfm")  # features of all cells
DETECTED = tuple(name for name, module in MODULES.items() if module == "d2net")  # by Eq. 3
HLOC = "hloc:"  # before the name of one of hloc's own confs


def reach_of(feature: str) -> float:
    """How far off a feature's keypoints may be until they are refined, in pixels; 0: as usual."""
    return REACH.get(feature, 0.0)


def check_name(feature: str) -> None:
    """Raise ValueError if there is no feature of that name. hloc's own are not looked up yet."""
    is_of_hloc = feature.startswith(HLOC) and len(feature) > len(HLOC)
    if feature not in MODULES and not is_of_hloc:
        raise ValueError(
            f"there is no feature {feature!r}; known are {', '.join(MODULES)}, "
            f"and {HLOC}CONF for a conf of hloc's."
        )
