"""Shorter descriptors: a projection onto the directions in which they vary most (PCA).

Square roots are taken first, as of RootSIFT, so that a few large numbers do not decide; and
directions of large variance are weighted down a little. Both keep matches that plain PCA loses.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from d2_hloc.core.text import parse_json
from d2_hloc.features.options import BUNDLED, MOST
from d2_hloc.files import features_h5
from d2_hloc.files.atomic import write_whole

WHITENING = 0.25  # directions are divided by this power of their variance: 0 not, 0.5 wholly
IMAGES, FROM_EACH = 500, 500  # images, and descriptors of each, to learn from


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A mean, and directions of falling variance, each of a length that is its weight."""

    mean: Float[Tensor, " D"]
    basis: Float[Tensor, "D M"]
    is_of_roots: bool
    learned_from: dict[str, Any]  # configuration of the features, numbers of images and descriptors

    def first(self, dimensions: int | None) -> Projection:
        """The projection onto its first directions; all of them for None.

        Raises:
            ValueError: if there are not so many.
        """
        most = self.basis.shape[1]
        if dimensions is not None and not 1 <= dimensions <= most:
            raise ValueError(f"dimensions must be from 1 to {most}, not {dimensions}.")
        return replace(self, basis=self.basis[:, :dimensions])

    def apply(self, descriptors: Float[Tensor, "N D"]) -> Float[Tensor, "N M"]:
        """Unit descriptors, float32, of as many numbers as there are directions.

        Raises:
            ValueError: if the descriptors are of another width.
        """
        if descriptors.shape[1] != len(self.mean):
            raise ValueError(
                f"Descriptors of {descriptors.shape[1]} numbers cannot be projected by a "
                f"projection of {len(self.mean)}: it was learned from other features."
            )
        mean, basis = (t.to(descriptors.device) for t in (self.mean, self.basis))
        descriptors = descriptors.float()
        if self.is_of_roots:
            descriptors = _roots(descriptors)
        return F.normalize((descriptors - mean) @ basis)


def _roots(descriptors: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    """Square roots, with the sign, of unit length again."""
    return F.normalize(descriptors.sign() * descriptors.abs().sqrt())


def learn_projection(
    features: Path, roots: bool = True, whitening: float = WHITENING
) -> Projection:
    """Learn a projection from a bounded number of descriptors of a file, at even distances.

    The same file gives the same projection. `roots` takes square roots first, `whitening` is the
    power of each direction's variance that it is divided by.

    Raises:
        ValueError: if the file holds too few descriptors.
    """
    names = features_h5.extracted_names(features)
    names = [names[k] for k in _spread(len(names), IMAGES)]
    total: Any = 0.0
    products: Any = 0.0
    count = 0
    with features_h5.open_h5(features) as file:
        for name in names:
            found = _checked(features_h5.descriptors_of(file, name).double(), total, features, name)
            found = found[torch.from_numpy(_spread(len(found), FROM_EACH))]
            if not len(found):
                continue
            found = _roots(found) if roots else found
            total, products = total + found.sum(dim=0), products + found.T @ found
            count += len(found)
    if count < 2 or count < len(products):
        raise ValueError(
            f"{features}: holds {count} descriptors, too few to learn a projection from; give one "
            "that was learned from more images."
        )
    mean = total / count
    basis, share = _principal(products / count - torch.outer(mean, mean), whitening)
    made_from = {
        "features": features_h5.read_configuration(features),
        "images": len(names),
        "descriptors": count,
        "share_of_variance": round(share, 4),
        "whitening": whitening,
    }
    return Projection(
        mean=mean.float(), basis=basis.float(), is_of_roots=roots, learned_from=made_from
    )


def _checked(descriptors: Tensor, total: Any, features: Path, name: str) -> Tensor:
    """The descriptors, if they can be added to those before.

    Raises:
        ValueError: if they are of another width, or hold what is no number.
    """
    if len(descriptors) and isinstance(total, Tensor) and descriptors.shape[1] != len(total):
        raise ValueError(
            f"{features}: descriptors of {name} have {descriptors.shape[1]} numbers, those before "
            f"{len(total)}; extract all images in the same way."
        )
    if not descriptors.isfinite().all():
        raise ValueError(f"{features}: descriptors of {name} are no numbers; extract it again.")
    return descriptors


def _principal(covariance: Tensor, whitening: float) -> tuple[Tensor, float]:
    """Directions (D, M) of the largest variances, weighted, and their share of the variance."""
    variances, directions = torch.linalg.eigh(covariance)  # sorted upwards
    variances, directions = variances.flip(0)[:MOST], directions.flip(1)[:, :MOST]
    share = float(variances.sum() / covariance.trace())
    largest = directions.abs().argmax(dim=0)
    directions = directions * directions.gather(0, largest[None]).sign()  # either would do
    floor = variances[0] * 1e-6  # of numbers that are always equal
    return directions * variances.clamp(min=floor) ** -whitening, share


def _spread(count: int, most: int) -> np.ndarray:
    """Numbers below `count`, at even distances, at most `most`."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


def save_projection(path: Path, projection: Projection) -> Path:
    """Write a projection, in half precision, as safetensors with a record of what made it.

    Raises:
        DiskFull: if there is no space.
    """
    tensors = {"mean": projection.mean.half(), "basis": projection.basis.half().contiguous()}
    record = {"is_of_roots": projection.is_of_roots, "learned_from": projection.learned_from}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, save(tensors, {"projection": json.dumps(record)}))
    return path


def bundled_projection(dimensions: int | None) -> Projection | None:
    """The bundled projection onto its first directions; None leaves descriptors whole."""
    return None if dimensions is None else load_projection(BUNDLED).first(dimensions)


def load_projection(path: Path) -> Projection:
    """Read a projection.

    Raises:
        ValueError: if there is none, or the file is damaged or something else.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such projection; learn it by 'd2-hloc compress'.")
    try:
        with safe_open(path, "pt") as file:
            mean, basis = file.get_tensor("mean").float(), file.get_tensor("basis").float()
            record = parse_json((file.metadata() or {})["projection"])
        is_of_roots, learned_from = bool(record["is_of_roots"]), dict(record["learned_from"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: is not a projection, or is damaged; delete it and learn it again."
        ) from error
    is_whole = bool(mean.isfinite().all() and basis.isfinite().all())
    if not is_whole or mean.ndim != 1 or basis.ndim != 2 or len(mean) != len(basis):
        raise ValueError(f"{path}: its mean and basis do not fit together; learn it again.")
    return Projection(mean=mean, basis=basis, is_of_roots=is_of_roots, learned_from=learned_from)
