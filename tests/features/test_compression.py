"""Compressed features: what stays, what hloc reads, and that matching goes on from them."""

import shutil

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from d2_hloc.app import cli
from d2_hloc.core import config
from d2_hloc.core.structs import Features
from d2_hloc.features.compression import compress, compression_configuration
from d2_hloc.features.extraction import extraction_configuration
from d2_hloc.features.options import CompressionOptions, ExtractionOptions
from d2_hloc.features.projection import learn_projection, save_projection
from d2_hloc.files import features_h5
from d2_hloc.files.features_h5 import StorageError
from d2_hloc.files.provenance import ConfigurationChanged
from d2_hloc.files.staged_h5 import Staged
from d2_hloc.matching.match_pairs import match
from d2_hloc.matching.options import MatchingOptions

NAMES = ["a.jpg", "db/b.jpg"]


@pytest.fixture
def features(tmp_path):
    """Two images of the same 40 descriptors, the second in reverse and with noise."""
    generator = torch.Generator().manual_seed(0)
    descriptors = F.normalize(torch.rand(40, 32, generator=generator) ** 4)
    noisy = F.normalize(descriptors.flip(0) + 0.01 * torch.rand(40, 32, generator=generator))
    path = tmp_path / "features.h5"
    with Staged(path, {"feature": "planted"}, "keypoints") as staged:
        for name, found in zip(NAMES, (descriptors, noisy), strict=True):
            features = Features(
                keypoints=torch.rand(40, 2, generator=generator),
                scores=torch.ones(40),
                descriptors=found,
                scales=torch.ones(40),
                global_descriptor=torch.ones(4),
            )
            record = features_h5.features_record(features, (64, 48), 1.5, "float16", (7, 8))
            staged.add(name, record)
        staged.failures["c.jpg"] = "cannot be read"
    return path


@pytest.fixture
def projection(features, tmp_path):
    return save_projection(tmp_path / "p.safetensors", learn_projection(features))


@pytest.mark.parametrize("dimensions", [None, 8])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_the_rest_stays_and_the_planted_matches_are_found(
    features, projection, tmp_path, dimensions, dtype
):
    file = projection if dimensions else None
    options = CompressionOptions(dimensions=dimensions, dtype=dtype, projection=file)
    path = compress(options, features, tmp_path / "small.h5").path
    assert features_h5.read_failures(path) == {"c.jpg": "cannot be read"}
    with h5py.File(features) as before, h5py.File(path) as after:
        for name in NAMES:
            assert set(before[name]) == set(after[name])
            for key in set(before[name]) - {"descriptors"}:
                assert (before[name][key][()] == after[name][key][()]).all()
                assert dict(before[name][key].attrs) == dict(after[name][key].attrs)
            assert after[name]["descriptors"].shape == (dimensions or 32, 40)
            assert after[name]["descriptors"].dtype == dtype
    for name in NAMES:
        lengths = features_h5.read_features(path, name).descriptors.float().norm(dim=1)
        torch.testing.assert_close(lengths, torch.ones(40), atol=2e-3, rtol=0)
    matches = match(MatchingOptions(), [tuple(NAMES)], path, tmp_path / "m.h5").path
    found = features_h5.read_matches(matches, *NAMES).pairs
    assert found.tolist() == [[i, 39 - i] for i in range(40)]


def test_hloc_reads_whole_numbers_of_one_scale(features, tmp_path):
    """Neighbours by dot product, as hloc's, are the same as those of unit descriptors."""
    path = compress(CompressionOptions(), features, tmp_path / "small.h5").path
    with h5py.File(path) as file:
        read = [torch.from_numpy(file[n]["descriptors"].__array__()).float() for n in NAMES]
        scales = [file[n]["descriptors"].attrs["scale"] for n in NAMES]
        assert file[NAMES[0]]["descriptors"].attrs["meaning"] == features_h5.INT8_MEANING
    assert all(d.abs().max() == 127 for d in read)
    nearest = (read[0].T @ read[1]).argmax(dim=1)
    assert nearest.tolist() == list(range(39, -1, -1))
    original = features_h5.read_features(features, NAMES[0]).descriptors.float()
    torch.testing.assert_close(read[0].T / scales[0], original, atol=0.51 / scales[0], rtol=0)


def test_a_resumed_run_goes_on_and_another_configuration_stops(features, tmp_path):
    path = compress(CompressionOptions(), features, tmp_path / "small.h5").path
    before = path.stat().st_mtime_ns
    assert compress(CompressionOptions(), features, path).path.stat().st_mtime_ns == before
    with pytest.raises(ConfigurationChanged, match=r'"int8".*"float16"'):
        compress(CompressionOptions(dtype="float16"), features, path)


def test_a_projection_that_changed_is_another_configuration(features, projection, tmp_path):
    options = CompressionOptions(dimensions=8, projection=projection)
    path = compress(options, features, tmp_path / "small.h5").path
    save_projection(projection, learn_projection(features, roots=False))
    with pytest.raises(ConfigurationChanged, match="projection_sha256"):
        compress(options, features, path)


def test_what_cannot_be_compressed_is_one_sentence(features, projection, tmp_path):
    small = compress(CompressionOptions(), features, tmp_path / "small.h5").path
    with pytest.raises(StorageError, match=r"small\.h5: is compressed already"):
        compress(CompressionOptions(), small, tmp_path / "smaller.h5")
    with pytest.raises(ValueError, match="would be written over"):
        compress(CompressionOptions(), features, features)
    bundled = CompressionOptions(dimensions=64)
    with pytest.raises(ValueError, match="of 32 numbers cannot be projected"):
        compress(bundled, features, tmp_path / "other.h5")
    options = CompressionOptions(dimensions=33, projection=projection)
    with pytest.raises(ValueError, match="from 1 to 32, not 33"):
        compress(options, features, tmp_path / "other.h5")
    with pytest.raises(ValueError, match="needs dimensions"):
        CompressionOptions(projection=projection)
    with pytest.raises(ValueError, match="dimensions must be from 1 to 256, not 0"):
        CompressionOptions(dimensions=0)


def test_descriptors_of_two_projections_are_not_matched(features, projection, tmp_path):
    other = save_projection(tmp_path / "other.safetensors", learn_projection(features, roots=False))
    paths = [
        compress(
            CompressionOptions(dimensions=8, projection=p), features, tmp_path / f"{k}.h5"
        ).path
        for k, p in enumerate((projection, other))
    ]
    with pytest.raises(StorageError, match=r"1\.h5: its descriptors are of another projection"):
        match(MatchingOptions(), [tuple(NAMES)], paths[0], tmp_path / "m.h5", paths[1])
    with pytest.raises(StorageError, match="of another projection"):
        match(MatchingOptions(), [tuple(NAMES)], paths[0], tmp_path / "m.h5", features)


def test_a_file_says_the_same_whether_extracted_or_compressed(features):
    """So that images are added, and queries extracted, in the same way."""
    plain, small = ExtractionOptions(), CompressionOptions(dimensions=64)
    extracted = extraction_configuration(ExtractionOptions(compression=small))
    assert extracted == extraction_configuration(plain) | compression_configuration(small)
    assert extracted != extraction_configuration(plain)
    assert compression_configuration(None) == {}


def test_the_command_learns_a_projection_once(features, tmp_path, capsys):
    file = tmp_path / "own.safetensors"
    arguments = ["compress", str(features), "--dimensions", "8", "--projection", str(file)]
    assert cli.main([*arguments, str(tmp_path / "small.h5")]) == 0
    learned = file.read_bytes()
    assert cli.main([*arguments, str(tmp_path / "again.h5"), "--dtype", "float16"]) == 0
    assert file.read_bytes() == learned
    assert features_h5.read_features(tmp_path / "again.h5", NAMES[0]).descriptors.shape == (40, 8)
    assert cli.main(["compress", str(features), str(tmp_path / "small.h5")]) == 1
    assert "was made with another configuration" in capsys.readouterr().err


def test_a_configuration_can_ask_for_it():
    asked = {"compression": {"dimensions": 128, "dtype": "float16"}}
    found = config.from_dict(ExtractionOptions, asked).compression
    assert found == CompressionOptions(dimensions=128, dtype="float16")
    with pytest.raises(config.ConfigError, match="compression: dtype: 'int4' is not one of"):
        config.from_dict(ExtractionOptions, {"compression": {"dtype": "int4"}})


def copy_with(features, path, change):
    shutil.copy(features, path)
    with h5py.File(path, "a") as file:
        change(file, features_h5.extracted_names(features)[0])
    return path


def set_to(file, name, dataset, values):
    attributes = dict(file[name][dataset].attrs)
    del file[name][dataset]
    file[name][dataset] = values
    file[name][dataset].attrs.update(attributes)


def test_other_features_of_the_same_names_are_refused(features, tmp_path):
    def move(file, name):
        file[name]["keypoints"][...] = file[name]["keypoints"][()] + 1

    options = CompressionOptions(dtype="int8")
    output = compress(options, features, tmp_path / "out.h5").path
    moved = copy_with(features, tmp_path / "moved.h5", move)
    with pytest.raises(features_h5.StorageError, match="was made from other features of"):
        compress(options, moved, output)


def test_features_without_descriptors_are_named(features, tmp_path):
    def strip(file, name):
        del file[name]["descriptors"]

    bare = copy_with(features, tmp_path / "bare.h5", strip)
    with pytest.raises(
        features_h5.StorageError, match=r"bare.h5: has keypoints and no descriptors of"
    ):
        compress(CompressionOptions(), bare, tmp_path / "out.h5")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda d: np.full_like(d, np.nan), "are not all finite numbers; extract it again"),
        (lambda d: d[0], "its descriptors are of shape .*, not of 2 dimensions; extract it again"),
    ],
)
def test_descriptors_that_teach_nothing_are_named(features, tmp_path, change, text):
    def spoil(file, name):
        set_to(file, name, "descriptors", change(file[name]["descriptors"][()]))

    with pytest.raises(ValueError, match=text):
        learn_projection(copy_with(features, tmp_path / "spoilt.h5", spoil))
