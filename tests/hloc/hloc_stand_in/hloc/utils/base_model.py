"""The contract of a model, and how one is found by name."""

import importlib
import inspect
from abc import ABC, abstractmethod

from torch import nn


class BaseModel(nn.Module, ABC):
    default_conf = {}  # noqa: RUF012
    required_inputs = []  # noqa: RUF012

    def __init__(self, conf):
        super().__init__()
        self.conf = {**self.default_conf, **conf}
        self._init(self.conf)

    def forward(self, data):
        for key in self.required_inputs:
            assert key in data, f"Missing key {key} in data"
        return self._forward(data)

    @abstractmethod
    def _init(self, conf): ...

    @abstractmethod
    def _forward(self, data): ...


def dynamic_load(root, name):
    """The only BaseModel whose module is `<root>.<name>`, by that very name."""
    module = importlib.import_module(f"{root.__name__}.{name}")
    found = [
        cls
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if cls.__module__ == module.__name__ and issubclass(cls, BaseModel)
    ]
    assert len(found) == 1, found
    return found[0]
