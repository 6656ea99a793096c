"""InLoc: indoor localization by local features, as in Section 5.3 of the D2-Net paper.

    python pipelines/inloc.py --feature d2net-ms --method sparse sparse+pv --dataset INLOC \\
        --retrieval pairs-query-netvlad100.txt --output OUT
    python pipelines/inloc.py --combine A/ImgList.mat B/ImgList.mat --output OUT

Killed, it goes on from where it was when the same command is run again.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from d2_hloc.app.command import run_command
from d2_hloc.benchmarks.inloc import data as inloc
from d2_hloc.benchmarks.inloc.cameras import CameraOptions, query_cameras
from d2_hloc.benchmarks.inloc.dense_verification import METHODS, Verifier, find_poses
from d2_hloc.benchmarks.inloc.lift import lift
from d2_hloc.benchmarks.inloc.matches import match_candidates
from d2_hloc.benchmarks.inloc.options import PoseOptions
from d2_hloc.benchmarks.inloc.poses import Setting
from d2_hloc.benchmarks.inloc.rendering import CloudCache, DenseOptions
from d2_hloc.benchmarks.inloc.report import Evaluation, compare, conclude, measure, present_combined
from d2_hloc.benchmarks.inloc.retrieval import extract_candidates
from d2_hloc.benchmarks.inloc.scans import MapCache
from d2_hloc.core import config
from d2_hloc.features import registry
from d2_hloc.features.extraction import ExtractionOptions
from d2_hloc.files.run_record import RunRecord
from d2_hloc.matching.nearest import MatchingOptions
from d2_hloc.refinement.matches import PairRefiner
from d2_hloc.refinement.patches import RefinementOptions

CONFIG = Path(__file__).parents[1] / "configs" / "inloc.yaml"


@dataclass(frozen=True, kw_only=True)
class InLoc:
    """The features and methods to compare, and the options of all steps."""

    features: tuple[str, ...] = ("d2net-ms",)
    methods: tuple[str, ...] = ("sparse",)
    workers: int = 1  # threads
    retrieval: Path | None = None  # hloc's pairs, ImgList or scores; None: see extract_candidates
    extraction: ExtractionOptions = field(default_factory=ExtractionOptions)
    matching: MatchingOptions = field(default_factory=MatchingOptions)
    refinement: RefinementOptions = field(default_factory=RefinementOptions)
    cameras: CameraOptions = field(default_factory=CameraOptions)
    poses: PoseOptions = field(default_factory=PoseOptions)
    dense: DenseOptions = field(default_factory=DenseOptions)

    def __post_init__(self) -> None:
        if unknown := set(self.methods) - set(METHODS):
            raise ValueError(f"there is no method {unknown}; known are {', '.join(METHODS)}.")
        if self.workers < 1:
            raise ValueError(f"workers must be positive, not {self.workers}.")

    @property
    def shared(self) -> "InLoc":
        """What results depend on: features and methods may join them later."""
        return replace(self, features=(), methods=(), workers=1)


def run(conf: InLoc, dataset: Path, output: Path, truth: Path | None = None) -> None:
    """Place the queries by one feature in OUT, or by several, each in a folder of its own."""
    data = inloc.read(dataset)
    if len(conf.features) == 1:
        evaluate(conf, conf.features[0], data, output, truth)
        return
    asked = {"dataset": str(dataset.resolve()), **config.to_dict(conf.shared)}
    record = RunRecord(output, asked)
    folders = {feature: output / registry.file_name(feature) for feature in conf.features}
    found = [evaluate(conf, name, data, folder, truth) for name, folder in folders.items()]
    compare(found, record, output)


def evaluate(
    conf: InLoc, feature: str, data: inloc.InLoc, output: Path, truth: Path | None = None
) -> Evaluation:
    """Images -> features -> points of the cutouts -> matches -> poses by each method."""
    options = replace(conf.extraction, feature=feature)
    asked = config.to_dict(replace(conf.shared, extraction=options))
    record = RunRecord(output, {"dataset": str(data.folder.resolve()), **asked})
    count, maps = conf.poses.num_candidates, MapCache()
    files = [output / name for name in ("features.h5", "points.h5", "matches.h5")]
    with record.timed("extract"):
        features, ranked = extract_candidates(options, conf.retrieval, count, data, files[0])
    cameras = query_cameras(conf.cameras, data.folder, data.queries, features)
    with record.timed("points"):
        points = lift(data.folder, ranked, features, files[1], maps, conf.workers)
    with record.timed("match"):
        ranked = match_candidates(conf.poses, conf.matching, ranked, *files)
    refine = None
    if conf.refinement.enabled:
        refine = PairRefiner(conf.refinement, data.folder, options.resize_max)
    setting = Setting(
        options=conf.poses,
        cameras=cameras,
        ranked=ranked,
        features=features,
        matches=files[2],
        points=points,
        refine=refine,
        workers=conf.workers,
    )
    clouds = CloudCache(data, conf.dense, maps)
    verifier = Verifier(options=conf.dense, data=data, cameras=cameras, clouds=clouds)
    measured = []
    for method in conf.methods:
        with record.timed(method):
            found = find_poses(method, setting, verifier, output)
        measured.append(measure(method, setting, found, record, truth))
    return conclude(Evaluation(feature, data, setting, verifier, measured, record, output))


def main(arguments: Sequence[str] | None = None) -> None:
    """Arguments -> options -> run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", type=Path, help="folder of database/ and query/")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=CONFIG, help="YAML with the options")
    parser.add_argument("--feature", nargs="+", help="one, or several to compare")
    parser.add_argument("--method", nargs="+", choices=METHODS)
    parser.add_argument("--retrieval", type=Path, help="hloc's pairs, or InLoc's ImgList or scores")
    parser.add_argument("--ground-truth", type=Path, help="name qw qx qy qz tx ty tz a line")
    parser.add_argument("--intrinsics", type=Path, help="of the queries: name MODEL w h params...")
    parser.add_argument("--refinement", choices=("on", "off"), help="sub-pixel keypoints")
    parser.add_argument("--workers", type=int, help="threads")
    parser.add_argument("--download", action="store_true", help="fetch weights that are not here")
    parser.add_argument("--combine", type=Path, nargs=2, help="two ImgLists, by Dense PV's score")
    args = parser.parse_args(arguments)
    if args.combine:
        present_combined(args.combine, args.output, args.ground_truth)
        return
    if args.dataset is None:
        parser.error("--dataset is missing")
    conf = config.load(InLoc, args.config)
    given = {
        "features": tuple(args.feature or ()),
        "methods": tuple(args.method or ()),
        "retrieval": args.retrieval,
        "workers": args.workers,
    }
    conf = replace(conf, **{k: v for k, v in given.items() if v not in (None, ())})
    if args.intrinsics:
        conf = replace(conf, cameras=replace(conf.cameras, intrinsics=args.intrinsics))
    conf = replace(conf, refinement=conf.refinement.switched(args.refinement))
    if args.download:
        for feature in conf.features:
            registry.adapter_of(feature).download(replace(conf.extraction, feature=feature))
    run(conf, args.dataset, args.output, args.ground_truth)


if __name__ == "__main__":
    sys.exit(run_command("inloc", main))
