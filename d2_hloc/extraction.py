"""A folder of images -> features.h5 (a step)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from d2_hloc import adapters, config
from d2_hloc.adapters import Extractor
from d2_hloc.adapters.options import FeatureOptions
from d2_hloc.images import ImageError, list_images, read_image
from d2_hloc.pixels import rescale
from d2_hloc.staging import Staged
from d2_hloc.storage import features_record
from d2_hloc.structs import Features

logger = logging.getLogger(__name__)

SPACED = "its name has a space, which hloc's and COLMAP's pair lists cannot hold; rename it"
AHEAD = 4  # images that are decoded while one is extracted


@dataclass(frozen=True, kw_only=True)
class ExtractionOptions(FeatureOptions):
    """Which features, from images of which size, in what precision they are stored.

    `top_k` keeps that many of an image, those of the highest scores; all for None.
    """

    resize_max: int | None = 1600
    descriptor_dtype: Literal["float32", "float16"] = "float16"
    batch_size: int = 1  # images of equal size that a GPU takes at once
    top_k: int | None = None

    def __post_init__(self) -> None:
        adapters.check_name(self.feature)
        for name in ("resize_max", "batch_size", "top_k", "kornia_keypoints"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be positive, not {value}.")


def create_extractor(options: FeatureOptions) -> Extractor:
    """The network or algorithm that the options name, on a GPU where there is one."""
    extractor = adapters.adapter_of(options.feature).create(options)
    if isinstance(extractor, nn.Module):
        extractor.to("cuda" if torch.cuda.is_available() else "cpu")
    return extractor


def configuration(options: ExtractionOptions) -> dict[str, Any]:
    """What the features depend on: the options that apply, and the weights' digest."""
    values = config.to_dict(options)
    for key in ("d2net", "sift", "kornia_keypoints", "batch_size"):
        del values[key]
    if options.top_k is None:  # as before there was such an option
        del values["top_k"]
    return values | adapters.adapter_of(options.feature).configuration(options)


def options_of(made_by: dict[str, Any], where: str) -> ExtractionOptions:
    """The options behind a file's configuration, to extract more images in the same way."""
    values = {k: v for k, v in made_by.items() if k not in ("weights_sha256", "hloc")}
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
        spaced = {name for name in names if len(name.split()) != 1}
        staged.failures.update(dict.fromkeys(sorted(spaced), SPACED))
        todo = [n for n in names if n not in staged.done and n not in spaced]
        if todo:
            _extract_all(options, images, todo, staged)
        for name, reason in staged.failures.items():
            logger.warning("skipped %s: %s", name, reason)
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
    extractor: Extractor,
    batch: list[Decoded],
    failures: dict[str, str],
) -> Iterator[tuple[str, dict]]:
    images = torch.stack([item.image for item in batch])
    if isinstance(extractor, nn.Module):
        images = images.to(next((p.device for p in extractor.parameters()), "cpu"))
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
    """The best of them; keypoints follow the image back to its original size."""
    if options.top_k is not None:
        features = features.best(options.top_k)
    scale = torch.tensor(original_size) / torch.tensor(size).double()
    features = replace(
        features,
        keypoints=rescale(features.keypoints.cpu().double(), scale).float(),
        scales=features.scales * float(scale.mean()),
    )
    uncertainty = adapters.adapter_of(options.feature).NOISE * float(scale.mean())
    return features_record(features, original_size, uncertainty, options.descriptor_dtype)
