"""An adapter: one family of local features, called as D2Net is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor

from d2_hloc.core.structs import Features
from d2_hloc.features.options import FeatureOptions

Extractor = Callable[[Tensor], list[Features]]  # images B x 3 x H x W, RGB in [0, 1]


class Adapter(ABC):
    """A family of features. Only download() asks the network for anything."""

    noise = 1.0  # standard deviation of keypoints, pixels of the extracted image; hloc's default

    @abstractmethod
    def create(self, options: FeatureOptions) -> Extractor:
        """The network or algorithm, with its weights, which have to be there.

        Raises:
            WeightsError: if they are not, or cannot be used.
        """

    @abstractmethod
    def configuration(self, options: FeatureOptions) -> dict[str, Any]:
        """Options that the features depend on, and digests of the weights, as plain values.

        Raises:
            WeightsError: as create().
        """

    @abstractmethod
    def download(self, options: FeatureOptions) -> None:
        """Fetch the weights that are not there.

        Raises:
            WeightsError: if that fails.
        """
