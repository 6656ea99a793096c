"""Masks in dense stereo: undistorted as images are, and without depth where they are black."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from d2_hloc.core.images import ImageError
from d2_hloc.core.photographs.mask_options import MaskOptions
from d2_hloc.core.photographs.masks import save_mask
from d2_hloc.files.colmap import pycolmap
from d2_hloc.mvs.map_files import write_stereo_map
from d2_hloc.mvs.workspace import WorkspaceReader, prepare_workspace, read_workspace

SIZE = (160, 120)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Images through a lens that bends, each white where its mask is."""
    folder = tmp_path_factory.mktemp("masks")
    options = pycolmap.SyntheticDatasetOptions(
        num_rigs=3,
        num_frames_per_rig=1,
        num_points3D=60,
        camera_model_id=pycolmap.CameraModelId.SIMPLE_RADIAL,
        camera_width=SIZE[0],
        camera_height=SIZE[1],
        camera_params=[150.0, 80.0, 60.0, -0.3],
    )
    pycolmap.set_random_seed(0)
    model = pycolmap.synthesize_dataset(options)
    x, y = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    for k, image in enumerate(sorted(model.images.values(), key=lambda image: image.image_id)):
        image.name = f"a/{k}.png"
        shown = ((x // 40 + y // 40 + k) % 2).astype(bool)
        save_mask(folder / "masks" / f"{image.name}.png", shown)
        save_mask(folder / "images" / image.name, shown)
    (folder / "masks" / "a" / "2.png.png").unlink()
    for path in (folder / "images" / "a").iterdir():
        Image.open(path).convert("RGB").save(path)
    (folder / "sparse").mkdir()
    model.write(folder / "sparse")
    given = folder / "sparse", folder / "images", folder / "out"
    masks = MaskOptions(folder=folder / "masks")
    prepare_workspace(*given, 1200, {"masks": str(masks.folder)}, masks)
    return read_workspace(folder / "out", 2)


@pytest.mark.parametrize("name", ["a/0.png", "a/1.png"])
def test_a_mask_is_undistorted_as_its_image_is(workspace, name):
    image = np.asarray(Image.open(workspace.outputs.undistorted_images / name).convert("L"))
    mask = np.asarray(Image.open(workspace.outputs.undistorted_mask(name)))
    assert mask.shape == image.shape
    is_sure = (image < 8) | (image > 247)  # and not at an edge, where the image is grey
    assert is_sure.mean() > 0.8
    assert ((image > 128) == (mask > 0))[is_sure].mean() > 0.999


def test_there_is_no_depth_where_a_mask_is_black(workspace):
    for name in ("a/0.png", "a/2.png"):
        path = workspace.map_path(name, "depth", "photometric")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_stereo_map(path, np.full(workspace.views[name].size, 2.5, np.float32))
    reader = WorkspaceReader(workspace, torch.device("cpu"))
    mask = np.asarray(Image.open(workspace.outputs.undistorted_mask("a/0.png")))
    np.testing.assert_array_equal(reader.depth("a/0.png").numpy(), np.where(mask > 0, 2.5, 0))
    assert not workspace.outputs.undistorted_mask("a/2.png").exists()
    assert (reader.depth("a/2.png") == 2.5).all()


def test_a_mask_that_was_replaced_is_noticed(workspace, tmp_path):
    folder, masks = workspace.folder.parent, MaskOptions(folder=tmp_path / "masks")
    shutil.copytree(folder / "masks", masks.folder)
    given = folder / "sparse", folder / "images", tmp_path / "out", 1200
    configuration = {"masks": {"folder": str(masks.folder)}}
    for _ in range(2):
        prepare_workspace(*given, configuration, masks)
    save_mask(masks.folder / "a" / "0.png.png", np.ones(SIZE[::-1], bool))
    with pytest.raises(ImageError, match=r"a/0\.png: changed since"):
        prepare_workspace(*given, configuration, masks)
