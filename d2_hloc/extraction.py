"""A folder of images -> features.h5 (a step)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from d2_hloc import config, weights
from d2_hloc.d2net import MULTISCALE, D2Net, D2NetOptions
from d2_hloc.images import ImageError, list_images, read_image
from d2_hloc.pixels import rescale
from d2_hloc.sift import Sift, SiftOptions
from d2_hloc.staging import Staged
from d2_hloc.storage import features_record
from d2_hloc.structs import Features

logger = logging.getLogger(__name__)

AHEAD = 4  # images that are decoded while one is extracted


@dataclass(frozen=True, kw_only=True)
class ExtractionOptions:
    """Which features, from images of which size, in what precision they are stored."""

    feature: Literal["d2net", "d2net-ms", "sift"] = "d2net"
    d2net: D2NetOptions = field(default_factory=D2NetOptions)
    sift: SiftOptions = field(default_factory=SiftOptions)
    resize_max: int | None = 1600
    descriptor_dtype: Literal["float32", "float16"] = "float16"
    batch_size: int = 1  # images of equal size that a GPU takes at once

    def __post_init__(self) -> None:
        for name in ("resize_max", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be positive, not {value}.")

    @property
    def d2net_options(self) -> D2NetOptions:
        """d2net's options; 'd2net-ms' is the paper's three scales unless others are asked for."""
        is_default = self.d2net.scales == D2NetOptions().scales
        if self.feature == "d2net-ms" and is_default:
            return replace(self.d2net, scales=MULTISCALE)
        return self.d2net


# Standard deviation of keypoints, pixels of the extracted image (hloc's `uncertainty`): from the
# paper's Table 1, 1.28 and 0.60 pixels of reprojection error.
NOISE = {"d2net": 1.3, "d2net-ms": 1.3, "sift": 0.6}


def create_extractor(options: ExtractionOptions) -> Callable[[Tensor], list[Features]]:
    """The network or algorithm that the options name, on a GPU where there is one."""
    if options.feature == "sift":
        return Sift(options.sift)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return D2Net(options.d2net_options).to(device)


def configuration(options: ExtractionOptions) -> dict[str, Any]:
    """What the features depend on: the options that apply, and the weights' digest."""
    values = config.to_dict(options)
    for key in ("d2net", "sift", "batch_size"):
        del values[key]
    if options.feature == "sift":
        return values | {"sift": config.to_dict(options.sift)}
    d2net = config.to_dict(options.d2net_options)
    digest = weights.digest(weights.locate(options.d2net.weights))
    return values | {"d2net": d2net, "weights_sha256": digest}


def options_of(made_by: dict[str, Any], where: str) -> ExtractionOptions:
    """The options behind a file's configuration, to extract more images in the same way."""
    values = {k: v for k, v in made_by.items() if k != "weights_sha256"}
    return config.build(ExtractionOptions, values, where)


def extract(
    options: ExtractionOptions, images: Path, output: Path, names: list[str] | None = None
) -> Path:
    """Extract the features of all images below a folder, or of those named, into `output`.

    Images that are done are left alone. Ones that cannot be used are reported at the end and noted
    in the file (storage.failures); the others are done all the same.

    Raises:
        ImageError: if there is no image at all, or none that can be used.
        ConfigurationChanged, DiskFull: as staging.Staged.
    """
    names = list_images(images) if names is None else names
    with Staged(output, configuration(options), "keypoints") as staged:
        todo = [n for n in names if n not in staged.done]
        if todo:
            _extract_all(options, images, todo, staged)
        if not staged.done:
            raise ImageError(f"{images}: none of the {len(names)} images can be used.")
    return output


def _extract_all(
    options: ExtractionOptions, images: Path, names: list[str], staged: Staged
) -> None:
    extractor = create_extractor(options)
    with tqdm(total=len(names), desc=f"extract {options.feature}", unit="image") as progress:
        for batch in _batches(_decoded(options, images, names, staged.failures), options):
            for item in _extract_batch(options, extractor, batch, staged.failures):
                staged.add(*item)
            progress.update(len(batch))
    for name, reason in staged.failures.items():
        logger.warning("skipped %s: %s", name, reason)
    staged.flush()


@dataclass(frozen=True)
class Decoded:
    name: str
    image: Tensor
    original_size: tuple[int, int]


def _decoded(
    options: ExtractionOptions, images: Path, names: list[str], failures: dict[str, str]
) -> Iterator[Decoded]:
    """Images in order, decoded and resized in a thread, a few ahead of their use."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending = [pool.submit(read_image, images / n, options.resize_max) for n in names[:AHEAD]]
        for k, name in enumerate(names):
            if k + AHEAD < len(names):
                following = images / names[k + AHEAD]
                pending.append(pool.submit(read_image, following, options.resize_max))
            try:
                yield Decoded(name, *pending.pop(0).result())
            except ImageError as error:
                failures[name] = str(error)


def _batches(items: Iterator[Decoded], options: ExtractionOptions) -> Iterator[list[Decoded]]:
    """Runs of images of one size, at most batch_size long."""
    batch: list[Decoded] = []
    for item in items:
        if batch and (len(batch) == options.batch_size or item.image.shape != batch[0].image.shape):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _extract_batch(
    options: ExtractionOptions,
    extractor: Callable[[Tensor], list[Features]],
    batch: list[Decoded],
    failures: dict[str, str],
) -> Iterator[tuple[str, dict]]:
    images = torch.stack([item.image for item in batch])
    if isinstance(extractor, torch.nn.Module):
        images = images.to(next(extractor.parameters()).device)
    try:
        found = extractor(images)
    except ValueError as error:  # too small for the network
        failures.update({item.name: str(error) for item in batch})
        return
    for item, features in zip(batch, found, strict=True):
        size = (item.image.shape[2], item.image.shape[1])
        yield item.name, _to_record(options, features, size, item.original_size)


def _to_record(
    options: ExtractionOptions,
    features: Features,
    size: tuple[int, int],
    original_size: tuple[int, int],
) -> dict:
    """Keypoints follow the image back to its original size."""
    scale = torch.tensor(original_size) / torch.tensor(size).double()
    features = replace(
        features,
        keypoints=rescale(features.keypoints.cpu().double(), scale).float(),
        scales=features.scales * float(scale.mean()),
    )
    uncertainty = NOISE[options.feature] * float(scale.mean())
    return features_record(features, original_size, uncertainty, options.descriptor_dtype)
