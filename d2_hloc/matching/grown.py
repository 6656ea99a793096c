"""The matcher that grows: nearest neighbours of two images, and then what lies between them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from d2_hloc.core.cache import BoundedCache
from d2_hloc.core.devices import chosen_device
from d2_hloc.core.structs import Features, Matches
from d2_hloc.files import features_h5
from d2_hloc.files.hdf5_guard import GuardedFile
from d2_hloc.matching.growing import KeypointField, grow_matches
from d2_hloc.matching.nearest import match_descriptors
from d2_hloc.matching.options import MatchingOptions
from d2_hloc.matching.prepared import PreparedDescriptors, prepare_descriptors


@dataclass(frozen=True, kw_only=True)
class PlacedDescriptors:
    """Descriptors of an image, prepared, and where they are."""

    prepared: PreparedDescriptors
    field: KeypointField

    def __len__(self) -> int:
        return len(self.prepared)

    @property
    def nbytes(self) -> int:
        return self.prepared.nbytes + self.field.xy.nbytes


def place_descriptors(features: Features, size: tuple[int, int]) -> PlacedDescriptors:
    """Prepare the features of an image of size (w, h) once for all the pairs that it is in."""
    prepared = prepare_descriptors(features.descriptors)
    scales = features.scales.cpu().numpy()
    field = KeypointField(
        xy=features.keypoints.cpu().numpy().astype(np.float64),
        descriptors=prepared.exact,
        area=float(size[0] * size[1]),
        noise=float(np.median(scales)) if len(scales) else 1.0,
    )
    return PlacedDescriptors(prepared=prepared, field=field)


def placed_cache(file: GuardedFile, capacity: int) -> BoundedCache[str, PlacedDescriptors]:
    """Features of a file by image, read and prepared once while they are in use."""

    def read(name: str) -> PlacedDescriptors:
        features = features_h5.features_of(file, name)
        features = replace(features, descriptors=features.descriptors.to(chosen_device()))
        return place_descriptors(features, features_h5.image_size_of(file, name))

    return BoundedCache(read, capacity)


def match_grown(
    options: MatchingOptions, image0: PlacedDescriptors, image1: PlacedDescriptors
) -> Matches:
    """Match two images by nearest neighbours, and grow what agrees."""
    found = match_descriptors(image0.prepared, image1.prepared, options)
    grown = grow_matches(options.growing, image0.field, image1.field, found)
    return grown.at_least(options.min_matches)
