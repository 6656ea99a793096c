"""The pipelines' scripts, imported as modules."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

PIPELINES = Path(__file__).parents[2] / "pipelines"
BENCHMARKS = {  # their options
    "aachen": "Aachen",
    "hpatches": "HPatches",
    "inloc": "InLoc",
    "local_feature_benchmark": "PhotoReconstruction",
    "relative_pose": "RelativePose",
}
TRAININGS = {"train": "Train", "train_matcher": "TrainMatcher"}


def load(name: str) -> ModuleType:
    """pipelines/<name>.py under another name, which dataclasses in it look themselves up by."""
    path = PIPELINES / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_pipeline", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
