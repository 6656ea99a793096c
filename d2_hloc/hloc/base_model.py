"""BaseModel: hloc's own where hloc can be imported, otherwise a class that keeps the same contract.

The adapters in extractors/ and matchers/ derive from it, so they work with and without hloc.
"""

from __future__ import annotations

import zlib  # noqa: F401 - hloc imports pycolmap, which has to come after zlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

__all__ = ["BaseModel"]


class _OwnBaseModel(nn.Module, ABC):
    """A model made from a dictionary of options, from a dictionary of tensors to another one."""

    default_conf: ClassVar[dict[str, Any]] = {}
    required_inputs: ClassVar[list[str]] = []

    def __init__(self, conf: dict[str, Any]) -> None:
        super().__init__()
        self.conf = {**self.default_conf, **conf}
        self._init(self.conf)

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """The model's output.

        Raises:
            ValueError: if an input that the model needs is missing.
        """
        missing = [key for key in self.required_inputs if key not in data]
        if missing:
            raise ValueError(f"{type(self).__name__} needs the inputs {', '.join(missing)}.")
        return self._forward(data)

    @abstractmethod
    def _init(self, conf: dict[str, Any]) -> None:
        """Build the model."""

    @abstractmethod
    def _forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Run it on inputs that are all there."""


def _base_model() -> Any:
    try:
        from hloc.utils.base_model import BaseModel as HlocsOwn  # pyright: ignore
    except ImportError:  # be it that hloc lacks what it imports: register() says what is missing
        return _OwnBaseModel
    return HlocsOwn


BaseModel = _base_model()
