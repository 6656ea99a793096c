"""The name of a feature, and the options of each family."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from d2_hloc.core.photographs.mask_options import MaskOptions
from d2_hloc.core.ranges import EDGES, MANY, check_ranges
from d2_hloc.features.names import DENSE, check_name
from d2_hloc.network.options import FINE, MULTISCALE, CellOptions, D2NetOptions
from d2_hloc.network.weights.catalogue import FOLDER

BUNDLED = FOLDER / "d2_ots_pca.safetensors"
MOST = 256  # directions that are kept
# Options of D2-Net that a feature's name stands for, where nothing else is asked for.
VARIANTS = {"d2net-ms": {"scales": MULTISCALE}, "d2net-fine": FINE}


@dataclass(frozen=True, kw_only=True)
class SiftOptions:
    """Options of COLMAP's SIFT, with its defaults; the number of threads is none of them.

    Attributes:
        max_keypoints: largest number of keypoints of an image, the largest by scale.
        peak_threshold: least contrast of a peak, image values from 0 to 1.
        edge_threshold: largest ratio of a peak's principal curvatures.
    """

    max_keypoints: int = 8192
    peak_threshold: float = 0.02 / 3
    edge_threshold: float = 10.0

    def __post_init__(self) -> None:
        check_ranges(
            self, max_keypoints=(1, 10**7), peak_threshold=(0, 100), edge_threshold=(1e-6, 1e6)
        )


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """A feature by name (names.MODULES), with the options of all families; its own apply.

    `kornia_keypoints` is the largest number of those of kornia; None is kornia's own.

    Attributes:
        feature: d2net, d2net-ms, d2net-fine, sift, disk, ... or hloc:CONF for a conf of hloc's.
        d2net: options of d2net, d2net-ms and d2net-fine.
        cells: options of d2net-dense and densesfm.
        sift: options of sift.
        kornia_keypoints: largest number of keypoints of kornia's features; null is kornia's own.
    """

    feature: str = "d2net"
    d2net: D2NetOptions = field(default_factory=D2NetOptions)
    cells: CellOptions = field(default_factory=CellOptions)
    sift: SiftOptions = field(default_factory=SiftOptions)
    kornia_keypoints: int | None = None

    def __post_init__(self) -> None:
        check_ranges(self, kornia_keypoints=(1, MANY))

    @property
    def d2net_options(self) -> D2NetOptions:
        """d2net's options. Where nothing else is asked for, 'd2net-ms' is of the paper's three
        scales, and 'd2net-fine', for the learned matcher, of a larger image, edges included.
        """
        own, default = VARIANTS.get(self.feature, {}), D2NetOptions()
        unasked = {k: v for k, v in own.items() if getattr(self.d2net, k) == getattr(default, k)}
        return replace(self.d2net, **unasked)


@dataclass(frozen=True, kw_only=True)
class CompressionOptions:
    """Options of compressed descriptors.

    `dimensions`: numbers of a descriptor after projection; None leaves them as they are.

    `projection`: a file of `d2-hloc compress`; None is the bundled one, of D2-Net off the shelf.

    Attributes:
        dimensions: numbers of a descriptor after projection; null leaves them as they are.
        dtype: how each number is stored.
        projection: file of d2-hloc compress; null is the bundled one, of D2-Net off the shelf.
    """

    dimensions: int | None = None
    dtype: Literal["float32", "float16", "int8"] = "int8"
    projection: Path | None = None

    def __post_init__(self) -> None:
        check_ranges(self, dimensions=(1, MOST))
        if self.dimensions is None and self.projection is not None:
            raise ValueError("a projection needs dimensions to project onto.")

    @property
    def projection_file(self) -> Path:
        """Path of the projection's file."""
        return self.projection or BUNDLED


@dataclass(frozen=True, kw_only=True)
class ExtractionOptions(FeatureOptions):
    """Options of extraction: a feature, the size of images, and the form that is stored.

    `top_k` keeps that many of an image, those of the highest scores; all for None. `compression`
    says how descriptors are stored in fewer bytes, and then `descriptor_dtype` says nothing.

    Attributes:
        resize_max: longest edge of the image that features are found in, pixels; null is its own.
        descriptor_dtype: how descriptors are stored, where they are not compressed.
        batch_size: images of equal size that a GPU takes at once; null is as its memory allows.
        top_k: keypoints of an image that are kept, those of the highest scores; null is all.
        compression: descriptors in fewer bytes; null stores them as they are.
        rotations: images turned the right way up by EXIF, or by what they show where EXIF is
            wrong (auto; of models and queries), or none, as hloc reads them.
        masks: parts of images in which no features are kept.
        value_range: values of more than 8 bits are stretched by the range of their image or folder.
    """

    resize_max: int | None = 1600
    descriptor_dtype: Literal["float32", "float16"] = "float16"
    rotations: Literal["exif", "auto", "none"] = "exif"
    masks: MaskOptions = field(default_factory=MaskOptions)
    value_range: Literal["image", "folder"] = "image"
    batch_size: int | None = None
    top_k: int | None = None
    compression: CompressionOptions | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name(self.feature)
        check_ranges(self, resize_max=EDGES, batch_size=(1, 10**5), top_k=(1, MANY))
        is_projected = self.feature in DENSE and self.cells.dimensions is not None
        if is_projected and self.compression and self.compression.dimensions is not None:
            raise ValueError(
                f"{self.feature}'s descriptors have {self.cells.dimensions} numbers already; leave "
                "compression.dimensions out, or set cells.dimensions to null."
            )
        if self.feature == "densesfm" and self.top_k is not None:
            raise ValueError("densesfm's keypoints belong together by fours; leave top_k out.")
