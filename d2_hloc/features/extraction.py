"""A folder of images -> features.h5 (a step)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from d2_hloc.core import config
from d2_hloc.core.devices import chosen_device, free_memory_of, in_halves, sent
from d2_hloc.core.exif import read_orientation
from d2_hloc.core.images import read_image
from d2_hloc.core.listing import ImageError, list_images
from d2_hloc.core.names import name_problem
from d2_hloc.core.orientation import UPRIGHT, to_stored, upright_size
from d2_hloc.core.photographs.masks import are_visible, check_masks, sources_of, visible_pixels
from d2_hloc.core.photographs.tones import Span, folder_span
from d2_hloc.core.pixels import rescale
from d2_hloc.core.structs import Features
from d2_hloc.core.threads import a_few_ahead, free_memory, threads_an_operation
from d2_hloc.features import compression, registry
from d2_hloc.features.adapter import Extractor
from d2_hloc.features.changes import drop_changed, refuse_changed
from d2_hloc.features.extracted import Extracted
from d2_hloc.features.options import ExtractionOptions, FeatureOptions
from d2_hloc.files import features_h5
from d2_hloc.files.provenance import file_checksum
from d2_hloc.files.shards import Shard, note_items, staged_shard
from d2_hloc.files.staged_h5 import Record, Staged
from d2_hloc.network.d2net import D2Net

logger = logging.getLogger(__name__)

DIGESTS = ("weights_sha256", "projection_sha256", "hloc")  # of what the options name
AHEAD = 4  # images that are decoded while one is extracted
BYTES_A_PIXEL = 1200  # that D2-Net takes while it extracts an image
SHARE_OF_MEMORY = 8  # an eighth of what is free: below 3 GB in all at 1600 pixels on two cores
GPU_SHARE = 2  # half of a GPU's free memory is for a batch
MOST_AT_ONCE = 16  # images that a GPU takes; more gain nothing, and come later
LEAST_MEMORY = 2_500_000_000  # bytes that images may take at once, whatever is free
UNKNOWN_EDGE = 4000  # pixels, of images that are not reduced

CreateExtractor = Callable[[FeatureOptions], Extractor]


def create_extractor(options: FeatureOptions) -> Extractor:
    """The network or algorithm that the options name, on the chosen device."""
    extractor = registry.adapter_of(options.feature).create(options)
    if isinstance(extractor, nn.Module):
        extractor.to(chosen_device())
    return extractor


def on_device_of(extractor: Extractor, images: Tensor) -> Tensor:
    """Images where an extractor takes them."""
    if not isinstance(extractor, nn.Module):
        return images
    return sent(images, device_of(extractor))


def device_of(extractor: Extractor) -> torch.device:
    """Device that an extractor computes on."""
    parameters = extractor.parameters() if isinstance(extractor, nn.Module) else iter(())
    return next((p.device for p in parameters), torch.device("cpu"))


def extraction_configuration(options: ExtractionOptions) -> dict[str, Any]:
    """Everything that the features depend on: the options that apply, and the weights' digest."""
    values = config.to_dict(options)
    for key in ("d2net", "cells", "sift", "kornia_keypoints", "batch_size"):
        del values[key]
    del values["compression"]
    if not options.masks.are_asked_for:  # as before there were any
        del values["masks"]
    if options.value_range == "image":  # likewise
        del values["value_range"]
    values |= registry.adapter_of(options.feature).configuration(options)
    return values | compression.compression_configuration(options.compression)


def recorded_options(made_by: dict[str, Any], where: str) -> ExtractionOptions:
    """The options behind a file's configuration, to extract more images in the same way.

    `where` begins the text of an error.

    Raises:
        ConfigError: if the configuration is none of ours.
    """
    values = {k: v for k, v in made_by.items() if k not in DIGESTS}
    return config.from_dict(ExtractionOptions, values, where)


def extract(
    options: ExtractionOptions,
    images: Path,
    output: Path,
    names: Sequence[str] | None = None,
    shard: Shard | None = None,
    create: CreateExtractor | None = None,
    orientations: Mapping[str, int] | None = None,
) -> Extracted:
    """Extract the features of all images below a folder, or of those named, into `output`.

    Images that are done are left alone. Ones that cannot be used are reported at the end and noted
    in the file; the others are done all the same. A `shard` of those that `output` lacks goes into
    the shard's own file, which may be left without any image. `create` takes the place of
    create_extractor(), `orientations` that of EXIF's, by name.

    Raises:
        ImageError: if there is no image at all, none that can be used, or no mask.
        ConfigurationChanged, DiskFull: as staged_h5.Staged.
        ValueError: as shards.staged_shard.
    """
    names = list_images(images) if names is None else names
    check_masks(options.masks, names)
    with staged_shard(output, shard, extraction_configuration(options), "keypoints") as staged:
        unusable = unusable_names(names)  # among all: names can be in each other's way
        every, names = names, _share(images, output, names, staged, shard)
        staged.failures.update({printable(n): unusable[n] for n in names if n in unusable})
        usable = [n for n in names if n not in unusable]
        refuse_changed(images, [n for n in usable if n in staged.done], staged.path)
        drop_changed(images, staged)
        todo = [n for n in usable if n not in staged.done]
        if todo:
            extractor = (create or create_extractor)(options)
            is_one_range = options.value_range == "folder"
            span = folder_span(images, every) if is_one_range else None
            source = ImageSource(images, options, span, orientations or {})
            _extract_all(options, extractor, source, todo, staged)
        for name, reason in staged.failures.items():
            logger.warning("skipped %s: %s", name, reason)
        if shard is None and not staged.done & set(names):
            raise ImageError(f"{images}: none of the {len(names)} images can be used.")
    return Extracted(
        path=staged.path,
        names=tuple(sorted(staged.done & set(names))),
        failures=dict(sorted(staged.failures.items())),
    )


def _share(
    images: Path, output: Path, names: Sequence[str], staged: Staged, shard: Shard | None
) -> Sequence[str]:
    """Names that are a shard's. Of the merged file it checks as large a share."""
    if shard is None:
        return names
    refuse_changed(images, shard.of([n for n in names if n in staged.merged]), output)
    missing = [n for n in names if n not in staged.merged]
    note_items(output, missing)
    return shard.of(missing)


def unusable_names(names: Sequence[str]) -> dict[str, str]:
    """Names that text files or the keys of matches cannot hold, with the reason."""
    found, keys = {}, {}
    encoding = sys.getfilesystemencoding().lower()
    for name in names:
        key = features_h5.name_key(name)
        if (problem := name_problem(name)) is not None:
            found[name] = f"its name {problem}; rename it"
        elif not name.isascii() and encoding != "utf-8":
            found[name] = "its name is not in ASCII"
        elif name != name.strip():
            found[name] = "its name begins or ends with a space; rename it"
        elif keys.setdefault(key, name) != name:
            found[name] = f"matches.h5 calls it {key}, as it does {keys[key]}; rename one of them"
        if name in found and encoding != "utf-8" and not name.isascii():
            remedy = "set PYTHONUTF8=1 or a locale such as C.UTF-8"
            found[name] += f", and the locale's encoding is {encoding}, not UTF-8: {remedy}"
    return found


def printable(name: str) -> str:
    """A file's name with a question mark for each byte that is not UTF-8."""
    return name.encode(errors="replace").decode()


def _extract_all(
    options: ExtractionOptions,
    extractor: Extractor,
    source: ImageSource,
    names: Sequence[str],
    staged: Staged,
) -> None:
    project = compression.projection_of(options.compression)
    with tqdm(total=len(names), desc=f"extract {options.feature}", unit="image") as progress:
        decoded, device = _decoded(source, names, staged.failures), device_of(extractor)
        batches = _batches(decoded, lambda image: images_at_once(options, image, device))

        def work(batch: list[Decoded]) -> tuple[int, list[tuple[Features, Decoded]]]:
            return len(batch), list(_extract_batch(extractor, batch, staged.failures))

        with an_image_a_thread(extractor, options, len(names)) as workers:
            for count, found in a_few_ahead(work, batches, workers):
                for features, of in found:
                    features = replace(features, descriptors=project(features.descriptors))
                    staged.add(of.name, _to_record(options, features, of))
                progress.update(count)
    staged.flush()


@contextmanager
def an_image_a_thread(
    extractor: Extractor, options: ExtractionOptions, images: int
) -> Iterator[int]:
    """How many images are extracted at once: one a core, of one thread each, where memory allows.

    Cores that share every operation wait for each other, the more the busier the machine. Where
    there are fewer images than cores, or memory for fewer, as few cores as can be share them.
    """
    cores, edge = torch.get_num_threads(), options.resize_max or UNKNOWN_EDGE
    memory = max(LEAST_MEMORY, free_memory() // SHARE_OF_MEMORY)
    fits = int(memory / (BYTES_A_PIXEL * 0.75 * edge**2))
    is_ours = isinstance(extractor, D2Net) and chosen_device().type == "cpu"
    at_once = min(cores, images, fits) if is_ours else 1
    if at_once <= 1:
        yield 1
        return
    with threads_an_operation(cores // at_once):
        yield at_once


@dataclass(frozen=True)
class Decoded:
    """An upright image as it is extracted, its stored size (w, h), and its file's checksum.

    `visible` are the stored pixels that count; None is all.
    """

    name: str
    image: Tensor
    stored_size: tuple[int, int]
    orientation: int
    checksum: tuple[int, int]
    visible: np.ndarray | None


@dataclass(frozen=True)
class ImageSource:
    """A folder of images, and how they are read from it; `span`: of values of more than 8 bits."""

    folder: Path
    options: ExtractionOptions
    span: Span | None = None
    orientations: Mapping[str, int] = field(default_factory=dict)  # that go before EXIF's

    def decode(self, name: str) -> Decoded:
        """Read an image, turn it, and reduce it to the size that features are extracted at."""
        path = self.folder / name
        orientation = UPRIGHT if self.options.rotations == "none" else read_orientation(path)
        orientation = self.orientations.get(name, orientation)
        image, stored_size = read_image(path, self.options.resize_max, orientation, self.span)
        visible = visible_pixels(self.options.masks, self.folder, name, stored_size)
        sources = sources_of(self.folder, name, {"masks": config.to_dict(self.options.masks)})
        checksum = file_checksum(*sources)
        return Decoded(name, image, stored_size, orientation, checksum, visible)


def _decoded(
    source: ImageSource, names: Sequence[str], failures: dict[str, str]
) -> Iterator[Decoded]:
    """Images in order, decoded and resized in a thread, a few ahead of their use."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending = [pool.submit(source.decode, n) for n in names[:AHEAD]]
        for k, name in enumerate(names):
            if k + AHEAD < len(names):
                pending.append(pool.submit(source.decode, names[k + AHEAD]))
            try:
                yield pending.pop(0).result()
            except ImageError as error:
                failures[name] = str(error)


def images_at_once(options: ExtractionOptions, image: Tensor, device: torch.device) -> int:
    """How many images like one a device takes at once: batch_size, or what its memory is for."""
    if options.batch_size is not None:
        return options.batch_size
    share = free_memory_of(device) // GPU_SHARE
    return max(1, min(MOST_AT_ONCE, share // (BYTES_A_PIXEL * image.shape[1] * image.shape[2])))


def _batches(items: Iterator[Decoded], at_once: Callable[[Tensor], int]) -> Iterator[list[Decoded]]:
    """Runs of images of one size, at most as long as `at_once` says of their first."""
    batch: list[Decoded] = []
    most = 1
    for item in items:
        if batch and (len(batch) == most or item.image.shape != batch[0].image.shape):
            yield batch
            batch = []
        most = most if batch else at_once(item.image)
        batch.append(item)
    if batch:
        yield batch


def _extract_batch(
    extractor: Extractor, batch: list[Decoded], failures: dict[str, str]
) -> Iterator[tuple[Features, Decoded]]:
    def work(items: Sequence[Decoded]) -> Sequence[Features]:
        return extractor(on_device_of(extractor, torch.stack([item.image for item in items])))

    try:
        found = in_halves(work, batch)
    except ValueError as error:  # too small for the network
        failures.update({item.name: str(error) for item in batch})
        return
    yield from zip(found, batch, strict=True)


def _to_record(options: ExtractionOptions, features: Features, of: Decoded) -> Record:
    """Record of the best visible features of an image, with keypoints in its stored pixels."""
    size = torch.tensor([of.image.shape[2], of.image.shape[1]])
    scale = torch.tensor(upright_size(of.stored_size, of.orientation)) / size.double()
    features = features.to("cpu")
    upright = rescale(features.keypoints.double(), scale)
    features = replace(
        features,
        keypoints=to_stored(upright, of.orientation, of.stored_size).float(),
        scales=features.scales * float(scale.mean()),
    )
    if of.visible is not None:
        seen = np.flatnonzero(are_visible(of.visible, features.keypoints.numpy()))
        features = features.chosen(torch.from_numpy(seen))
    if options.top_k is not None:
        features = features.best(options.top_k)
    uncertainty = registry.adapter_of(options.feature).noise * float(scale.mean())
    dtype = options.compression.dtype if options.compression else options.descriptor_dtype
    return features_h5.features_record(
        features, of.stored_size, uncertainty, dtype, of.checksum, of.orientation
    )
