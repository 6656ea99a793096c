"""Read the model or the poses that pairs are chosen by."""

from __future__ import annotations

from pathlib import Path

from d2_hloc.files.colmap import ModelError, is_model, pycolmap, read_model, sparse_folder
from d2_hloc.matching.choose_pairs import Reference
from d2_hloc.matching.options import PairsOptions
from d2_hloc.sfm.pose_errors import model_poses
from d2_hloc.sfm.poses_file import read_poses


def read_reference(
    options: PairsOptions, images: Path, model: pycolmap.Reconstruction | None = None
) -> Reference | None:
    """Read the reference that the method of pairs asks for; None where it asks for none.

    `model` is the model that the images of the folder `images` are of, if there is one;
    `options.reference` goes before.

    Raises:
        ValueError: if there is no reference, or it has not what the method needs.
    """
    if not options.is_by_reference:
        return None
    if options.reference is not None and options.method == "poses":
        return _of_poses(options.reference)
    if options.reference is not None:
        model = read_model(sparse_folder(options.reference))
    if model is None:
        raise ValueError(
            f"{images}: pairs by {options.method} need a model of the images"
            f"{', or a file of their poses' if options.method == 'poses' else ''}; name it by "
            "--reference, or choose another method."
        )
    if options.method == "covisibility" and not model.num_points3D():
        raise ModelError(
            f"{images}: pairs by covisibility need a model with points; take those by poses."
        )
    return Reference(poses=model_poses(model), model=model)


def _of_poses(path: Path) -> Reference:
    folder = sparse_folder(path)
    if is_model(folder):
        model = read_model(folder)
        return Reference(poses=model_poses(model), model=model)
    return Reference(poses=read_poses(path))
