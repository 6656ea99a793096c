"""File in which papers after D2-Net share their matching accuracy on HPatches.

It is what the notebook of D2-Net's authors saves: a pickled array of three objects, `i_err`,
`v_err` and `[seq_type, n_feats, n_matches]`. The first two are sums of the matching accuracy over
pairs, by threshold. The last are lists: the letter of each pair's sequence, the features of each
image, the matches of each pair.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from d2_hloc.files import safe_pickle
from d2_hloc.files.atomic import write_atomically
from d2_hloc.files.safe_pickle import PickleRefused


class CacheError(ValueError):
    """A cache file that cannot be used; the text names the file and the reason."""


@dataclass(frozen=True, kw_only=True)
class AccuracyCache:
    """Sums over pairs of the share of right matches, by threshold in pixels, and counts."""

    illumination: Mapping[int, float]
    viewpoint: Mapping[int, float]
    kinds: Sequence[str]  # 'i' or 'v' of each pair
    num_features: Sequence[int]  # of each image
    num_matches: Sequence[int]  # of each pair

    def accuracy(self, kinds: str, thresholds: Sequence[int]) -> list[float]:
        """Average over the pairs of these kinds: 'i', 'v' or 'iv'; 0 where there are none."""
        sums = {"i": self.illumination, "v": self.viewpoint}
        count = sum(kind in kinds for kind in self.kinds)
        return [sum(sums[k].get(t, 0.0) for k in kinds) / max(count, 1) for t in thresholds]


def write_accuracy_cache(path: Path, cache: AccuracyCache) -> Path:
    """Write a cache file, whole or not at all."""
    content = np.empty(3, dtype=object)
    content[0] = {int(t): float(s) for t, s in cache.illumination.items()}
    content[1] = {int(t): float(s) for t, s in cache.viewpoint.items()}
    content[2] = [
        np.array(list(cache.kinds)),
        np.array(cache.num_features, dtype=np.int64),
        np.array(cache.num_matches, dtype=np.int64),
    ]
    buffer = io.BytesIO()
    np.save(buffer, content, allow_pickle=True)
    write_atomically(path, buffer.getvalue())
    return path


def read_accuracy_cache(path: Path) -> AccuracyCache:
    """Read a cache file; nothing in it can run code.

    Raises:
        CacheError: if it is missing, damaged, of another form, or holds more than arrays and
            containers.
    """
    try:
        with path.open("rb") as file:
            return _cache(safe_pickle.read_npy(file))
    except (CacheError, PickleRefused) as error:
        raise CacheError(f"{path}: refused, since {error}.") from error
    except OSError as error:
        raise CacheError(f"{path}: cannot be read ({error.strerror}).") from error
    except Exception as error:  # of other objects than a cache has, whatever they lead to
        raise CacheError(
            f"{path}: is damaged, or not a cache of HPatches' evaluation ({error})."
        ) from error


def _cache(content: np.ndarray) -> AccuracyCache:
    if content.dtype != object:
        raise CacheError(f"it holds {content.dtype}, not the objects of a cache")
    i_sums, v_sums, (kinds, num_features, num_matches) = content
    kinds = [_text(kind) for kind in kinds]
    if not set(kinds) <= {"i", "v"} or len(kinds) != len(num_matches):
        some = sorted({kind[:9] for kind in kinds})[:9]
        raise CacheError(f"it has {len(num_matches)} pairs, of the kinds {some}")
    return AccuracyCache(
        illumination={int(t): float(s) for t, s in i_sums.items()},
        viewpoint={int(t): float(s) for t, s in v_sums.items()},
        kinds=kinds,
        num_features=[int(n) for n in num_features],
        num_matches=[int(n) for n in num_matches],
    )


def _text(value: object) -> str:
    if not isinstance(value, str | bytes):
        raise CacheError("its kinds are no letters")
    return value.decode() if isinstance(value, bytes) else str(value)
