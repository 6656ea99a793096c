"""InLoc's lists of the cutouts that a query is compared with, and of poses.

ImgList is a MATLAB struct an entry a query: queryname, topNname and topNscore (best first), and P,
the pose (3, 4) of each, world to camera. Names there are short: IMG_0731.JPG, DUC1/000/..jpg.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from jaxtyping import Float

from d2_hloc.benchmarks.inloc.data import CUTOUTS, QUERIES, InLocError, is_cutout, short_name
from d2_hloc.benchmarks.inloc.mat_files import load_mat
from d2_hloc.core.names import UnsafeName, image_name
from d2_hloc.files.atomic import write_atomically
from d2_hloc.matching.pairs import read_pairs

QUERY_NAMES, CUTOUT_NAMES = "query_imgnames_all", "cutout_imgnames_all"
SCORES = "score"  # a matrix: a row a query, a column a cutout


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A cutout that a query is compared with, and its score; 0 from lists without scores."""

    cutout: str
    score: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ListedPose:
    """Entry of an ImgList: a cutout, its score, and the pose (3, 4) that it led to, or None."""

    cutout: str
    score: float
    matrix: Float[np.ndarray, "3 4"] | None


Ranked = dict[str, list[Candidate]]  # by query, best first
ImgList = dict[str, list[ListedPose]]


def read_retrieval(path: Path, count: int) -> Ranked:
    """Read the best `count` cutouts of each query, from hloc's pairs (text) or InLoc's `.mat`.

    A `.mat` holds ImgList, or `score` beside query_imgnames_all.mat and cutout_imgnames_all.mat.

    Raises:
        ValueError: for a file that is missing, damaged or of another form.
    """
    if path.suffix.lower() != ".mat":
        ranked = _read_text(path)
    else:
        content = read_mat(path)
        if SCORES in content:  # a row is longer by far than what is taken of it
            return _from_scores(path, content, count)
        ranked = _from_list(path, content)
    return {query: found[:count] for query, found in ranked.items()}


def _read_text(path: Path) -> Ranked:
    ranked: Ranked = {}
    for query, cutout in dict.fromkeys(read_pairs(path)):
        if not is_cutout(cutout):
            raise InLocError(f"{path}: {cutout} is no cutout; the names begin with {CUTOUTS}/.")
        ranked.setdefault(query, []).append(Candidate(cutout=cutout))
    return ranked


def read_mat(path: Path) -> dict[str, Any]:
    """Read the variables of a `.mat` file of MATLAB 5.

    Raises:
        InLocError: for a file that is missing, damaged or of another version.
    """
    if not path.is_file():
        raise InLocError(f"{path}: there is no such file.")
    try:
        return load_mat(path, squeeze_me=True, struct_as_record=False)
    except NotImplementedError as error:
        raise InLocError(f"{path}: is of MATLAB 7.3; save the list with -v6 or -v7.") from error
    except Exception as error:  # scipy's parser raises whatever it meets
        raise InLocError(f"{path}: is damaged or no .mat file.") from error


def _from_scores(path: Path, content: Mapping[str, Any], count: int) -> Ranked:
    queries, cutouts = (
        list(np.atleast_1d(read_mat(path.with_name(f"{name}.mat")).get(name, [])))
        for name in (QUERY_NAMES, CUTOUT_NAMES)
    )
    scores = np.asarray(content[SCORES])
    if scores.size != len(queries) * len(cutouts) or scores.dtype.kind not in "fiu":
        raise InLocError(
            f"{path}: {SCORES} is of shape {scores.shape}, but {len(queries)} queries and "
            f"{len(cutouts)} cutouts are named beside it."
        )
    scores = scores.reshape(len(queries), len(cutouts))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return {
        _query(path, name): [
            Candidate(cutout=_cutout(path, cutouts[j]), score=float(row[j])) for j in best
        ]
        for name, row, best in zip(queries, scores, order, strict=True)
    }


def _from_list(path: Path, content: Mapping[str, Any]) -> Ranked:
    return {
        query: [Candidate(cutout=entry.cutout, score=entry.score) for entry in entries]
        for query, entries in _entries(path, content).items()
    }


def read_list(path: Path) -> ImgList:
    """Read an ImgList, by query, best first.

    Raises:
        InLocError: for a file that is missing, damaged or of another form.
    """
    return _entries(path, read_mat(path))


def _entries(path: Path, content: Mapping[str, Any]) -> ImgList:
    name = next((key for key in content if key.startswith("ImgList")), None)
    if name is None:
        raise InLocError(f"{path}: holds neither ImgList nor {SCORES}.")
    try:
        return {_query(path, e.queryname): _poses(path, e) for e in np.atleast_1d(content[name])}
    except UnsafeName:
        raise
    except (AttributeError, TypeError, ValueError) as error:
        raise InLocError(f"{path}: {name} lacks queryname, topNname or topNscore.") from error


def _poses(path: Path, entry: Any) -> list[ListedPose]:
    cutouts, scores = np.atleast_1d(entry.topNname), np.atleast_1d(entry.topNscore)
    poses = getattr(entry, "P", np.empty(0))
    # One candidate's matrix has lost the cell around it.
    poses = [poses] if getattr(poses, "shape", None) == (3, 4) else list(np.atleast_1d(poses))
    poses += [None] * (len(cutouts) - len(poses))
    return [
        ListedPose(cutout=_cutout(path, cutout), score=float(score), matrix=_pose(pose))
        for cutout, score, pose in zip(cutouts, scores, poses, strict=False)
    ]


def _pose(value: Any) -> Float[np.ndarray, "3 4"] | None:
    matrix = np.asarray(value if value is not None else np.nan, dtype=float)
    return matrix if matrix.shape == (3, 4) and np.isfinite(matrix).all() else None


def _query(path: Path, name: object) -> str:
    return f"{QUERIES}/{image_name(name, path)}"


def _cutout(path: Path, name: object) -> str:
    return f"{CUTOUTS}/{image_name(name, path)}"


def write_list(path: Path, poses: Mapping[str, Sequence[ListedPose]]) -> Path:
    """Write an ImgList, whole or not at all; a missing pose is NaN, as in InLoc's own."""
    fields = [(name, object) for name in ("queryname", "topNname", "topNscore", "P")]
    entries = np.empty((1, len(poses)), dtype=fields)
    for k, (query, found) in enumerate(poses.items()):
        names, matrices = (np.empty((1, len(found)), dtype=object) for _ in range(2))
        for j, pose in enumerate(found):
            names[0, j] = short_name(pose.cutout)
            matrices[0, j] = np.full((3, 4), np.nan) if pose.matrix is None else pose.matrix
        scores = np.array([[pose.score for pose in found]], dtype=float)
        entries[0, k] = short_name(query), names, scores.reshape(1, -1), matrices
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"ImgList": entries}, do_compression=True)
    write_atomically(path, buffer.getvalue())
    return path
