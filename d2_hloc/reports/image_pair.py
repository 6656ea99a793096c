"""Report of two matched images: the matches, and the images laid over each other."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from PIL import Image

from d2_hloc.core.images import open_image
from d2_hloc.core.pixels import to_colmap
from d2_hloc.files.atomic import write_atomically
from d2_hloc.files.colmap import pycolmap
from d2_hloc.files.run_record import RunRecord
from d2_hloc.reports.drawing import draw_matches
from d2_hloc.reports.page import MAX_PICTURE, Report
from d2_hloc.reports.terminal import print_table
from d2_hloc.sfm.image_pair import ImagePair

ALIGNED_WITHIN = 0.01  # of the longest edge: a plane that most of the picture is near to
FEWEST = 8  # inliers that images are aligned by
MAX_LINES = 300
NAMES = {
    "CALIBRATED": "a relative pose",
    "UNCALIBRATED": "a fundamental matrix",
    "PLANAR": "a plane (homography)",
    "PANORAMIC": "a camera that turned on the spot (homography)",
    "PLANAR_OR_PANORAMIC": "a plane, or a camera that turned on the spot (homography)",
    "DEGENERATE": "none: too few matches agree",
}


def pair_rows(pair: ImagePair) -> list[tuple[str, Any]]:
    """Names and values of a pair's numbers."""
    kind = pycolmap.TwoViewGeometryConfiguration(pair.geometry.config).name
    rows: list[tuple[str, Any]] = [
        ("keypoints", " and ".join(f"{count:,}" for count in pair.num_keypoints)),
        ("matches", len(pair.xy0)),
        ("inliers", pair.num_inliers),
        ("geometry", NAMES.get(kind, kind.lower())),
    ]
    pose = pair.geometry.cam2_from_cam1
    if pose is not None and pair.num_inliers:
        angle = np.degrees(pose.rotation.angle())
        rows.append(("rotation between the cameras, deg", float(angle)))
    return rows


def report_pair(pair: ImagePair, record: RunRecord) -> None:
    """Print a pair's numbers; write its matches, their picture and the report."""
    outputs = record.outputs
    record.counts = {
        "keypoints": list(pair.num_keypoints),
        "matches": len(pair.xy0),
        "inliers": pair.num_inliers,
    }
    record.write()
    image0, image1 = (open_image(path) for path in pair.paths)
    drawn = draw_matches(
        image0, image1, pair.xy0, pair.xy1, pair.inliers, max_lines=MAX_LINES, height=720
    )
    write_atomically(outputs.matches_table, pair.to_csv().encode())
    picture = io.BytesIO()
    drawn.save(picture, "JPEG", quality=92, subsampling=0)
    write_atomically(outputs.matches_picture, picture.getvalue())
    names = " and ".join(path.name for path in pair.paths)
    report = Report("Two images", subtitle=names)
    rows = pair_rows(pair)
    report.headline([row for row in rows if row[0] in ("matches", "inliers", "geometry")])
    note = "Inliers are coloured by their place in the first image; red lines do not agree."
    report.picture("Matches", drawn, note=note)
    add_aligned(report, pair, image0, image1)
    report.table("Numbers", rows, columns=("", "value"))
    report.listing("Configuration", json.dumps(record.configuration, indent=1))
    report.write(outputs.report)
    print_table(rows)
    print(*(outputs.matches_table, outputs.matches_picture, outputs.report), sep="\n")


def add_aligned(report: Report, pair: ImagePair, image0: Image.Image, image1: Image.Image) -> None:
    """Add both images to a report, the second as the first one's camera would see its plane."""
    heading, note = "One over the other", "Images are laid over each other by a homography of "
    homography = alignment(pair)
    if homography is None:
        return
    scale = min(1.0, MAX_PICTURE / max(image0.size))
    size = round(image0.width * scale), round(image0.height * scale)
    seen = warped(image1, homography @ np.diag([1 / scale, 1 / scale, 1.0]), size)
    note += "the inliers: what lies beside their main plane is shifted."
    names = pair.paths[0].name, pair.paths[1].name
    report.swipe(heading, image0.resize(size, Image.Resampling.LANCZOS), seen, names, note)


def alignment(pair: ImagePair) -> np.ndarray | None:
    """Homography (3, 3) from image 0 to image 1 of most inliers, COLMAP's pixels, or None."""
    if pair.num_inliers < FEWEST:
        return None
    xy0, xy1 = (to_colmap(xy[pair.inliers].astype(float)) for xy in (pair.xy0, pair.xy1))
    reach = ALIGNED_WITHIN * float(np.ptp(xy1, axis=0).max() + 1)
    options = pycolmap.RANSACOptions(max_error=max(2.0, reach), random_seed=0)
    found = pycolmap.estimate_homography_matrix(xy0, xy1, options)
    if found is None or not np.isfinite(found["H"]).all():
        return None
    homography = np.asarray(found["H"])
    depths = np.column_stack([xy0, np.ones(len(xy0))]) @ homography[2]
    is_before = np.sign(depths) == np.sign(np.median(depths))
    return homography if is_before.all() and abs(np.linalg.det(homography)) > 0 else None


def warped(image: Image.Image, homography: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Image of `size` whose places, through the homography (3, 3), are the given image's.

    Places are COLMAP's: Pillow too puts the first pixel's centre at (0.5, 0.5).
    """
    values = (homography / homography[2, 2]).ravel()[:8].tolist()
    return image.transform(size, Image.Transform.PERSPECTIVE, values, Image.Resampling.BICUBIC)
