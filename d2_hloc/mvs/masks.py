"""Masks of undistorted images, in their pixels: where they are black, maps have no depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from d2_hloc.core.images import open_image
from d2_hloc.core.photographs.mask_options import MaskOptions
from d2_hloc.core.photographs.masks import are_visible, save_mask, visible_pixels
from d2_hloc.core.pixels import from_colmap
from d2_hloc.files.colmap import camera_of, img_from_cam, pycolmap, read_model
from d2_hloc.files.outputs import Outputs


def undistort_masks(
    model: pycolmap.Reconstruction, images: Path, masks: MaskOptions, outputs: Outputs
) -> None:
    """Write the masks of a workspace's undistorted images, where there is anything to ignore.

    `model` is the one that was undistorted; the workspace's own has pixel centres at integers.

    Raises:
        ImageError: if a mask cannot be used.
    """
    undistorted = {i.name: camera_of(i) for i in read_model(outputs.sparse).images.values()}
    for image_id in tqdm(model.reg_image_ids(), desc="masks", unit="image"):
        image = model.images[image_id]
        camera, target = camera_of(image), undistorted[image.name]
        visible = visible_pixels(masks, images, image.name, (camera.width, camera.height))
        if visible is None:
            continue
        columns, rows = np.meshgrid(np.arange(target.width), np.arange(target.height))
        xy = np.stack([columns.ravel(), rows.ravel()], axis=1).astype(float)
        rays = np.asarray(target.cam_from_img(xy))
        rays = np.concatenate([rays, np.ones((len(rays), 1))], axis=1)
        seen = are_visible(visible, from_colmap(img_from_cam(camera, rays)))
        save_mask(outputs.undistorted_mask(image.name), seen.reshape(columns.shape))


def masked_depth(depth: Float[np.ndarray, "H W"], mask: Path) -> Float[np.ndarray, "H W"]:
    """Set a depth map to 0 where its mask is black; all stays where there is no mask."""
    if not mask.is_file():
        return depth
    return np.where(np.asarray(open_image(mask)).any(axis=2), depth, 0).astype(depth.dtype)
