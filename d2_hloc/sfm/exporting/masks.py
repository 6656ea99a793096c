"""Masks of undistorted images, in their pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from d2_hloc.core.photographs.mask_options import MaskOptions
from d2_hloc.core.photographs.masks import are_visible, save_mask, visible_pixels
from d2_hloc.core.pixels import from_colmap, to_colmap
from d2_hloc.files.colmap import camera_of, img_from_cam, pycolmap


def undistort_masks(
    model: pycolmap.Reconstruction,
    undistorted: pycolmap.Reconstruction,
    images: Path,
    masks: MaskOptions,
    path_of: Callable[[str], Path],
) -> None:
    """Write the masks of undistorted images, where there is anything to ignore.

    Both models are in COLMAP's pixels; `path_of` gives the file of an image's mask.

    Raises:
        ImageError: if a mask cannot be used.
    """
    targets = {image.name: camera_of(image) for image in undistorted.images.values()}
    for image_id in tqdm(model.reg_image_ids(), desc="masks", unit="image"):
        image = model.images[image_id]
        camera, target = camera_of(image), targets[image.name]
        visible = visible_pixels(masks, images, image.name, (camera.width, camera.height))
        if visible is None:
            continue
        columns, rows = np.meshgrid(np.arange(target.width), np.arange(target.height))
        xy = to_colmap(np.stack([columns.ravel(), rows.ravel()], axis=1).astype(float))
        rays = np.asarray(target.cam_from_img(xy))
        rays = np.concatenate([rays, np.ones((len(rays), 1))], axis=1)
        seen = are_visible(visible, from_colmap(img_from_cam(camera, rays)))
        save_mask(path_of(image.name), seen.reshape(columns.shape))
