"""hloc's triangulation under today's pycolmap, and retrieval by our global descriptors."""

import h5py
import pytest
from hloc_toolbox import STOOD_IN, Toolbox, photographs
from synthetic import synthesize

from d2_hloc.files.colmap import read_model
from d2_hloc.matching.pairs import write_pairs

TRIANGULATE = """
import sys, zlib
from pathlib import Path
import d2_hloc
if sys.argv[2] == "ours":
    d2_hloc.register()
    d2_hloc.register()
from hloc import triangulation
folder = Path(sys.argv[1])
paths = [folder / name for name in ("ref", "images", "pairs.txt", "features.h5", "matches.h5")]
model = triangulation.main(folder / sys.argv[2], *paths)
print("points", model.num_points3D())
"""


@pytest.fixture(scope="module", params=["stand-in", "real"])
def toolbox(request):
    return Toolbox.named(request.param)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return photographs(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A model without its points, and hloc's files that lead to them."""
    folder = tmp_path_factory.mktemp("hloc")
    scene = synthesize(folder, num_images=4, noise=0.2)
    write_pairs(folder / "pairs.txt", scene.pairs)
    for name in ("ref", "images"):
        (folder / name).mkdir()
    scene.model.write(folder / "ref")
    return folder


def test_hlocs_triangulation_has_points_with_ours_registered(toolbox, scene):
    done = toolbox.python(TRIANGULATE, scene, "ours")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 140  # of 150


def test_without_it_there_is_none(scene):
    """If this fails, hloc or COLMAP has mended it, and geometries.py can go."""
    done = STOOD_IN.python(TRIANGULATE, scene, "theirs")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "0"


def test_the_command_triangulates(toolbox, scene):
    files = {"sfm_dir": "out", "reference_sfm_model": "ref", "image_dir": "images"}
    files |= {"pairs": "pairs.txt", "features": "features.h5", "matches": "matches.h5"}
    arguments = [part for key, name in files.items() for part in (f"--{key}", scene / name)]
    done = toolbox.command("triangulation", *arguments)
    assert done.returncode == 0, done.stderr
    assert read_model(scene / "out").num_points3D() > 140


def test_retrieval_takes_our_global_descriptors(images, tmp_path):
    arguments = "--images", images, "--outputs", tmp_path
    done = STOOD_IN.command("pipelines.Tiny.retrieval", "--retrieval", "d2net", *arguments)
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "global-feats-d2net-ots.h5") as file:
        found = {name: file[name]["global_descriptor"][()].astype(float) for name in file}
        assert set(file["a.png"]) == {"global_descriptor", "image_size"}
    assert found["a.png"].shape == (512,)
    assert found["a.png"] @ found["b.png"] > found["a.png"] @ found["wide.png"]
    done = STOOD_IN.command("pipelines.Tiny.retrieval", "--retrieval", "d3net", *arguments)
    assert "no conf 'd3net'; known are" in done.stderr
