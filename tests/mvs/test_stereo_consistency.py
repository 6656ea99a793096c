"""Depths stay where other views confirm them; normals are those of the surfaces."""

import dataclasses

import numpy as np
import pytest
import torch
from stereo_scene import BALL, CENTRES, FLOOR, WALL, render

from d2_hloc.mvs.consistency import consistent_depth
from d2_hloc.mvs.normals import normals
from d2_hloc.mvs.options import ConsistencyOptions

pytestmark = pytest.mark.usefixtures("on_device")

OPTIONS = ConsistencyOptions()


@pytest.fixture(scope="module")
def scene():
    return [render(centre) for centre in CENTRES]


@pytest.fixture(scope="module")
def depths(scene, device):
    return [(torch.from_numpy(r.depth).float().to(device), r.view) for r in scene]


def test_true_depth_stays(depths):
    depth, view = depths[0]
    kept = consistent_depth(depth, view, depths[1:], OPTIONS)
    assert (kept > 0).float().mean() > 0.97
    assert torch.equal(kept[kept > 0], depth[kept > 0])


@pytest.mark.parametrize("factor", [1.05, 0.9, 100.0])
def test_a_planted_wrong_depth_goes(depths, factor):
    depth, view = depths[0]
    wrong = depth.clone()
    wrong[40:60, 20:50] *= factor
    kept = consistent_depth(wrong, view, depths[1:], OPTIONS)
    assert kept[40:60, 20:50].count_nonzero() == 0
    assert kept[42:58, 60:].count_nonzero() > 0


def test_one_view_is_not_two(depths):
    depth, view = depths[0]
    assert consistent_depth(depth, view, depths[1:2], OPTIONS).count_nonzero() == 0
    single = dataclasses.replace(OPTIONS, min_num_views=1)
    assert consistent_depth(depth, view, depths[1:2], single).count_nonzero() > 0


def test_no_depth_and_no_views_give_none(depths):
    depth, view = depths[0]
    empty = torch.zeros_like(depth)
    assert consistent_depth(empty, view, depths[1:], OPTIONS).count_nonzero() == 0
    others = [(torch.zeros_like(d), v) for d, v in depths[1:]]
    kept = consistent_depth(depth, view, others, OPTIONS)
    assert kept.count_nonzero() == 0
    assert kept.isfinite().all()
    assert consistent_depth(depth, view, [], OPTIONS).count_nonzero() == 0


def angles(found, expected):
    """Degrees between unit vectors (3, H, W)."""
    return np.degrees(np.arccos(np.clip((found * expected).sum(axis=0), -1, 1)))


def in_camera(scene, normal):
    R = scene[0].view.cam_from_world[:, :3].cpu().numpy()
    return -(R @ normal / np.linalg.norm(normal))[:, None, None]


def test_normals_of_planes_are_exact(scene, depths):
    found = normals(*depths[0][:1], scene[0].view.K).cpu().numpy()
    assert np.median(angles(found, in_camera(scene, WALL[0]))[5:40, 5:-5]) < 0.1
    assert np.median(angles(found, in_camera(scene, FLOOR[0]))[-25:-5, 5:-5]) < 0.1


def test_normals_of_a_ball_point_away_from_its_centre(scene, depths):
    view, depth = scene[0].view, scene[0].depth
    R, t = view.cam_from_world[:, :3].cpu().numpy(), view.cam_from_world[:, 3].cpu().numpy()
    centre = R @ BALL[0] + t
    x, y = np.meshgrid(np.arange(depth.shape[1]), np.arange(depth.shape[0]))
    rays = np.einsum("ij,jhw->ihw", np.linalg.inv(view.K), np.stack([x, y, np.ones_like(x)]))
    outward = (rays * depth - centre[:, None, None]) / BALL[1]
    on_ball = np.abs(np.linalg.norm(outward, axis=0) - 1) < 1e-6
    found = normals(depths[0][0], view.K).cpu().numpy()
    errors = angles(found, outward)[on_ball]
    assert on_ball.sum() > 1000
    assert np.median(errors) < 2


def test_normals_face_the_camera_and_are_0_without_depth(scene, depths):
    depth = depths[0][0].clone()
    depth[:50, :50] = 0
    depth[20, 20] = 3.0  # all alone
    found = normals(depth, scene[0].view.K)
    assert found.isfinite().all()
    assert found[:, :20, :20].count_nonzero() == 0
    assert torch.allclose(found[:, depth > 0].norm(dim=0), torch.tensor(1.0))
    assert (found[2][depth > 0] < 0).float().mean() > 0.99
