"""Frames of a video that is made here: which are taken, and that a blurred one is not."""

import os
import stat
import sys

import numpy as np
import pytest
from PIL import Image, ImageFilter

from d2_hloc.app import cli, video

av = pytest.importorskip("av")
COUNT, EVERY, SHARP = 10, 4, (2, 5, 9)  # frames, and those that are not blurred


def frame_of(k):
    """Noise, blurred in most frames, with the frame's number as its brightness."""
    noise = np.random.default_rng(k).integers(0, 80, (48, 64)).astype(np.uint8) + 15 * k
    image = Image.fromarray(noise.astype(np.uint8))
    return image if k in SHARP else image.filter(ImageFilter.GaussianBlur(3))


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "my film.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "gray"
        for k in range(COUNT):
            frame = av.VideoFrame.from_image(frame_of(k)).reformat(format="gray")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def by_pyav(monkeypatch):
    monkeypatch.setattr(video.shutil, "which", lambda _: None)


def numbers(folder):
    return sorted(int(path.stem[6:]) for path in folder.glob("frame_*.jpg"))


def test_every_fourth_frame_is_written_and_no_other(film, tmp_path, by_pyav):
    assert cli.main(["frames", str(film), str(tmp_path / "out"), "--every", str(EVERY)]) == 0
    assert numbers(tmp_path / "out") == [0, 4, 8]
    found = np.asarray(Image.open(tmp_path / "out" / "frame_000004.jpg").convert("L"), float)
    assert abs(found - np.asarray(frame_of(4), float)).mean() < 3


def test_the_sharpest_of_every_four_is_written(film, tmp_path, by_pyav):
    output = tmp_path / "out"
    arguments = ["frames", str(film), str(output), "--every", str(EVERY), "--sharpest"]
    assert cli.main(arguments) == 0
    assert numbers(output) == list(SHARP)
    kept = output / "frame_000002.jpg"
    (output / "frame_000005.jpg").unlink()  # as after a kill
    before = kept.stat().st_mtime_ns
    assert cli.main(arguments) == 0
    assert numbers(output) == list(SHARP)
    assert kept.stat().st_mtime_ns == before
    assert cli.main([*arguments[:-1]]) == 1  # another rule


@pytest.mark.skipif(os.name != "posix", reason="a script stands in for ffmpeg")
def test_ffmpeg_is_used_where_it_is(film, tmp_path, monkeypatch):
    script = tmp_path / "ffmpeg"
    text = f"#!{sys.executable}\nimport sys\nassert {str(film)!r} in sys.argv[5]\n"
    text += (
        "for k in range(5): sys.stdout.buffer.write(b'P6\\n2 1\\n255\\n' + bytes([50 * k] * 6))\n"
    )
    script.write_text(text)
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert len(video.extract_frames(film, tmp_path / "out", 2)) == 3
    found = np.asarray(Image.open(tmp_path / "out" / "frame_000002.jpg"))
    assert found.shape == (1, 2, 3)
    assert abs(found.astype(int) - 100).max() < 4


def test_what_is_no_video_is_one_sentence(tmp_path, by_pyav, capsys, monkeypatch):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"no video")
    assert cli.main(["frames", str(path), str(tmp_path / "out")]) == 1
    assert "a.mp4: cannot be read as a video (" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "av", None)
    assert cli.main(["frames", str(path), str(tmp_path / "out")]) == 1
    assert "install ffmpeg, or pip install av" in capsys.readouterr().err
