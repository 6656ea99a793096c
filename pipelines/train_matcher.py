"""Train the learned matcher of D2-Net's features on photographs, and on scenes with depth.

    python pipelines/train_matcher.py --dataset PHOTOS --output OUT [--scenes SCENES]

Features of views of each photograph are extracted once, into OUT/views. Killed, it goes on from
where it was, to the bit, when the same command is run again. OUT/best.safetensors is what
`matching: {matcher: lightglue, weights: OUT/best.safetensors}` takes.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from d2_hloc.app.command import run_command
from d2_hloc.app.scene.exhibition import write_squares
from d2_hloc.core import config
from d2_hloc.core.devices import DEVICES, use_device
from d2_hloc.core.listing import list_images
from d2_hloc.core.option_arguments import OptionArguments, changed, given_options
from d2_hloc.core.ranges import MANY, check_ranges
from d2_hloc.files.run_record import RunRecord
from d2_hloc.matching.lightglue import GlueShape
from d2_hloc.training.matcher.cache import Extract, cache_views, extractor
from d2_hloc.training.matcher.examples import ExampleOptions, Source
from d2_hloc.training.matcher.loop import MatcherTrainer, MatcherTrainingOptions
from d2_hloc.training.matcher.report import report_matcher_training
from d2_hloc.training.matcher.scenes import SceneOptions, ScenePair, scene_pairs
from d2_hloc.training.matcher.views import ViewOptions
from d2_hloc.training.pair import split
from d2_hloc.training.scene_info import find_scenes, read_scene

CONFIG = Path(__file__).parents[1] / "configs" / "train_matcher.yaml"


@dataclass(frozen=True, kw_only=True)
class TrainMatcher:
    """Options of training the matcher: photographs, scenes, network and schedule.

    `scenes` is a folder of scenes in MegaDepth's form (SCENES/scene_info), if there is one.
    `squares` of photographs are rendered, besides. `held_back` of the photographs, and of the
    scenes, are measured on.

    Attributes:
        dataset: folder of photographs.
        scenes: folder of scenes in MegaDepth's form; null is none.
        squares: rendered squares of photographs.
        held_back: share of the photographs, and of the scenes, to measure on.
        max_keypoints: most keypoints of a view.
        precision: numbers that extraction computes in.
        shape: size of the network.
        views: how views of a photograph differ.
        scene: which pairs of a scene there are.
        examples: which pairs there are.
        training: the schedule.
    """

    dataset: Path | None = None
    scenes: Path | None = None
    squares: int = 0
    held_back: float = 0.07
    max_keypoints: int = 900  # of a view
    precision: Literal["float32", "bfloat16"] = "float32"  # of extraction
    shape: GlueShape = field(default_factory=GlueShape)
    views: ViewOptions = field(default_factory=ViewOptions)
    scene: SceneOptions = field(default_factory=SceneOptions)
    examples: ExampleOptions = field(default_factory=ExampleOptions)
    training: MatcherTrainingOptions = field(default_factory=MatcherTrainingOptions)

    def __post_init__(self) -> None:
        if not 0 < self.held_back < 1:
            raise ValueError(f"held_back must be between 0 and 1, not {self.held_back}.")
        check_ranges(self, squares=(0, MANY))


def sources(conf: TrainMatcher, output: Path) -> tuple[Source, dict[str, Source]]:
    """Sources of pairs to train with, and of those held back."""
    if conf.dataset is None:
        raise ValueError("there is no data set; name the folder of photographs by --dataset.")
    for path in find_scenes(conf.scenes / "scene_info", None) if conf.scenes else ():
        read_scene(path, (conf.scene.min_overlap, 1.0), math.inf)  # before hours of extraction
    extract = extractor(conf.max_keypoints, conf.precision)
    names = list_images(conf.dataset)
    views = cache_views(
        conf.views, conf.dataset, names, output / "views", extract, conf.training.seed
    )
    train, held = split(sorted(views), conf.held_back, conf.training.seed)
    scenes, held_scenes = pairs_of_scenes(conf, output, extract)
    if conf.squares:
        scenes = [*scenes, *pairs_of_squares(conf, [conf.dataset / n for n in train], output)]
    plain = replace(conf.examples, from_scenes=0.0)
    held_back = {"views": Source(plain, {name: views[name] for name in held})}
    if held_scenes:
        only = replace(conf.examples, from_scenes=1.0)
        held_back["scenes"] = Source(only, {name: views[name] for name in held}, held_scenes)
    return Source(conf.examples, {name: views[name] for name in train}, scenes), held_back


def pairs_of_scenes(
    conf: TrainMatcher, output: Path, extract: Extract
) -> tuple[list[ScenePair], list[ScenePair]]:
    """Pairs of the scenes to train with, and of those held back."""
    if conf.scenes is None:
        return [], []
    found = find_scenes(conf.scenes / "scene_info", None)
    train, held = (
        split(found, conf.held_back, conf.training.seed) if len(found) > 1 else (found, [])
    )
    made = [
        scene_pairs(conf.scene, conf.scenes, part, output / "scenes", extract)
        for part in (train, held)
    ]
    return made[0], made[1]


def pairs_of_squares(conf: TrainMatcher, photographs: list[Path], output: Path) -> list[ScenePair]:
    """Pairs of squares that show the photographs trained with."""
    folder = output / "squares"
    made = write_squares(photographs, conf.squares, folder, conf.training.seed)
    extract = extractor(conf.max_keypoints, conf.precision)
    return scene_pairs(conf.scene, folder, made, output / "scenes", extract)


def what_matters(conf: TrainMatcher) -> dict[str, Any]:
    """The configuration without what may change when a run goes on."""
    whole = config.to_dict(conf)
    del whole["training"]["save_seconds"]
    return whole


def run(conf: TrainMatcher, output: Path) -> None:
    """Features -> trained matcher -> report."""
    record = RunRecord(output, what_matters(conf))
    with record.timed("extract"):
        train, held_back = sources(conf, output)
    record.counts = {
        "photographs": len(train.photos),
        "views": sum(len(views) for views in train.photos),
        "scene_pairs": len(train.scenes),
    }
    with record.timed("train"):
        MatcherTrainer(conf.training, conf.shape, train, held_back, output).run()
    report_matcher_training(record, f"{conf.dataset}, {len(train.photos)} photographs")


def main(arguments: Sequence[str] | None = None) -> None:
    """Arguments -> options -> run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", type=Path, default=CONFIG, help="YAML with the options")
    parser.add_argument("--output", type=Path, required=True)
    options = OptionArguments(parser, TrainMatcher, config.load(TrainMatcher, CONFIG))
    options.add("--dataset", "dataset")
    options.add("--scenes", "scenes", "folder of scenes with depth")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="what computes (auto)")
    options.add_all()
    args = parser.parse_args(arguments)
    use_device(args.device)
    conf = changed(config.load(TrainMatcher, args.config), given_options(args, TrainMatcher))
    run(conf, args.output)


if __name__ == "__main__":
    sys.exit(run_command("train", main))
