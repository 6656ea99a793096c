"""Names of all files of a run: the only place where they are written down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import overload

from d2_hloc.core.listing import DENSE_RECORD, RUN_RECORD

MAPPING = ".mapping"  # ends the name of a folder in which a model is made
SNAPSHOTS = "snapshots"  # folder of what there was of a model while it grew


@dataclass(frozen=True)
class Inside:
    """A path in the folder of a run, as an attribute of Outputs."""

    name: str

    @overload
    def __get__(self, outputs: None, owner: type) -> Inside: ...

    @overload
    def __get__(self, outputs: Outputs, owner: type) -> Path: ...

    def __get__(self, outputs: Outputs | None, owner: type) -> Path | Inside:
        return self if outputs is None else outputs.folder / self.name


@dataclass(frozen=True)
class Outputs:
    """The folder of a run, and the paths of all that a run can have in it.

    `Outputs(folder).features` is `folder/features.h5`. Nothing is made or looked up.
    """

    folder: Path

    # Every run.
    run_record = Inside(RUN_RECORD)  # configuration, versions, counts, timings, scores
    report = Inside("report.html")

    # Features, matches and models.
    features = Inside("features.h5")
    pairs = Inside("pairs.txt")
    matches = Inside("matches.h5")
    refined = Inside("refined.h5")  # keypoints, refined
    moved_matches = Inside("matches-moved.h5")  # of dense features: of keypoints that were moved
    raw_database = Inside("database-raw.db")  # of keypoints as they were extracted
    database = Inside("database.db")
    refined_again = Inside("refined-again.h5")  # by the matches that the model led to
    second_database = Inside("database-again.db")  # of these
    mapped = Inside("sparse-mapped")  # the model that led to these, where it is not the last
    refined_last = Inside("refined-last.h5")  # likewise, of the model that was readjusted by these
    last_database = Inside("database-last.db")
    readjusted = Inside("sparse-readjusted")
    sparse = Inside("sparse")  # COLMAP's model

    # Two images.
    matches_table = Inside("matches.csv")
    matches_picture = Inside("matches.jpg")

    # Localization.
    poses = Inside("poses.txt")
    poses_table = Inside("poses.csv")  # what became of each query
    triangulated = Inside("model")  # Outputs: the model with points of other weights

    # Dense stereo; `dense` in the output of a benchmark is the folder of such a run.
    dense = Inside("dense")
    workspace_record = Inside(DENSE_RECORD)  # what the workspace was made from
    undistorted_images = Inside("images")
    undistorted_masks = Inside("masks")
    stereo = Inside("stereo")
    depth_maps = Inside("stereo/depth_maps")
    normal_maps = Inside("stereo/normal_maps")
    fusion_list = Inside("stereo/fusion.cfg")
    stereo_shards = Inside("stereo/shards")
    cloud = Inside("fused.ply")
    mesh = Inside("mesh.ply")
    dense_statistics = Inside("dense_statistics.json")  # what a benchmark found in the cloud

    # Training.
    losses = Inside("losses.csv")
    validation = Inside("validation.csv")
    last_checkpoint = Inside("last.pth")
    best_checkpoint = Inside("best.pth")
    best_weights = Inside("best.safetensors")
    best_small_weights = Inside("best_small.safetensors")

    # HPatches.
    pair_scores = Inside("scores.json")
    hpatches_table = Inside("hpatches.csv")
    accuracy_plot = Inside("mma.png")
    accuracy_drawing = Inside("mma.svg")

    # InLoc.
    points = Inside("points.h5")  # of the keypoints of cutouts
    pose_list = Inside("ImgList.mat")
    queries_table = Inside("queries.csv")

    # The other benchmarks.
    relative_pose_table = Inside("relative_pose.csv")
    reconstruction_table = Inside("table.csv")  # Table 1 of the paper
    exported = Inside("benchmark")  # features and matches in the benchmark's own format

    @classmethod
    def of_model(cls, path: Path) -> Outputs:
        """The run that a model is named by: its folder, or a folder of COLMAP's files in it."""
        if path.name.isdecimal() and path.parent.name == cls.sparse.name:
            path = path.parent
        is_sparse = path.name == cls.sparse.name and not (path / cls.sparse.name).is_dir()
        return cls(path.parent if is_sparse else path)

    @property
    def results(self) -> list[Path]:
        """Paths that a run writes over once it has features, whatever is there."""
        # These say themselves what made them.
        others = {self.features, self.matches, self.run_record, self.pair_scores, self.triangulated}
        others |= {self.workspace_record, self.undistorted_images, self.dense}
        others.add(self.dense_statistics)
        paths = [self.folder / v.name for v in vars(Outputs).values() if isinstance(v, Inside)]
        paths += [folder.with_name(folder.name + MAPPING) for folder in self.models]
        return [p for p in paths if p not in others and not p.is_relative_to(self.stereo)]

    @property
    def models(self) -> tuple[Path, ...]:
        """Folders of the models that a reconstruction makes, the last one last."""
        return self.mapped, self.readjusted, self.sparse

    @property
    def databases(self) -> list[Path]:
        """Databases of a run, which are changed in place, and what SQLite puts beside them."""
        files = self.raw_database, self.database, self.second_database, self.last_database
        ends = "", "-wal", "-shm", "-journal"
        return [file.with_name(file.name + end) for file in files for end in ends]

    def growing_models(self) -> list[Path]:
        """Folders of models that are there, and of what there is of the one in the making."""
        made = [folder for folder in self.models if folder.is_dir()]
        return made + list(self.folder.glob(f"*{MAPPING}/*/{SNAPSHOTS}/*"))

    def of_feature(self, name: str) -> Outputs:
        """The run of one feature, in a folder of that name."""
        return Outputs(self.folder / name)

    def activations(self, name: str) -> Path:
        """Folder of the activations of a training's pairs; `name` is train or held_back."""
        return self.folder / f"{name}.cache"

    def accuracies(self, feature: str) -> Path:
        """Matching accuracies of a feature on HPatches, in the form that others publish them in."""
        return self.folder / f"{feature}.npy"

    def method_poses(self, method: str) -> Path:
        """Poses of InLoc's queries by a method, as they come."""
        return self.folder / f"{method}.json"

    def submission(self, method: str) -> Path:
        """Poses in the form that the evaluation of Aachen takes."""
        return self.folder / f"Aachen_eval_[{method}].txt"

    def undistorted_mask(self, image: str) -> Path:
        """The mask of an undistorted image, in COLMAP's form."""
        return self.undistorted_masks / f"{image}.png"

    def depth_map(self, image: str, stage: str) -> Path:
        """A depth map of dense stereo; `stage` is photometric or geometric."""
        return self.depth_maps / f"{image}.{stage}.bin"

    def normal_map(self, image: str, stage: str) -> Path:
        """A map of normals of dense stereo; `stage` is photometric or geometric."""
        return self.normal_maps / f"{image}.{stage}.bin"
