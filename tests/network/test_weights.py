"""Loading weights of every published form, safely; refusing others in a sentence."""

import argparse
import os
import pickle
import socket
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from d2_hloc.files.provenance import file_sha256
from d2_hloc.network.backbone import LAYERS, Backbone
from d2_hloc.network.d2net import D2Net
from d2_hloc.network.options import D2NetOptions
from d2_hloc.network.weights import download
from d2_hloc.network.weights.catalogue import BUNDLED, WeightsError, absolute_source, cache_folder
from d2_hloc.network.weights.download import download_weights, private_folder
from d2_hloc.network.weights.files import load_weights
from d2_hloc.network.weights.state import PUBLISHED_KEY, to_published

INDICES = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21]  # formats.md


@pytest.fixture(scope="module")
def bundled():
    return load_weights("d2_ots")


@pytest.fixture(scope="module")
def published(bundled):
    """The state in the authors' names."""
    return {
        f"{PUBLISHED_KEY}{index}.{kind}": bundled[f"{name}.{kind}"]
        for name, index in zip(LAYERS, INDICES, strict=True)
        for kind in ("weight", "bias")
    }


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("D2_HLOC_CACHE", str(folder))
    return folder


def saved(path, value, **options):
    torch.save(value, path, **options)
    return path


def assert_same_state(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def assert_refused(path, *expected):
    with pytest.raises(WeightsError) as error:
        load_weights(str(path))
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert text.endswith(".")
    assert "\n" not in text
    for part in expected:
        assert part in text


def test_the_bundled_weights_fill_the_trunk(bundled):
    backbone = Backbone()
    backbone.load_state_dict(bundled)  # strict: nothing is missing and nothing too many
    assert all(value.isfinite().all() for value in backbone.parameters())
    assert bundled["conv1_1.weight"].dtype == torch.float32


def test_the_bundled_file_is_the_one_that_the_reference_was_made_with(shared):
    ours = BUNDLED["d2_ots"]
    assert file_sha256(ours) == file_sha256(shared / "weights" / "d2_ots.safetensors")


def checkpoint(state):
    """A checkpoint as the authors' training script saves it."""
    return {
        "epoch_idx": 3,
        "train_loss_history": [np.float64(0.25), np.float64(0.125)],
        "validation_loss_history": [np.float32(0.5)],
        "model": state,
        "args": argparse.Namespace(lr=1e-3, preprocessing="caffe", plot=False, scenes=None),
    }


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_published_checkpoint_loads_safely(tmp_path, bundled, published, is_zip):
    path = tmp_path / "d2_tf.pth"
    saved(path, checkpoint(published), _use_new_zipfile_serialization=is_zip)
    assert_same_state(load_weights(str(path)), bundled)


def test_a_checkpoint_of_numpy_1_loads_too(tmp_path, bundled, published):
    new = saved(tmp_path / "new.pth", checkpoint(published))
    names = set()
    with zipfile.ZipFile(new) as source, zipfile.ZipFile(tmp_path / "old.pth", "w") as target:
        for item in source.infolist():
            data = source.read(item)
            if item.filename.endswith("data.pkl"):
                names |= {name for name in (b"numpy._core", b"numpy.core") if name in data}
                data = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            target.writestr(item.filename, data)
    assert names  # or nothing was made old
    assert_same_state(load_weights(str(tmp_path / "old.pth")), bundled)


def test_a_checkpoint_of_parallel_training_and_of_half_precision_loads(
    tmp_path, published, bundled
):
    state = {f"module.{name}": value.half() for name, value in published.items()}
    found = load_weights(str(saved(tmp_path / "a.pth", {"model": state})))
    assert found["conv4_3.bias"].dtype == torch.float32
    torch.testing.assert_close(
        found["conv4_3.weight"], bundled["conv4_3.weight"], atol=1e-4, rtol=0
    )


def test_layers_of_vgg16_beyond_the_trunk_are_left_out(tmp_path, published, bundled):
    state = published | {f"{PUBLISHED_KEY}24.weight": torch.zeros(512, 512, 3, 3)}
    assert_same_state(load_weights(str(saved(tmp_path / "a.pth", {"model": state}))), bundled)


def test_torchvisions_form_takes_rgb_and_gives_the_same_features(tmp_path, published, photo):
    state = {k.replace(PUBLISHED_KEY, "features."): v.clone() for k, v in published.items()}
    state["features.0.weight"] = state["features.0.weight"][:, [2, 1, 0]]
    path = saved(tmp_path / "vgg16.pth", state)
    image = photo[:, 60:120, 80:151]
    ours = D2Net().extract(image)
    theirs = D2Net(D2NetOptions(weights=str(path))).extract(image)
    assert len(ours) > 3
    assert torch.equal(theirs.keypoints, ours.keypoints)
    assert torch.equal(theirs.descriptors, ours.descriptors)


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("is_zip", [True, False])
def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path, published, is_zip):
    marker, path = tmp_path / "it-ran", tmp_path / "bad.pth"
    state = {"model": published, "args": Malicious(marker)}
    saved(path, state, _use_new_zipfile_serialization=is_zip)
    assert_refused(path, "refused, since it", "more than tensors")
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # it would have run


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_plain_pickle_is_refused_and_does_not_run(tmp_path):
    marker, path = tmp_path / "it-ran", tmp_path / "bad.pth"
    path.write_bytes(pickle.dumps(Malicious(marker)))
    assert_refused(path)
    assert not marker.exists()


@pytest.mark.parametrize("kept", [0, 3, 30, 300, 10_000, 15_000_000])
@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_a_truncated_file_is_refused(tmp_path, published, kept, kind):
    whole, path = tmp_path / "whole", tmp_path / "cut.pth"
    if kind == "safetensors":
        whole, path = BUNDLED["d2_ots"], tmp_path / "cut.safetensors"
    else:
        saved(whole, {"model": published}, _use_new_zipfile_serialization=kind == "zip")
    assert kept < whole.stat().st_size
    path.write_bytes(whole.read_bytes()[:kept])
    assert_refused(path)


@pytest.mark.parametrize(
    "content", [b"<!DOCTYPE html>\n<title>404</title>", b"\x80\x02}q\x00(h\x07K\x00.", b"\0" * 5000]
)
def test_a_file_of_something_else_is_refused(tmp_path, content):
    (tmp_path / "page.pth").write_bytes(content)
    assert_refused(tmp_path / "page.pth")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damaged_pickles_are_refused_whatever_they_raise(tmp_path, published):
    small = {"model": {name: value[:1].clone() for name, value in published.items()}}
    path = saved(tmp_path / "a.pth", small, _use_new_zipfile_serialization=False)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for _ in range(100):
        data = np.frombuffer(whole, np.uint8).copy()
        data[random.integers(0, 3000, 3)] = random.integers(0, 256, 3)
        path.write_bytes(data.tobytes())
        assert_refused(path)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, 2], "holds a list, not a state dictionary"),
        (torch.zeros(3), "holds a Tensor, not a state dictionary"),
        ({}, "features.0.weight is missing, expected (64, 3, 3, 3)"),
        ({0: torch.zeros(3)}, "features.0.weight is missing"),
        ({"model": {"a": torch.zeros(3)}}, "features.0.weight is missing"),
        ({"model": None, "features.0.weight": 3}, "features.0.weight is missing"),
    ],
)
def test_what_is_no_state_is_refused(tmp_path, value, expected):
    assert_refused(saved(tmp_path / "a.pth", value), expected)


def test_a_missing_layer_is_named(tmp_path, published):
    key = f"{PUBLISHED_KEY}19.bias"
    state = {name: value for name, value in published.items() if name != key}
    assert_refused(saved(tmp_path / "a.pth", state), f"{key} is missing, expected (512,)")


def test_a_layer_of_another_shape_is_named(tmp_path, published):
    key = f"{PUBLISHED_KEY}17.weight"
    state = published | {key: torch.zeros(512, 512, 3, 3)}
    path = saved(tmp_path / "a.pth", state)
    expected = f"{key} is of shape (512, 512, 3, 3), expected (512, 256, 3, 3)"
    assert_refused(path, "not a D2-Net or VGG16 checkpoint", expected)


@pytest.mark.parametrize("text", ["", "no digest\n", "\xff"])
def test_a_record_without_a_digest_is_named(cache, remote, text):
    path = download_weights("d2_tf", url=remote.as_uri())
    path.with_suffix(".sha256").write_text(text)
    with pytest.raises(WeightsError, match=r"d2_tf\.sha256: holds no SHA-256; delete it"):
        load_weights("d2_tf")


@pytest.mark.parametrize("source", ["mine.pth", "a/mine", "./mine", "/a/mine.pth"])
def test_a_path_is_absolute_in_the_options_and_a_name_is_a_name(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert D2NetOptions(weights=source).weights == str(tmp_path / source)
    assert absolute_source("d2_tf_no_phototourism") == "d2_tf_no_phototourism"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(WeightsError, match=r"d3_ots: there is no such file.* d2_ots, d2_tf,"):
        load_weights("d3_ots")


def test_a_folder_is_no_checkpoint(tmp_path):
    assert_refused(tmp_path, "there is no such file")


def test_weights_that_are_not_downloaded_say_how_to_get_them(cache):
    with pytest.raises(WeightsError) as error:
        load_weights("d2_tf")
    assert str(error.value) == (
        f"{cache / 'd2_tf.pth'}: the weights d2_tf are not here; run 'd2-hloc weights d2_tf', "
        "or put https://dusmanu.com/files/d2-net/d2_tf.pth there."
    )
    assert not cache.exists()  # asking makes nothing


def test_weights_put_into_the_cache_by_hand_load_and_are_said_to_be_unverified(
    cache, published, bundled, caplog
):
    cache.mkdir()
    path = saved(cache / "d2_tf.pth", {"model": published})
    assert_same_state(load_weights("d2_tf"), bundled)
    (message,) = caplog.messages
    assert message == (
        f"{path}: is not verified, since there is no d2_tf.sha256 beside it; its SHA-256 is "
        f"{file_sha256(path)}."
    )


def test_the_cache_is_in_the_home_folder_unless_it_is_named(cache, monkeypatch, tmp_path):
    assert cache_folder() == cache
    monkeypatch.setenv("D2_HLOC_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "d2_hloc"


@pytest.fixture
def remote(tmp_path, published):
    return saved(tmp_path / "remote.pth", {"model": published})


@pytest.mark.parametrize("length", [None, 8, 64])
def test_a_download_with_the_right_digest_is_kept_and_loads_by_name(
    cache, remote, bundled, length, caplog
):
    sha256 = file_sha256(remote)[:length].upper() if length else None
    path = download_weights("d2_tf", sha256, remote.as_uri())
    assert path == cache / "d2_tf.pth"
    assert sorted(p.name for p in cache.iterdir()) == ["d2_tf.pth", "d2_tf.sha256"]
    assert_same_state(load_weights("d2_tf"), bundled)
    assert caplog.messages == []


def test_a_published_digest_is_asked_for_without_being_given(cache, remote):
    with pytest.raises(WeightsError, match=rf"SHA-256 is {file_sha256(remote)}, not 88682ab5"):
        download_weights("vgg16_imagenet_features", url=remote.as_uri())
    assert list(cache.iterdir()) == []


def test_a_wrong_digest_is_refused_and_nothing_stays(cache, remote):
    with pytest.raises(WeightsError, match=r"d2_tf\.part: its SHA-256 is [0-9a-f]{64}, not 0123"):
        download_weights("d2_tf", "0123", remote.as_uri())
    assert list(cache.iterdir()) == []


def test_a_refused_download_leaves_the_old_one_alone(cache, remote, bundled):
    download_weights("d2_tf", url=remote.as_uri())
    with pytest.raises(WeightsError, match="SHA-256"):
        download_weights("d2_tf", "0123", remote.as_uri())
    assert_same_state(load_weights("d2_tf"), bundled)


def test_a_download_of_something_else_is_refused_and_nothing_stays(cache, tmp_path):
    (tmp_path / "page.html").write_text("<html>moved</html>")
    with pytest.raises(WeightsError, match="refused"):
        download_weights("d2_tf", url=(tmp_path / "page.html").as_uri())
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("url", ["file:///none/such.pth", "no-address", "ftp:///", "http://[bad"])
def test_an_address_that_leads_nowhere_is_named(cache, url):
    with pytest.raises(WeightsError) as error:
        download_weights("d2_tf", url=url)
    assert str(error.value).startswith(f"{url}: cannot be downloaded (")
    assert "fetch it on another machine" in str(error.value)
    assert list(cache.iterdir()) == []


def test_only_known_names_are_downloads(cache):
    with pytest.raises(WeightsError, match="d2_ots: not a download; known are d2_tf,"):
        download_weights("d2_ots")


@pytest.mark.parametrize("digest", ["", " ", "xyz", "0" * 65])
def test_a_digest_that_is_none_is_refused(cache, remote, digest):
    with pytest.raises(WeightsError, match="is no SHA-256 in hexadecimal"):
        download_weights("d2_tf", digest, remote.as_uri())
    assert not cache.exists()


@pytest.mark.parametrize("name", ["d2_tf.part", "d2_tf.pth", "d2_tf.sha256"])
def test_a_link_in_the_cache_does_not_lead_a_download_elsewhere(cache, remote, tmp_path, name):
    cache.mkdir()
    (tmp_path / "precious").write_text("mine")
    (cache / name).symlink_to(tmp_path / "precious")
    path = download_weights("d2_tf", url=remote.as_uri())
    assert (tmp_path / "precious").read_text() == "mine"
    assert path.read_bytes() == remote.read_bytes()
    assert not path.is_symlink()


def test_a_link_in_place_of_the_new_file_is_not_followed(tmp_path, remote):
    (tmp_path / "part").symlink_to(tmp_path / "precious")
    with pytest.raises(WeightsError, match=r"cannot be downloaded .*File exists"):
        download.fetch_file(remote.as_uri(), tmp_path / "part")
    assert not (tmp_path / "precious").exists()


def test_only_https_is_asked(cache, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("asked the network"))
    with pytest.raises(WeightsError, match="is an address of http, and not of https"):
        download_weights("d2_tf", url="http://example.org/d2_tf.pth")


class Redirects(BaseHTTPRequestHandler):
    """Leads to another address."""

    target = "http://127.0.0.1:1/d2_tf.pth"

    def do_GET(self):
        self.send_response(302)
        self.send_header("Location", self.target)
        self.end_headers()

    def log_message(self, *_): ...


def test_a_redirect_to_http_is_refused(cache, monkeypatch):
    """The first server stands for one of https."""
    with HTTPServer(("127.0.0.1", 0), Redirects) as server:
        first = f"http://127.0.0.1:{server.server_port}/d2_tf.pth"
        check = download.check_scheme
        monkeypatch.setattr(download, "check_scheme", lambda url: url == first or check(url))
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(WeightsError) as error:
            download_weights("d2_tf", url=first)
        thread.join()
    assert f"({Redirects.target} is an address of http, and not of https)" in str(error.value)
    assert list(cache.iterdir()) == []


def test_others_may_read_a_download_as_they_may_the_users_files(cache, remote, tmp_path):
    (tmp_path / "ordinary").touch()
    path = download_weights("d2_tf", url=remote.as_uri())
    assert path.stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_an_interrupted_download_leaves_nothing(cache, remote, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "file_sha256", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download_weights("d2_tf", url=remote.as_uri())
    assert list(cache.iterdir()) == []


class CutsShort(BaseHTTPRequestHandler):
    """Announces more than it sends."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.wfile.write(b"PK\x03\x04" * 100)

    def log_message(self, *_): ...


def test_a_connection_that_breaks_off_leaves_nothing(cache, monkeypatch):
    monkeypatch.setattr(download, "SCHEMES", ("http",))
    with HTTPServer(("127.0.0.1", 0), CutsShort) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(WeightsError, match="the connection broke off after 400 bytes"):
            download_weights("d2_tf", url=f"http://127.0.0.1:{server.server_port}/d2_tf.pth")
        thread.join()
    assert list(cache.iterdir()) == []


REPLIES = {
    "a page": ({}, b"<html>Sign in to go on</html>"),
    "code": ({}, pickle.dumps(os.system, protocol=2)),
    "nothing": ({}, b""),
    "too much": ({}, bytes(2000)),
    "no length": ({"Content-Length": "many"}, bytes(9)),
    "less than nothing": ({"Content-Length": "-9"}, bytes(9)),
    "a name of its own": ({"Content-Disposition": "attachment; filename=../../x"}, bytes(9)),
}


@pytest.mark.parametrize("kind", REPLIES)
def test_a_reply_that_is_no_weights_leaves_nothing(cache, monkeypatch, kind):
    headers, content = REPLIES[kind]

    class Replies(CutsShort):
        def do_GET(self):
            self.send_response(200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    monkeypatch.setattr(download, "SCHEMES", ("http",))
    monkeypatch.setattr(download, "LARGEST", 1000)
    cache.mkdir(exist_ok=True)
    around = sorted(cache.parent.rglob("*"))
    with HTTPServer(("127.0.0.1", 0), Replies) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(WeightsError) as error:
            download_weights("d2_tf", url=f"http://127.0.0.1:{server.server_port}/d2_tf.pth")
        thread.join()
    assert len(str(error.value).splitlines()) == 1
    assert sorted(cache.parent.rglob("*")) == around


def test_a_downloaded_file_that_was_changed_is_noticed_when_it_loads(cache, remote, published):
    path = download_weights("d2_tf", url=remote.as_uri())
    changed = published | {f"{PUBLISHED_KEY}0.bias": torch.zeros(64)}
    saved(path, {"model": changed})  # as valid a checkpoint as before
    assert_refused_by_name("d2_tf", path)


def assert_refused_by_name(name, path):
    with pytest.raises(WeightsError, match="it was changed or cut short; download it again") as e:
        load_weights(name)
    assert str(e.value).startswith(f"{path}: its SHA-256 is ")


def test_a_state_under_the_authors_names_loads_again(tmp_path):
    state = load_weights("d2_ots")
    save_file(to_published(state), tmp_path / "mine.safetensors")
    torch.save({"model": to_published(state), "epoch": 3}, tmp_path / "mine.pth")
    for name in ("mine.safetensors", "mine.pth"):
        found = load_weights(str(tmp_path / name))
        assert all(torch.equal(found[key], state[key]) for key in state)


def test_what_killed_downloads_left_is_deleted_a_day_later(tmp_path):
    old, new = tmp_path / ".download-old", tmp_path / ".download-new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "w.part").touch()
    os.utime(old, (0, 0))
    with private_folder(tmp_path / "w.pth") as folder:
        assert folder.is_dir()
        assert not old.exists()
        assert new.exists()
