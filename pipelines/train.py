"""Train D2-Net as in Section 4 of the paper, on photographs or on MegaDepth.

    python pipelines/train.py --config configs/train_photos.yaml --dataset PHOTOS --output OUT
    torchrun --nproc_per_node 4 pipelines/train.py --config configs/train_megadepth.yaml ...

Killed, it goes on from where it was, to the bit, when the same command is run again.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from d2_hloc.app.command import run_command
from d2_hloc.core import config
from d2_hloc.core.listing import list_images
from d2_hloc.core.option_arguments import OptionArguments, changed, given_options
from d2_hloc.core.ranges import MANY, check_ranges
from d2_hloc.files.run_record import RunRecord
from d2_hloc.network.weights.files import locate_weights
from d2_hloc.training.distributed import joined
from d2_hloc.training.loop import Trainer
from d2_hloc.training.megadepth import MegaDepthOptions, MegaDepthPairs, ScenePart
from d2_hloc.training.options import TrainingOptions
from d2_hloc.training.pair import PairSource, split
from d2_hloc.training.photographs import PhotographOptions, PhotographPairs
from d2_hloc.training.report import TrainingRun, report_training, write_training_report
from d2_hloc.training.scene_info import find_scenes, read_scene_list

CONFIG = Path(__file__).parents[1] / "configs" / "train_photos.yaml"


@dataclass(frozen=True, kw_only=True)
class Train:
    """Data to train with, and how to.

    `scenes` is MegaDepth's folder of scenes (DATASET/scene_info); the lists name those to train
    with and those held back. Without lists, `held_back` of the scenes or photographs are, or of the
    images of a scene that is alone.

    Attributes:
        source: kind of the data set.
        dataset: its folder.
        scenes: folder of MegaDepth's scenes; null is DATASET/scene_info.
        train_scenes: list of the scenes to train with; null is all but those held back.
        valid_scenes: list of the scenes to measure on.
        held_back: share of the photographs or scenes to measure on.
        held_back_pairs_per_scene: pairs of each of those scenes.
        photographs: pairs by homographies.
        megadepth: pairs by depth.
        training: the schedule, the layers that learn, the loss.
    """

    source: Literal["photographs", "megadepth"] = "photographs"
    dataset: Path | None = None
    scenes: Path | None = None
    train_scenes: Path | None = None
    valid_scenes: Path | None = None
    held_back: float = 0.1
    held_back_pairs_per_scene: int = 25
    photographs: PhotographOptions = field(default_factory=PhotographOptions)
    megadepth: MegaDepthOptions = field(default_factory=MegaDepthOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)

    def __post_init__(self) -> None:
        if not 0 < self.held_back < 1:
            raise ValueError(f"held_back must be between 0 and 1, not {self.held_back}.")
        check_ranges(self, held_back_pairs_per_scene=(1, MANY))


def sources(conf: Train) -> tuple[PairSource, PairSource]:
    """The pairs to train with, and those held back."""
    if conf.dataset is None:
        raise ValueError(f"there is no data set; name the folder of {conf.source} by --dataset.")
    seed, unseen = conf.training.seed, conf.training.seed + 1
    if conf.source == "photographs":
        names = list_images(conf.dataset)
        train, held = split(names, conf.held_back, seed)
        return (
            PhotographPairs(conf.photographs, conf.dataset, train, seed),
            PhotographPairs(conf.photographs, conf.dataset, held, unseen),
        )
    folder = conf.scenes or conf.dataset / "scene_info"
    kept, held = scenes(conf, folder)
    fewer = replace(conf.megadepth, pairs_per_scene=conf.held_back_pairs_per_scene)
    return (
        MegaDepthPairs(conf.megadepth, conf.dataset, *kept, seed=seed),
        MegaDepthPairs(fewer, conf.dataset, *held, seed=unseen),
    )


def scenes(conf: Train, folder: Path) -> list[tuple[list[Path], ScenePart | None]]:
    """Scenes to train with, and held back; of a scene that is alone, a part is either."""
    if conf.train_scenes is not None and conf.valid_scenes is not None:
        lists = conf.train_scenes, conf.valid_scenes
        return [(find_scenes(folder, read_scene_list(path)), None) for path in lists]
    found = find_scenes(folder, None)
    if len(found) == 1:
        return [(found, ScenePart(share=conf.held_back, is_held_back=h)) for h in (False, True)]
    return [(part, None) for part in split(found, conf.held_back, conf.training.seed)]


def what_matters(conf: Train) -> dict[str, Any]:
    """The configuration without what may change when a run goes on: to more epochs, say."""
    whole = config.to_dict(conf)
    for name in ("epochs", "workers", "save_seconds"):
        del whole["training"][name]
    return whole


def run(conf: Train, output: Path) -> None:
    """Pairs -> trained layers -> report."""
    with joined(conf.training.device) as world:
        train, held_back = sources(conf)
        locate_weights(conf.training.weights)  # before anything is written
        if not world.is_first:
            Trainer(conf.training, train, held_back, output, world).run()
            return
        record = RunRecord(output, what_matters(conf))
        record.counts = {"pairs": len(train), "held_back": len(held_back)}
        finished = TrainingRun(
            output=output,
            subtitle=f"{conf.dataset}, {len(train)} pairs an epoch, {len(held_back)} held back",
            record=record,
            loss=conf.training.loss,
            held_back=held_back,
        )
        with record.timed("train"):
            trainer = Trainer(
                conf.training, train, held_back, output, world,
                after_epoch=lambda network: write_training_report(finished, network),
            )  # fmt: skip
            record.write()  # a rerun after a kill knows what it finds
            trainer.run()
        report_training(finished, trainer.network)


def main(arguments: Sequence[str] | None = None) -> None:
    """Arguments -> options -> run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", type=Path, default=CONFIG, help="YAML with the options")
    parser.add_argument("--output", type=Path, required=True)
    options = OptionArguments(parser, Train, config.load(Train, CONFIG))
    options.add("--dataset", "dataset", "folder of photographs, or MegaDepth's")
    options.add("--epochs", "training.epochs", "train so many; a finished run goes on to more")
    options.add("--device", "training.device")
    options.add_all()
    args = parser.parse_args(arguments)
    run(changed(config.load(Train, args.config), given_options(args, Train)), args.output)


if __name__ == "__main__":
    sys.exit(run_command("train", main))
