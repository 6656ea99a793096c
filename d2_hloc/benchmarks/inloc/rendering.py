"""Dense PV compares a query with the scan, rendered from the query's estimated pose.

The scan's coloured points are splatted into the query's camera, both images are described densely
by RootSIFT, and the score is 1 / the median distance over what was rendered. Taira et al., "InLoc",
CVPR 2018, Section 4.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from d2_hloc.benchmarks.inloc import data as inloc
from d2_hloc.benchmarks.inloc.data import InLocData, InLocError
from d2_hloc.benchmarks.inloc.scans import MapCache
from d2_hloc.core.cache import BoundedCache
from d2_hloc.core.devices import chosen_device
from d2_hloc.core.images import luma, open_image, to_tensor
from d2_hloc.core.pixels import rescale
from d2_hloc.core.ranges import EDGES, MANY, SHARES, check_ranges

BIN = 8  # pixels of a descriptor's cell: it has 4 x 4 of them
STEP = 4  # pixels between descriptors
NEAR = 0.05  # metres
SOLID = 1.05  # of the nearest depth around: what is farther away is hidden, and seen through gaps
FLAT = 1e-3  # deviation of grey values below which there is nothing to compare
CLOUD_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class DensePVOptions:
    """Size, points and number of the renderings of a query.

    `longest_edge` is that of the query as it is compared, in pixels; 504 is 1/8 of InLoc's 4032.
    `points` are those of the cutout that led to the pose, or of all cutouts of its scan; larger
    cutouts give about as many points along their edges. A pose that renders less than
    `min_coverage` of the image has score 0, and so has one of less than `min_share` of the inliers
    that the query's best pose has: chance leads there, and a view of a bare wall explains any.

    Attributes:
        longest_edge: longest edge of the query as it is compared, pixels.
        points: scan: points of all cutouts of the scan; cutout: of the one that led to the
            pose.
        min_coverage: least share of the image that a pose has to render.
        min_share: least share of the inliers of the query's best pose.
        num_poses: poses that are rendered.
    """

    longest_edge: int = 504
    points: str = "scan"
    min_coverage: float = 0.05
    min_share: float = 0.05
    num_poses: int = 10

    def __post_init__(self) -> None:
        if self.points not in ("scan", "cutout"):
            raise ValueError(f"points must be 'scan' or 'cutout', not {self.points!r}.")
        check_ranges(self, longest_edge=EDGES, min_coverage=SHARES, num_poses=(1, MANY))
        check_ranges(self, min_share=SHARES)


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """Coloured points in the building's frame."""

    xyz: Float[Tensor, "N 3"]  # metres
    rgb: Float[Tensor, "N 3"]  # in [0, 1]

    @property
    def nbytes(self) -> int:
        return self.xyz.nbytes + self.rgb.nbytes


@dataclass(frozen=True, kw_only=True)
class QueryView:
    """A pinhole camera and where it stands: x_camera = rotation x + translation.

    `principal_point` has (0, 0) at the centre of the first pixel.
    """

    size: tuple[int, int]  # w, h
    focal: float
    principal_point: tuple[float, float]
    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, " 3"]

    def reduced(self, longest_edge: int) -> QueryView:
        """Return the same view with fewer pixels, or as it is."""
        scale = min(1.0, longest_edge / max(self.size))
        width, height = (max(1, round(edge * scale)) for edge in self.size)
        size = width, height
        ratio = np.array(size) / self.size
        x, y = rescale(np.array(self.principal_point), ratio)
        return QueryView(
            size=size,
            focal=self.focal * float(ratio.mean()),
            principal_point=(float(x), float(y)),
            rotation=self.rotation,
            translation=self.translation,
        )


def render_cloud(
    cloud: Cloud, view: QueryView
) -> tuple[Float[Tensor, "3 H W"], Bool[Tensor, "H W"]]:
    """Render a view of the points, and say which pixels are rendered.

    A point covers the pixel that it falls on, and its neighbours where no other falls. Points
    behind the surface that a neighbour shows are not seen through the gaps between its points.
    """
    pixels, depth, index = _project(cloud, view)
    width, height = view.size
    nearest = torch.full((height * width,), torch.inf, device=depth.device)
    nearest.scatter_reduce_(0, pixels, depth, "amin")
    surface = -F.max_pool2d(-nearest.view(1, height, width), 3, stride=1, padding=1).flatten()
    is_seen = depth <= torch.minimum(surface[pixels] * SOLID, nearest[pixels])
    image = torch.zeros(3, height * width, device=depth.device)
    image[:, pixels[is_seen]] = cloud.rgb[index[is_seen]].T
    mask = torch.zeros(height * width, dtype=torch.bool, device=depth.device)
    mask[pixels[is_seen]] = True
    return _cover_gaps(image.view(3, height, width), mask.view(height, width))


def _project(cloud: Cloud, view: QueryView) -> tuple[Tensor, Tensor, Tensor]:
    """Project points into the image: flat pixel index, depth and row in the cloud of each."""
    rotation, translation = (
        torch.as_tensor(np.array(a), dtype=torch.float64, device=cloud.xyz.device).float()
        for a in (view.rotation, view.translation)
    )
    points = cloud.xyz @ rotation.T + translation
    depth = points[:, 2]
    place = view.focal * points[:, :2] / depth.clamp(min=NEAR)[:, None]
    x, y = (place + place.new_tensor(view.principal_point)).round().T
    width, height = view.size
    inside = (depth > NEAR) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = inside.nonzero()[:, 0]
    return (y[index] * width + x[index]).long(), depth[index], index


def _cover_gaps(
    image: Float[Tensor, "3 H W"], mask: Bool[Tensor, "H W"]
) -> tuple[Float[Tensor, "3 H W"], Bool[Tensor, "H W"]]:
    """Give pixels beside rendered ones the mean of those."""
    weight = F.avg_pool2d(mask[None].float(), 3, stride=1, padding=1)
    mean = F.avg_pool2d(image * mask, 3, stride=1, padding=1) / weight.clamp(min=1e-6)
    return torch.where(mask, image, mean), weight[0] > 0


def dense_score(
    query: Float[Tensor, "3 H W"],
    rendered: Float[Tensor, "3 H W"],
    mask: Bool[Tensor, "H W"],
    min_coverage: float = 0.0,
) -> float:
    """Score 1 / the median distance of dense RootSIFT over rendered pixels; 0 where there are none.

    The rest is filled in the same way in both images, so that its edges look alike.
    """
    if mask.float().mean() < max(min_coverage, 1e-9):
        return 0.0
    first, second = (_normalised(luma(image), mask) for image in (query, rendered))
    if first is None or second is None:
        return 0.0
    filled = torch.stack([_fill(first, mask), _fill(second, mask)])
    described = _describer().to(mask.device)(filled[:, None])
    is_rendered = mask[::STEP, ::STEP]
    if not is_rendered.any():
        return 0.0
    height, width = is_rendered.shape  # there can be one more descriptor, beyond the last pixel
    distances = (described[0] - described[1]).norm(dim=0)[:height, :width][is_rendered]
    return float(1 / distances.median().clamp(min=1e-6))


@cache
def _describer() -> torch.nn.Module:
    from kornia.feature import DenseSIFTDescriptor  # takes seconds to import

    # With this padding, descriptor (i, j) stands half a pixel before pixel (STEP i, STEP j).
    module = DenseSIFTDescriptor(spatial_bin_size=BIN, stride=STEP, padding=3 * BIN // 2)
    return module.requires_grad_(False)


def _normalised(
    grey: Float[Tensor, "H W"], mask: Bool[Tensor, "H W"]
) -> Float[Tensor, "H W"] | None:
    """Bring grey values to mean 0 and deviation 1 over the mask; None without contrast."""
    values = grey[mask]
    deviation = values.std(correction=0)
    return (grey - values.mean()) / deviation if deviation > FLAT else None


def _fill(grey: Float[Tensor, "H W"], mask: Bool[Tensor, "H W"]) -> Float[Tensor, "H W"]:
    """Fill pixels beyond the mask with the mean over ever larger neighbourhoods.

    The result is smooth, and equal at the edge of the mask.
    """
    filled, weight = grey * mask, mask.float()
    if min(grey.shape) > 1 and not mask.all():
        small_weight = F.avg_pool2d(weight[None, None], 2, ceil_mode=True)[0, 0]
        small = F.avg_pool2d(filled[None, None], 2, ceil_mode=True)[0, 0]
        coarse = _fill(small / small_weight.clamp(min=1e-6), small_weight > 0)
        up = F.interpolate(coarse[None, None], size=grey.shape, mode="bilinear")[0, 0]
        return torch.where(mask, grey, up)
    return filled


class CloudCache:
    """Clouds of cutouts or of whole scans, made once while they are in use; for several threads."""

    def __init__(self, data: InLocData, options: DensePVOptions, maps: MapCache) -> None:
        self._data, self._options, self._maps = data, options, maps
        self._device = chosen_device()
        self._clouds = BoundedCache(self._read, CLOUD_BYTES)
        self._scans: Mapping[str, list[str]] = _by_scan(data.cutouts)

    def __getitem__(self, cutout: str) -> Cloud:
        """Cloud to verify a pose by; parts that cannot be read are left out.

        Raises:
            InLocError: if there is none that can be read.
        """
        names = (cutout,)
        if self._options.points == "scan":
            names = tuple(self._scans.get(inloc.scan_of(cutout), names))
        return self._clouds[names]

    def _read(self, names: tuple[str, ...]) -> Cloud:
        parts, problems = [], []
        for name in names:
            try:
                folder = self._data.folder
                parts.append(cutout_points(folder, name, self._maps, self._options.longest_edge))
            except ValueError as error:
                problems.append(str(error))
        if not parts:
            raise InLocError(problems[0])
        xyz, rgb = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*parts, strict=True))
        return Cloud(xyz=xyz.to(self._device), rgb=rgb.to(self._device))


def _by_scan(cutouts: Sequence[str]) -> dict[str, list[str]]:
    scans: dict[str, list[str]] = {}
    for name in cutouts:
        scans.setdefault(inloc.scan_of(name), []).append(name)
    return scans


def cutout_points(
    folder: Path, cutout: str, maps: MapCache, longest_edge: int
) -> tuple[Float[np.ndarray, "N 3"], Float[np.ndarray, "N 3"]]:
    """Read a cutout's points in the building's frame, and their colours, by its map or photograph.

    Of a cutout larger than `longest_edge`, points of every second pixel, or third, ..., are taken.

    Raises:
        ValueError: if its map, alignment or photograph cannot be used.
    """
    found = maps[folder / f"{cutout}.mat"]
    rgb = found.rgb if found.rgb is not None else np.asarray(open_image(folder / cutout))
    if rgb.shape != found.xyz.shape:
        raise InLocError(f"{cutout}: its colours and points differ in size.")
    matrix = inloc.read_alignment(folder, cutout)
    step = max(1, max(found.xyz.shape) // longest_edge)
    xyz, rgb = found.xyz[::step, ::step].reshape(-1, 3), rgb[::step, ::step].reshape(-1, 3)
    known = np.isfinite(xyz).all(axis=1)
    points = xyz[known].astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    return points.astype(np.float32), rgb[known].astype(np.float32) / 255


def read_reduced(path: Path, size: tuple[int, int]) -> Float[Tensor, "3 H W"]:
    """Read a query at the size (w, h) that it is compared at.

    Raises:
        ImageError: if it cannot be read.
    """
    return to_tensor(open_image(path).resize(size, Image.Resampling.BOX))
