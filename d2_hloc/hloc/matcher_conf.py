"""hloc's model confs of our matchers -> MatchingOptions."""

from __future__ import annotations

from typing import Any

from d2_hloc.core import config
from d2_hloc.matching.options import MatchingOptions

OWN_KEYS = tuple(MatchingOptions.__dataclass_fields__)
HLOC_KEYS = ("name", "do_mutual_check")  # the second is what its own matcher calls `mutual`


def matching_options_of(conf: dict[str, Any]) -> MatchingOptions:
    """The options that a model conf of hloc's form asks for.

    Raises:
        ConfigError: for an unknown key or a wrong value.
    """
    known = (*OWN_KEYS, "max_index", *HLOC_KEYS)
    for key in conf:
        if key not in known:
            raise config.ConfigError(f"matcher: unknown key {key!r}; known: {', '.join(known)}.")
    values = {key: conf[key] for key in OWN_KEYS if key in conf}
    if "do_mutual_check" in conf:
        values.setdefault("mutual", conf["do_mutual_check"])
    return config.from_dict(MatchingOptions, values, "matcher")
