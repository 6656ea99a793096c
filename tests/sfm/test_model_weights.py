"""Queries are extracted with the weights of their model, or not at all."""

import json

import h5py
import pytest

from d2_hloc.features.options import ExtractionOptions
from d2_hloc.files.colmap import ModelError
from d2_hloc.sfm import localize


@pytest.mark.parametrize("key", ["weights_sha256", "projection_sha256"])
def test_other_weights_at_the_same_path_are_refused(tmp_path, monkeypatch, key):
    path = tmp_path / "features.h5"
    with h5py.File(path, "w") as file:
        file.attrs["configuration"] = json.dumps({"feature": "d2net", key: "aaaa"})
    now = {key: "bbbb", "a later option": 1}
    monkeypatch.setattr(localize, "extraction_configuration", lambda _: now)
    with pytest.raises(ModelError, match=r"features\.h5: .* other weights .*aaaa.*bbbb.*--weights"):
        localize.check_same_weights(ExtractionOptions(), path)
    now[key] = "aaaa"
    localize.check_same_weights(ExtractionOptions(), path)
