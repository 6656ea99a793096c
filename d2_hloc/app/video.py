"""Frames of a video as photographs: every n-th, or the sharpest of every n."""

from __future__ import annotations

import importlib
import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from d2_hloc.core.images import fit
from d2_hloc.files.atomic import write_whole
from d2_hloc.files.provenance import note_configuration

RECORD = "frames.json"  # beside the frames: what they were taken from
QUALITY = 95  # of the JPEG files
LOOKED_AT = 640  # pixels of the longest edge, at which sharpness is compared


class VideoError(ValueError):
    """A video that cannot be used; the text names the file and the remedy."""


def extract_frames(video: Path, output: Path, every: int, is_sharpest: bool = False) -> list[Path]:
    """Write one of every `every` frames into a folder, as frame_NNNNNN.jpg, by its number from 0.

    It is the first of them, or the sharpest. Frames that are there already are left alone.

    Raises:
        VideoError: if the video cannot be read, or nothing that reads it is installed.
        ConfigurationChanged: if the folder holds frames of another video or rule.
        ValueError: for a rule that is none, or a link in the folder.
    """
    if every < 1:
        raise ValueError(f"--every is {every}; it takes a number from 1 on.")
    if not video.is_file():
        raise VideoError(f"{video}: there is no such video.")
    frames = read_frames(video)
    taken_from = {"video": str(video.resolve()), "bytes": video.stat().st_size}
    rule = {"every": every, "sharpest": is_sharpest}
    note_configuration(output, taken_from | rule, RECORD)
    written: list[Path] = []
    best: tuple[float, int, Image.Image] | None = None
    progress = tqdm(frames, desc="frames", unit="frame")
    for number, frame in enumerate(progress):
        if number % every == 0 and best is not None:
            written.append(_write(output, best[1], best[2]))
            best = None
        if best is None or is_sharpest:
            score = sharpness(frame) if is_sharpest else 0.0
            best = max((score, number, frame), best or (-1.0, 0, frame), key=lambda found: found[0])
    if best is None:
        raise VideoError(f"{video}: holds no frame that can be read.")
    return [*written, _write(output, best[1], best[2])]


def sharpness(frame: Image.Image) -> float:
    """Variance of the Laplacian of an image's brightness, at a reduced size."""
    grey = np.asarray(frame.convert("L").resize(fit(frame.size, LOOKED_AT)), dtype=np.float64)
    inner = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4 * inner).var()) if inner.size else 0.0


def read_frames(video: Path) -> Iterator[Image.Image]:
    """Frames of a video in order, the right way up, by ffmpeg where it is, else by PyAV.

    Raises:
        VideoError: if there is neither, or the video cannot be read.
    """
    program = shutil.which("ffmpeg")
    if program is not None:
        return _by_ffmpeg(program, video)
    try:
        av = importlib.import_module("av")
    except ImportError as error:
        raise VideoError(
            f"{video}: nothing here reads videos; install ffmpeg, or pip install av."
        ) from error
    return _by_pyav(av, video)


def _by_ffmpeg(program: str, video: Path) -> Iterator[Image.Image]:
    command = [program, "-v", "error", "-nostdin", "-i", f"file:{video}", "-f", "image2pipe"]
    command += ["-c:v", "ppm", "-pix_fmt", "rgb24", "-fps_mode", "passthrough", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        count = 0
        try:
            while (frame := _read_ppm(process.stdout)) is not None:
                count += 1
                yield frame
        finally:
            process.kill()
        if not count:
            reason = process.stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise VideoError(f"{video}: cannot be read as a video ({reason}).")


def _read_ppm(stream: IO[bytes]) -> Image.Image | None:
    """The next picture of a stream of them, as ffmpeg writes it; None at its end."""
    header = [stream.readline() for _ in range(3)]
    if header[0].strip() != b"P6":
        return None
    width, height = map(int, header[1].split())
    data = stream.read(3 * width * height)
    return (
        Image.frombytes("RGB", (width, height), data) if len(data) == 3 * width * height else None
    )


def _by_pyav(av: Any, video: Path) -> Iterator[Image.Image]:
    try:
        with av.open(str(video)) as container:
            if not container.streams.video:
                raise VideoError(f"{video}: has no pictures.")
            for frame in container.decode(video=0):
                image = frame.to_image()
                quarters = round(getattr(frame, "rotation", 0) / 90) % 4  # counter-clockwise
                yield image.rotate(90 * quarters, expand=True) if quarters else image
    except av.FFmpegError as error:
        raise VideoError(f"{video}: cannot be read as a video ({error.strerror}).") from error


def _write(output: Path, number: int, frame: Image.Image) -> Path:
    path = output / f"frame_{number:06d}.jpg"
    if not path.is_file():
        buffer = io.BytesIO()
        frame.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
        write_whole(path, buffer.getvalue())
    return path
