"""register(): an installed hloc finds our extractors and matchers, and their confs, by name."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
import zlib  # noqa: F401 - hloc imports pycolmap, which has to come after zlib
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import torch

from d2_hloc.hloc.geometries import configure_geometries

FOLDER = Path(__file__).parents[1]  # of the package, where extractors/ and matchers/ are
INT16_MAX = 2**15 - 1  # the largest index that hloc's own writer can store
Conf = dict[str, Any]


def _features_conf(output: str, **model: Any) -> Conf:
    return {
        "output": output,
        "model": {"name": "d2net", "weights": "d2_ots", **model},
        # Bilinear as our own runner resizes, so that both extract the same features.
        "preprocessing": {
            "grayscale": False,
            "resize_max": 1600,
            "interpolation": "pil_bilinear",
        },
    }


def _matches_conf(output: str, **model: Any) -> Conf:
    return {"output": output, "model": {"name": "nearest_neighbor_exact", **model}}


# In hloc's form. 'd2net' is 'd2net-ss' by a shorter name. The ratio is the D2-Net authors' for
# features off the shelf.
EXTRACTORS = {
    "d2net": _features_conf("feats-d2net-ots-ss", multiscale=False),
    "d2net-ss": _features_conf("feats-d2net-ots-ss", multiscale=False),
    "d2net-ms": _features_conf("feats-d2net-ots-ms", multiscale=True),
    "d2net-fine": _features_conf("feats-d2net-ots-fine", fine=True),
    "d2net-dense": _features_conf("feats-d2net-ots-dense") | {"model": {"name": "d2net_dense"}},
}
MATCHERS = {
    "NN-mutual-d2net": _matches_conf("matches-NN-mutual-d2net", mutual=True),
    "NN-ratio-d2net": _matches_conf(
        "matches-NN-mutual-ratio.9-d2net", mutual=True, ratio_threshold=0.9
    ),
    "d2net+lightglue": {
        "output": "matches-d2net-lightglue",
        "model": {"name": "d2net_lightglue", "matcher": "lightglue"},
    },
    "d2net-dense+grown": {
        "output": "matches-d2net-dense-grown",
        "model": {"name": "d2net_grown", "matcher": "grown"},
    },
}
# Of others NN-mutual-d2net.
MATCHER_OF = {"d2net-dense": "d2net-dense+grown", "d2net-fine": "d2net+lightglue"}
RETRIEVERS = {
    "d2net-global": {
        "output": "global-feats-d2net-ots",
        "model": {"name": "d2net_global", "weights": "d2_ots"},
        "preprocessing": {"grayscale": False, "resize_max": 1024, "interpolation": "pil_bilinear"},
    }
}
RETRIEVER_OF = {"d2net": "d2net-global"}  # a feature: the conf of its global descriptors
DENSE_MATCHERS = {
    "d2net_dense": {
        "output": "matches-d2net-dense",
        "model": {"name": "d2net_dense"},
        "preprocessing": {"grayscale": False, "resize_max": 1024, "dfactor": 8},
        "max_error": 1,  # pixels; matches so near become one keypoint
        "cell_size": 1,
    },
}


def register() -> None:
    """Make hloc.extractors.d2net ours, and add our matcher, our confs and a writer of wide matches.

    hloc's triangulation gives geometries the configuration that COLMAP asks for from then on.
    Calling it again changes nothing. Call it before hloc loads a model.

    Raises:
        ImportError: if hloc, or something that it needs, is not installed.
    """
    extract_features, match_features = _import_hloc("extract_features", "match_features")
    extractors, matchers = _import_hloc("extractors", "matchers")
    _put_first(extractors, FOLDER / "extractors")
    _put_first(matchers, FOLDER / "matchers")
    extract_features.confs.update(deepcopy(EXTRACTORS | RETRIEVERS))
    configure_geometries()
    match_features.confs.update(deepcopy(MATCHERS))
    max_index = None if _widen_writer(match_features) else INT16_MAX
    if importlib.util.find_spec("hloc.match_dense") is not None:  # older versions have none
        _import_hloc("match_dense")[0].confs.update(deepcopy(DENSE_MATCHERS))
    for name in MATCHERS:
        match_features.confs[name]["model"]["max_index"] = max_index


def _import_hloc(*names: str) -> list[ModuleType]:
    try:
        return [importlib.import_module(f"hloc.{name}") for name in names]
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise ImportError(
            f"hloc cannot be used ({reason}): install what is missing, hloc itself from "
            "https://github.com/cvg/Hierarchical-Localization."
        ) from error


def _put_first(package: ModuleType, folder: Path) -> None:
    """Let `package.<name>` be found in `folder` before anywhere else.

    A name in sys.modules is not enough: hloc accepts only classes whose module has that very name,
    so our files have to be imported under it.
    """
    package.__path__ = [str(folder), *(p for p in package.__path__ if p != str(folder))]
    for file in folder.glob("[!_]*.py"):
        name = f"{package.__name__}.{file.stem}"
        loaded = sys.modules.get(name)
        if loaded is not None and Path(loaded.__file__ or "") != file:
            del sys.modules[name]
            vars(package).pop(file.stem, None)


def _widen_writer(match_features: Any) -> bool:
    """Have hloc write the pairs whose indices do not fit in int16 as int32; others as it does.

    False where hloc has no such function, as in its older versions.
    """
    writer = getattr(match_features, "writer_fn", None)
    if writer is None or list(inspect.signature(writer).parameters) != ["inp", "match_path"]:
        return False
    if not hasattr(writer, "writes_wide_matches"):
        match_features.writer_fn = _writer_of_wide_matches(writer)
    return True


def _writer_of_wide_matches(writer: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(writer)
    def writer_fn(inp: tuple[str, dict[str, torch.Tensor]], match_path: Path) -> None:
        pair, predicted = inp
        matches0 = predicted["matches0"][0]
        if matches0.numel() == 0 or int(matches0.max()) <= INT16_MAX:
            writer(inp, match_path)
            return
        with h5py.File(str(match_path), "a", libver="latest") as file:
            if pair in file:
                del file[pair]
            group = file.create_group(pair)
            group["matches0"] = matches0.cpu().int().numpy()
            if "matching_scores0" in predicted:
                group["matching_scores0"] = predicted["matching_scores0"][0].cpu().half().numpy()

    vars(writer_fn)["writes_wide_matches"] = True
    return writer_fn
