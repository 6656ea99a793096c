"""Networks of other authors, ready to use: weights in torch hub's cache, and one call.

kornia would fetch weights in a constructor. Here they have to be in the cache before one is called,
and come there by download() alone.
"""

from __future__ import annotations

import importlib.util
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from d2_hloc.core.structs import Features
from d2_hloc.features.adapter import Adapter
from d2_hloc.features.options import FeatureOptions
from d2_hloc.files.provenance import file_sha256
from d2_hloc.network.d2net import is_flat
from d2_hloc.network.weights.catalogue import WeightsError
from d2_hloc.network.weights.download import fetch_file, private_folder
from d2_hloc.network.weights.state import first_line

SMALLEST = 32  # pixels of an edge: five halvings


@dataclass(frozen=True, kw_only=True)
class CachedWeights:
    """A file that is published at one or more addresses, the first of which names it.

    Packages of the registry carry some of these files; where one is installed, it is an address.
    """

    urls: tuple[str, ...]
    name: str | None = None  # in the cache, where the address does not name it

    @property
    def path(self) -> Path:
        """Place in torch hub's cache, where kornia looks for it."""
        name = self.name or PurePosixPath(urlparse(self.urls[0]).path).name
        return Path(torch.hub.get_dir()) / "checkpoints" / name

    @classmethod
    def published(cls, urls: str | Sequence[str], packaged: Sequence[str] = ()) -> CachedWeights:
        """The file of kornia's own entry, an address or several, and its places in packages."""
        return cls(urls=(*((urls,) if isinstance(urls, str) else urls), *packaged))


def in_package(package: str, name: str) -> list[str]:
    """Address of a file of an installed package, which need not be imported; else none."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / name).is_file():
            return [path.absolute().as_uri()]
    return []


class PretrainedExtractor(nn.Module):
    """A pretrained network with D2Net's call. Subclasses say how one image goes through it."""

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Features]:
        """Features of images of one size, RGB in [0, 1]; keypoints in their pixels.

        Raises:
            ValueError: for an image too small for the network.
        """
        height, width = images.shape[2:]
        if min(height, width) < SMALLEST:
            raise ValueError(f"An image of {width} x {height} pixels is too small.")
        return [self.extract(image) for image in images]

    def extract(self, image: Float[Tensor, "3 H W"]) -> Features:
        """Features of one image; none where it is flat: what is found there is noise."""
        found = self.find(image)
        keep = is_usable(found, (image.shape[2], image.shape[1]))
        if is_flat(image):
            keep[:] = False
        return Features(
            keypoints=found.keypoints[keep].float(),
            scores=found.scores[keep].float(),
            descriptors=nn.functional.normalize(found.descriptors[keep].float()),
            scales=found.scales[keep].float(),
        )

    @abstractmethod
    def find(self, image: Float[Tensor, "3 H W"]) -> Features:
        """Everything that the network finds; descriptors of any length."""


class PretrainedAdapter(Adapter):
    """An adapter of kornia's networks. Subclasses name the weights and make the network."""

    @abstractmethod
    def weights(self, feature: str) -> list[CachedWeights]:
        """The files of all networks of a feature."""

    @abstractmethod
    def make(self, options: FeatureOptions) -> PretrainedExtractor:
        """The network; its weights are in the cache."""

    def create(self, options: FeatureOptions) -> PretrainedExtractor:
        """The network, if its weights are in the cache.

        Raises:
            WeightsError: if they are not, or hold more than tensors.
        """
        weights_digests(options.feature, self.weights(options.feature))
        return self.make(options)

    def configuration(self, options: FeatureOptions) -> dict[str, Any]:
        """The largest number of keypoints, and the weights' digests.

        Raises:
            WeightsError: as create().
        """
        digests = weights_digests(options.feature, self.weights(options.feature))
        return {"kornia_keypoints": options.kornia_keypoints, "weights_sha256": digests}

    def download(self, options: FeatureOptions) -> None:
        """Fetch the weights that are not in the cache.

        Raises:
            WeightsError: as fetch_missing().
        """
        fetch_missing(self.weights(options.feature))


def weights_digests(feature: str, files: Sequence[CachedWeights]) -> dict[str, str]:
    """SHA-256 by file name, of weights that are all there and hold nothing but tensors.

    Raises:
        WeightsError: if some are not there, or one cannot be used; with the remedy.
    """
    missing = [f"{file.urls[0]} as {file.path}" for file in files if not file.path.is_file()]
    if missing:
        raise WeightsError(
            f"the weights of {feature} are not here: run with --download, or fetch on another "
            f"machine {', and '.join(missing)}."
        )
    for file in files:
        check_tensors_only(file.path)
    return {file.path.name: file_sha256(file.path) for file in files}


def check_tensors_only(path: Path) -> None:
    """Raise WeightsError for a file that is no checkpoint, or holds more than tensors."""
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise WeightsError(
            f"{path}: not a readable checkpoint ({first_line(error)}); "
            "delete it and run with --download."
        ) from error


def fetch_missing(files: Iterable[CachedWeights]) -> None:
    """Download the weights that are not in the cache, each from the first address that answers.

    Raises:
        WeightsError: if none of a file's addresses can be reached.
    """
    for file in files:
        if not file.path.is_file():
            _fetch(file)


def _fetch(file: CachedWeights) -> None:
    problem = WeightsError(f"{file.path}: has no address to come from.")
    for url in file.urls:
        try:
            with private_folder(file.path) as folder:
                part = folder / file.path.name
                fetch_file(url, part, f"put it at {file.path}")
                part.replace(file.path)
            return
        except WeightsError as error:
            problem = error
    raise problem


def is_usable(features: Features, image_size: tuple[int, int]) -> Bool[Tensor, " N"]:
    """Mask of the finite features whose keypoint is in the image; image_size is (w, h)."""
    xy = features.keypoints
    last = xy.new_tensor(image_size) - 1
    keep = ((xy >= 0) & (xy <= last)).all(dim=1)  # false for NaN as well
    keep &= features.scores.isfinite() & features.scales.isfinite()
    return keep & features.descriptors.isfinite().all(dim=1)
