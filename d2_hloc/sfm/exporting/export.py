"""A model with its images in a folder that another program reads (a step)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from d2_hloc.core.photographs.mask_options import MaskOptions
from d2_hloc.core.photographs.masks import check_masks
from d2_hloc.core.photographs.tones import EIGHT_BITS, eight_bit_images
from d2_hloc.files.atomic import empty_folder
from d2_hloc.files.colmap import ModelError, pycolmap, read_model
from d2_hloc.files.outputs import Outputs
from d2_hloc.sfm.exporting.bundler import write_bundler
from d2_hloc.sfm.exporting.kapture import write_kapture
from d2_hloc.sfm.exporting.masks import undistort_masks
from d2_hloc.sfm.exporting.nerfstudio import write_transforms

PART = ".exporting"  # ends the name of a folder that is not whole
QUALITY = 98  # of undistorted JPEG images


@dataclass(frozen=True, kw_only=True)
class ExportSource:
    """A model's folder, its images, and the output of the run that made it, if one of ours did.

    `masks` go to the programs that take them, nerfstudio and OpenMVS.
    """

    model: Path
    images: Path
    run: Outputs | None = None
    masks: MaskOptions = field(default_factory=MaskOptions)


def export(source: ExportSource, target: str, output: Path, max_image_size: int = -1) -> Path:
    """Write a model for another program, `target`, into a new folder, whole or not at all.

    Undistorted images have their longest edge at most `max_image_size` pixels; -1 keeps it.

    Raises:
        ModelError: if the model cannot be read, an image is missing, or hloc's files are.
        ImageError: if a mask cannot be used.
        ValueError: if the folder is there already and not empty, or there is no such program.
    """
    if target not in TARGETS:
        raise ValueError(f"--for {target}: it takes {', '.join(TARGETS)}.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output}: is there already; choose another folder.")
    model = read_model(source.model)
    for image_id in model.reg_image_ids():
        path = source.images / model.images[image_id].name
        if not path.is_file():
            raise ModelError(f"{path}: there is no such image; name their folder by --images.")
    if target in WITH_MASKS:
        check_masks(source.masks, [model.images[i].name for i in model.reg_image_ids()])
    part = empty_folder(output.with_name(output.name + PART))
    TARGETS[target](source, model, part, max_image_size)
    if output.exists():
        output.rmdir()
    output.parent.mkdir(parents=True, exist_ok=True)
    part.replace(output)
    return output


def undistort(source: ExportSource, folder: Path, max_image_size: int) -> pycolmap.Reconstruction:
    """Pinhole images in images/, and their model in sparse/, in COLMAP's own pixels."""
    model = read_model(source.model)
    names = [model.images[i].name for i in model.reg_image_ids()]
    pycolmap.undistort_images(
        folder,
        source.model,
        eight_bit_images(source.images, names, folder),
        undistort_options=pycolmap.UndistortCameraOptions(max_image_size=max_image_size),
        jpeg_quality=QUALITY,
    )
    made = Outputs(folder)
    for left in (*folder.glob("run-colmap-*.sh"), made.stereo, folder / EIGHT_BITS):
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    model = read_model(made.sparse)
    for image_id in model.reg_image_ids():
        name = model.images[image_id].name
        if not (made.undistorted_images / name).is_file():
            raise ModelError(f"{source.images / name}: COLMAP could not read it; save it as PNG.")
    return model


def _for_splatting(
    source: ExportSource, _: pycolmap.Reconstruction, folder: Path, max_image_size: int
) -> None:
    """images/ and sparse/0, as the reference code of Gaussian splatting and its kin read them."""
    undistort(source, folder, max_image_size)
    sparse = Outputs(folder).sparse
    sparse.rename(folder / "0")
    sparse.mkdir()
    (folder / "0").rename(sparse / "0")


def _for_openmvs(
    source: ExportSource, model: pycolmap.Reconstruction, folder: Path, max_image_size: int
) -> None:
    """images/ and sparse/, as InterfaceCOLMAP reads them; its model as text too, and masks."""
    undistorted = undistort(source, folder, max_image_size)
    undistorted.write_text(Outputs(folder).sparse)
    if source.masks.are_asked_for:
        masks = Outputs(folder).undistorted_masks
        given = model, undistorted, source.images, source.masks
        undistort_masks(*given, lambda name: masks / f"{Path(name).stem}.mask.png")


def _undistorted_images(
    source: ExportSource, folder: Path, max_image_size: int
) -> pycolmap.Reconstruction:
    """images/ alone; their model is written in another form."""
    model = undistort(source, folder, max_image_size)
    shutil.rmtree(Outputs(folder).sparse)
    return model


def _for_nerfstudio(
    source: ExportSource, model: pycolmap.Reconstruction, folder: Path, max_image_size: int
) -> None:
    """images/, transforms.json and sparse_pc.ply, and masks/ of all images if there are any."""
    undistorted = _undistorted_images(source, folder, max_image_size)
    if source.masks.are_asked_for:
        given = model, undistorted, source.images, source.masks
        undistort_masks(*given, Outputs(folder).undistorted_mask)
    masks = Outputs(folder).undistorted_masks
    write_transforms(undistorted, folder, masks.name if masks.is_dir() else None)


def _for_bundler(
    source: ExportSource, _: pycolmap.Reconstruction, folder: Path, max_image_size: int
) -> None:
    """images/, bundle.out and list.txt."""
    write_bundler(_undistorted_images(source, folder, max_image_size), folder)


def _for_kapture(
    source: ExportSource, model: pycolmap.Reconstruction, folder: Path, _: int
) -> None:
    """Images as they are, with their cameras, poses and the points."""
    write_kapture(model, source.images, folder)


def _for_hloc(source: ExportSource, model: pycolmap.Reconstruction, folder: Path, _: int) -> None:
    """sfm/ for hloc's localize_sfm, with the features and matches that it was made from.

    Raises:
        ModelError: if the run's features or matches are not there.
    """
    (folder / "sfm").mkdir()
    model.write(folder / "sfm")
    run = source.run
    for path in (run.features, run.matches, run.pairs) if run else ():
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    if run is None or not (folder / run.features.name).is_file():
        raise ModelError(f"{source.model}: has no features beside it; give a run of reconstruct.")


WITH_MASKS = "nerfstudio", "openmvs"
Write = Callable[[ExportSource, pycolmap.Reconstruction, Path, int], None]
TARGETS: dict[str, Write] = {
    "splatting": _for_splatting,
    "nerfstudio": _for_nerfstudio,
    "openmvs": _for_openmvs,
    "kapture": _for_kapture,
    "hloc": _for_hloc,
    "bundler": _for_bundler,
}
