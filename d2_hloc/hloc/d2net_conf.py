"""hloc's model confs of D2-Net -> D2NetOptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from d2_hloc.core import config
from d2_hloc.features.options import VARIANTS
from d2_hloc.network.options import D2NetOptions

FEATURE_OF = {"multiscale": "d2net-ms", "fine": "d2net-fine"}  # that a key asks for
OWN_KEYS = (*D2NetOptions.__dataclass_fields__, *FEATURE_OF)
HLOC_KEYS = ("name", "model_name", "checkpoint_dir", "use_relu")  # of its own d2net


def d2net_options_of(conf: dict[str, Any]) -> D2NetOptions:
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
    values = {key: conf[key] for key in D2NetOptions.__dataclass_fields__ if key in conf}
    if "model_name" in conf:
        _set(values, "weights", "model_name", _published_weights(conf))
    for asked_as, feature in FEATURE_OF.items():
        for key, value in VARIANTS[feature].items() if conf.get(asked_as) else ():
            _set(values, key, asked_as, value)
    if "weights" in values:
        values["weights"] = str(values["weights"])
    return config.from_dict(D2NetOptions, values, "d2net")


def _set(values: dict[str, Any], key: str, asked_as: str, value: Any) -> None:
    if key in values:
        raise config.ConfigError(f"d2net: give {key} or {asked_as}, not both.")
    values[key] = value


def _published_weights(conf: dict[str, Any]) -> str:
    """hloc's file name -> the file, if it is there, or else our name of the same weights."""
    file = Path(conf.get("checkpoint_dir", ""), conf["model_name"])
    return str(file) if file.is_file() else file.stem
