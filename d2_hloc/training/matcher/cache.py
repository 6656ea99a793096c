"""Features of views, extracted once: training is then of the matcher alone.

A file holds all views of one photograph; descriptors are bytes. A run that was killed goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int8
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from d2_hloc.core import config
from d2_hloc.core.devices import chosen_device
from d2_hloc.core.images import ImageError, open_image
from d2_hloc.core.structs import Features
from d2_hloc.features.options import BUNDLED
from d2_hloc.features.projection import load_projection
from d2_hloc.files.atomic import write_whole
from d2_hloc.files.provenance import file_checksum, note_configuration
from d2_hloc.network.d2net import D2Net
from d2_hloc.network.options import D2NetOptions
from d2_hloc.training.matcher.views import PhotoView, ViewOptions, draw_view, render_view
from d2_hloc.training.pair import generator, warn_once

Extract = Callable[[Tensor], Features]

LONGEST_EDGE = 1 << 20  # pixels
SINGULAR = 1e-12  # determinant
LARGEST = 0.4  # of a projected descriptor's numbers, as a byte's 127; larger ones are rare


@dataclass(frozen=True, kw_only=True)
class CachedView:
    """Features of a view, those of the highest score first."""

    keypoints: Float[Tensor, "N 2"]
    descriptors: Int8[Tensor, "N D"]
    view_from_photo: Float[np.ndarray, "3 3"]
    size: tuple[int, int]
    photo_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.keypoints)


def extractor(max_keypoints: int, precision: Literal["float32", "bfloat16"] = "float32") -> Extract:
    """D2-Net, its descriptors through the bundled projection."""
    network = D2Net(D2NetOptions(max_keypoints=max_keypoints, precision=precision))
    network.to(chosen_device())
    projection = load_projection(BUNDLED)
    weight = next(network.parameters())

    def extract(image: Tensor) -> Features:
        found = network.extract(image.to(weight.device, weight.dtype)).best(max_keypoints)
        return Features(
            keypoints=found.keypoints.float().cpu(),
            scores=found.scores.float().cpu(),
            descriptors=projection.apply(found.descriptors).cpu(),
            scales=found.scales.float().cpu(),
        )

    return extract


def to_bytes(descriptors: Float[Tensor, "N D"]) -> Int8[Tensor, "N D"]:
    """Descriptors of unit length, in bytes."""
    return (descriptors * (127 / LARGEST)).round().clamp(-127, 127).to(torch.int8)


def cache_views(
    options: ViewOptions,
    folder: Path,
    names: Sequence[str],
    output: Path,
    extract: Extract,
    seed: int,
) -> dict[str, list[CachedView]]:
    """Views of every photograph that can be used, from OUTPUT, where those missing are made.

    Raises:
        ConfigurationChanged: if the folder holds views made with other options.
        DiskFull: if there is no space.
    """
    note_configuration(output, {"views": config.to_dict(options), "seed": seed})
    found = {}
    for k, name in enumerate(tqdm(names, desc="views", unit="photo")):
        path = output / f"{name}.safetensors"
        made_from = file_checksum(folder / name) if (folder / name).is_file() else None
        views = read_views(path, made_from)
        if views is None:
            try:
                photo = open_image(folder / name)
            except ImageError as error:
                warn_once(f"{error} It is left out.")
                continue
            views = make_views(options, photo, extract, seed, k)
            write_views(path, views, made_from)
        found[name] = views
    return found


def make_views(
    options: ViewOptions, photo: Image.Image, extract: Extract, seed: int, index: int
) -> list[CachedView]:
    """The views of one photograph; `index` is its number, from which its views are drawn."""
    views = []
    for number in range(options.count):
        rng = generator(seed, number, index)
        pose = draw_view(photo.size, number, options, rng)
        found = extract(render_view(photo, pose, number, options, rng))
        views.append(seen_view(found, pose, photo.size))
    return views


def seen_view(features: Features, pose: PhotoView, photo_size: tuple[int, int]) -> CachedView:
    """Features of a view; those beyond the photograph's border are left out."""
    view = CachedView(
        keypoints=features.keypoints,
        descriptors=to_bytes(features.descriptors),
        view_from_photo=pose.view_from_photo,
        size=pose.size,
        photo_size=photo_size,
    )
    on_photo = moved(view.keypoints, np.linalg.inv(pose.view_from_photo))
    limit = torch.tensor(photo_size) - 3
    inside = ((on_photo > 2) & (on_photo < limit)).all(dim=1)
    return select(view, inside.nonzero()[:, 0])


def select(view: CachedView, indices: Tensor) -> CachedView:
    """Some of a view's features."""
    return CachedView(
        keypoints=view.keypoints[indices],
        descriptors=view.descriptors[indices],
        view_from_photo=view.view_from_photo,
        size=view.size,
        photo_size=view.photo_size,
    )


def moved(xy: Float[Tensor, "N 2"], homography: Float[np.ndarray, "3 3"]) -> Float[Tensor, "N 2"]:
    """Positions under a homography; NaN beyond its horizon."""
    turned = torch.cat([xy.double(), xy.new_ones(len(xy), 1).double()], dim=1)
    turned = turned @ torch.from_numpy(homography).T
    depth = torch.where(turned[:, 2:] > 1e-6, turned[:, 2:], torch.nan)
    return (turned[:, :2] / depth).float()


def write_views(
    path: Path, views: Sequence[CachedView], made_from: tuple[int, int] | None = None
) -> None:
    """Write one photograph's views, with its checksum, whole or not at all."""
    tensors, about = {}, []
    for k, view in enumerate(views):
        tensors[f"{k}.keypoints"] = view.keypoints.contiguous()
        tensors[f"{k}.descriptors"] = view.descriptors.contiguous()
        tensors[f"{k}.homography"] = torch.from_numpy(view.view_from_photo).contiguous()
        about.append({"size": view.size, "photo_size": view.photo_size})
    path.parent.mkdir(parents=True, exist_ok=True)
    note = {"views": json.dumps(about), "made_from": json.dumps(made_from)}
    write_whole(path, save(tensors, note))


def read_views(path: Path, made_from: tuple[int, int] | None = None) -> list[CachedView] | None:
    """Read the views that write_views wrote; None if they are not there, whole, of that file."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            if made_from is not None and file.metadata()["made_from"] != json.dumps(made_from):
                return None
            return [
                _checked(
                    file.get_tensor(f"{k}.keypoints"),
                    file.get_tensor(f"{k}.descriptors"),
                    file.get_tensor(f"{k}.homography"),
                    tuple(one["size"]),
                    tuple(one["photo_size"]),
                )
                for k, one in enumerate(json.loads(file.metadata()["views"]))
            ]
    except (SafetensorError, KeyError, TypeError, ValueError, OSError, RecursionError):
        return None


def _checked(
    keypoints: Tensor,
    descriptors: Tensor,
    homography: Tensor,
    size: tuple[int, ...],
    photo_size: tuple[int, ...],
) -> CachedView:
    """A view of what a file holds; ValueError if it cannot be one."""
    dtypes = keypoints.dtype, descriptors.dtype, homography.dtype
    shapes = keypoints.shape[1:], descriptors.shape[:1], homography.shape
    if dtypes != (torch.float32, torch.int8, torch.float64):
        raise ValueError(f"numbers of {dtypes}")
    if shapes != ((2,), keypoints.shape[:1], (3, 3)) or descriptors.ndim != 2:
        raise ValueError(f"shapes {shapes}")
    if not (keypoints.isfinite().all() and homography.isfinite().all()):
        raise ValueError("numbers that are not finite")
    if abs(float(torch.linalg.det(homography))) < SINGULAR:
        raise ValueError("a homography without an inverse")
    for edges in (size, photo_size):
        if len(edges) != 2 or not all(type(e) is int and 0 < e <= LONGEST_EDGE for e in edges):
            raise ValueError(f"an image of {edges} pixels")
    return CachedView(
        keypoints=keypoints,
        descriptors=descriptors,
        view_from_photo=homography.numpy(),
        size=(size[0], size[1]),
        photo_size=(photo_size[0], photo_size[1]),
    )
