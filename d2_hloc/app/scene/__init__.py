"""A square with photographs on its walls: images whose cameras and depth are known exactly."""

from d2_hloc.app.scene.camera import Camera
from d2_hloc.app.scene.demo import DemoView, mapping_views, query_views, take, write_demo
from d2_hloc.app.scene.pose import Pose
from d2_hloc.app.scene.renderer import Scene, depth, render
from d2_hloc.app.scene.square import DAY, NIGHT, market_square
from d2_hloc.app.scene.surface import Surface

__all__ = [
    "DAY",
    "NIGHT",
    "Camera",
    "DemoView",
    "Pose",
    "Scene",
    "Surface",
    "depth",
    "mapping_views",
    "market_square",
    "query_views",
    "render",
    "take",
    "write_demo",
]
