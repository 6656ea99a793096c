"""A model of the name that the plugin takes over; it cannot work without a submodule."""

from ..utils.base_model import BaseModel


class D2Net(BaseModel):
    def _init(self, conf):
        raise RuntimeError("the stand-in's own d2net was loaded")

    def _forward(self, data): ...
