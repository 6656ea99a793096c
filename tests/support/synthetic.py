"""Exact models to test geometry with: COLMAP's synthetic scene as images' features and matches."""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from d2_hloc.core.pixels import from_colmap
from d2_hloc.core.structs import Features, Matches
from d2_hloc.files import features_h5
from d2_hloc.files.colmap import camera_of, pycolmap
from d2_hloc.files.staged_h5 import Staged
from d2_hloc.sfm.database import build_database, verify_geometry
from d2_hloc.sfm.options import ReconstructionOptions


@dataclass
class Synthetic:
    """A model and hloc files that lead to it."""

    model: pycolmap.Reconstruction
    cameras: dict[str, pycolmap.Camera]
    pairs: list[tuple[str, str]]
    features: Path
    matches: Path
    ids: dict[str, np.ndarray]  # 3D point of each keypoint, or -1

    def verified_database(self, options: ReconstructionOptions) -> Path:
        """A database of the matches with their geometries, beside the features."""
        path = self.features.with_name("database.db")
        build_database(path, self.cameras, self.pairs, self.features, self.matches)
        verify_geometry(path, self.pairs, options, self.matches)
        return path


def synthesize(
    folder: Path,
    num_images: int = 6,
    num_points: int = 150,
    noise: float = 0.0,
    cameras_of_rig: int = 0,
) -> Synthetic:
    """A scene of one camera model, images on a sphere, every point seen by every image.

    `cameras_of_rig` cameras, fixed to each other, take all images; 0: each image has its own.
    """
    options = pycolmap.SyntheticDatasetOptions(
        num_rigs=1 if cameras_of_rig else num_images,
        num_cameras_per_rig=cameras_of_rig or 1,
        num_frames_per_rig=num_images // cameras_of_rig if cameras_of_rig else 1,
        num_points3D=num_points,
        camera_model_id=pycolmap.CameraModelId.PINHOLE,
        camera_params=[1280.0, 1280.0, 512.0, 384.0],
    )
    pycolmap.set_random_seed(1)
    model = pycolmap.synthesize_dataset(options)
    images = {f"view/{i.image_id}.jpg": i for i in model.images.values()}
    rng = np.random.default_rng(0)
    xy, ids = {}, {}
    for name, image in images.items():
        image.name = name
        exact = np.array([p.xy for p in image.points2D])
        xy[name] = from_colmap(exact + rng.normal(0, noise, exact.shape)).astype(np.float32)
        ids[name] = np.array([p.point3D_id if p.has_point3D() else -1 for p in image.points2D])
    features, matches = folder / "features.h5", folder / "matches.h5"
    write_features(features, xy)
    pairs = list(combinations(sorted(images), 2))
    write_matches(matches, pairs, ids)
    cameras = {name: camera_of(image) for name, image in images.items()}
    return Synthetic(model, cameras, pairs, features, matches, ids)


def write_features(path: Path, xy: dict[str, np.ndarray]) -> None:
    """Features of which only the places matter."""
    with Staged(path, {"synthetic": True}, "keypoints") as staged:
        for name, points in xy.items():
            count = len(points)
            features = Features(
                keypoints=torch.from_numpy(points),
                scores=torch.ones(count),
                descriptors=torch.zeros(count, 4),
                scales=torch.ones(count),
            )
            staged.add(name, features_h5.features_record(features, (1024, 768), 1.0, "float16"))


def write_matches(path: Path, pairs: list[tuple[str, str]], ids: dict[str, np.ndarray]) -> None:
    """Keypoints of the same 3D point match."""
    with Staged(path, {"synthetic": True}, "matches0") as staged:
        for name0, name1 in pairs:
            common, index0, index1 = np.intersect1d(ids[name0], ids[name1], return_indices=True)
            found = torch.from_numpy(np.stack([index0, index1], axis=1)[common >= 0])
            matches = Matches(pairs=found, scores=torch.ones(len(found)))
            record = features_h5.matches_record(matches, len(ids[name0]))
            staged.add(features_h5.pair_key(name0, name1), record)
