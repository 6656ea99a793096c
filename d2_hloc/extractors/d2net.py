"""D2-Net as an extractor of hloc's: {"image": 1 x 3 x H x W} -> keypoints, scores, descriptors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from d2_hloc import config
from d2_hloc.adapters.d2net import NOISE
from d2_hloc.base_model import BaseModel
from d2_hloc.d2net import MULTISCALE, D2NetOptions
from d2_hloc.d2net import D2Net as Network

OWN_KEYS = (*D2NetOptions.__dataclass_fields__, "multiscale")
HLOC_KEYS = ("name", "model_name", "checkpoint_dir", "use_relu")  # of its own d2net


class D2Net(BaseModel):
    """`conf` holds D2NetOptions' keys and `multiscale`, or those of hloc's own d2net.

    Keypoints are float64, so that hloc's `as_half`, which its pipelines leave on, passes them by:
    it halves float32 alone, and as float16 they would move in steps of a pixel from 1024 on.

    Attributes:
        detection_noise: deviation of the keypoints, in pixels of the extracted image.
    """

    default_conf: ClassVar[dict[str, Any]] = {"multiscale": False}
    required_inputs: ClassVar[list[str]] = ["image"]
    detection_noise = NOISE

    def _init(self, conf: dict[str, Any]) -> None:
        self.net = Network(options_of(conf))

    def _forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """RGB in [0, 1] -> keypoints 1 x N x 2 (pixels), scores and scales 1 x N, descriptors
        1 x 512 x N, global_descriptor 1 x 512.

        Raises:
            ValueError: for a batch of other than one image, since N differs between images.
        """
        image = data["image"]
        if image.ndim != 4 or image.shape[0] != 1:
            raise ValueError(f"The image must be 1 x 3 x H x W, not {tuple(image.shape)}.")
        features = self.net.extract(image[0])
        found = {
            "keypoints": features.keypoints.double(),
            "scores": features.scores.float(),
            "descriptors": features.descriptors.T.float(),
            "scales": features.scales.float(),
        }
        if features.global_descriptor is not None:
            found["global_descriptor"] = features.global_descriptor.float()
        return {key: value[None] for key, value in found.items()}


def options_of(conf: dict[str, Any]) -> D2NetOptions:
    """The options that a model conf of hloc's form asks for.

    Raises:
        ConfigError: for an unknown key, a wrong value, or keys that contradict each other.
    """
    known = (*OWN_KEYS, *HLOC_KEYS)
    for key in conf:
        if key not in known:
            raise config.ConfigError(f"d2net: unknown key {key!r}; known are {', '.join(known)}.")
    if not conf.get("use_relu", True):
        raise config.ConfigError("d2net: use_relu cannot be False: detection needs the ReLU.")
    values = {key: conf[key] for key in OWN_KEYS if key in conf and key != "multiscale"}
    if "model_name" in conf:
        _set(values, "weights", "model_name", _published_weights(conf))
    if conf.get("multiscale"):
        _set(values, "scales", "multiscale", MULTISCALE)
    if "weights" in values:
        values["weights"] = str(values["weights"])
    return config.build(D2NetOptions, values, "d2net")


def _set(values: dict[str, Any], key: str, asked_as: str, value: Any) -> None:
    if key in values:
        raise config.ConfigError(f"d2net: give {key} or {asked_as}, not both.")
    values[key] = value


def _published_weights(conf: dict[str, Any]) -> str:
    """hloc's file name -> the file, if it is there, or else our name of the same weights."""
    file = Path(conf.get("checkpoint_dir", ""), conf["model_name"])
    return str(file) if file.is_file() else file.stem
