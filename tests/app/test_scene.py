"""Planted truths of the rendered scene: its depth, poses, intrinsics and pixels agree."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from d2_hloc.app.scene import DAY, NIGHT, Camera, Pose, Scene, Surface, demo, depth, render
from d2_hloc.app.scene.light import Lamp, irradiance
from d2_hloc.app.scene.renderer import pixel_light
from d2_hloc.app.scene.square import market_square
from d2_hloc.app.scene.surface import block, box, column, wall
from d2_hloc.app.scene.texture import masonry, noise, photograph, plain
from d2_hloc.core.pixels import from_colmap, to_colmap
from d2_hloc.files.colmap import pycolmap

CAMERA = Camera(size=(161, 121), focal=140.0, principal_point=(77.3, 62.1))
GREY = plain((0.5, 0.5, 0.5))


def slanted(texture: np.ndarray = GREY) -> Surface:
    """Leans back and turns away, in front of a camera that looks along y from the origin."""
    return Surface(
        corner=np.array([-1.0, 3.0, 1.0]),
        right=np.array([2.0, 0.7, 0.0]),
        down=np.array([0.1, -0.5, -1.8]),
        texture=texture,
    )


def along_y(height: float = 0.0) -> Pose:
    return Pose.looking_at(np.array([0, 0, height]), np.array([0, 1, height]))


def inverse_depth_at(image: np.ndarray, xy: np.ndarray) -> float:
    """Inverse depth is linear on a plane, so this interpolates it without error."""
    column, row = np.floor(xy).astype(int)
    fx, fy = xy - (column, row)
    block = 1 / image[row : row + 2, column : column + 2].astype(np.float64)
    return float(np.array([1 - fy, fy]) @ block @ np.array([1 - fx, fx]))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with demo.one_thread_an_operation():
        yield


@pytest.fixture(scope="module")
def square() -> tuple[Surface, ...]:
    return market_square()


@pytest.fixture(scope="module")
def day(square: tuple[Surface, ...]) -> Scene:
    return Scene.lit(square, DAY)


# --- camera and pose


def test_projects_what_it_casts() -> None:
    xy = np.array([[0.0, 0.0], [160, 120], [77.3, 62.1], [12.25, 99.5]])
    points = CAMERA.rays(xy) * np.array([[0.3], [2], [5], [77]])
    np.testing.assert_allclose(CAMERA.project(points), xy, atol=1e-12)


def test_a_view_angle_spans_the_image() -> None:
    camera = Camera.from_view_angle((640, 480), 90.0)
    model, *numbers = camera.colmap().split()
    assert model == "PINHOLE"
    np.testing.assert_allclose([float(x) for x in numbers], [640, 480, 320, 320, 320, 240])


@pytest.mark.parametrize(
    ("size", "degrees", "text"), [((0, 9), 60.0, "0, 9"), ((8, 9), 180.0, "at 180")]
)
def test_refuses_impossible_cameras(size: tuple[int, int], degrees: float, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Camera.from_view_angle(size, degrees)


def pose_of(quaternion: np.ndarray, translation: np.ndarray) -> Pose:
    """The pose that COLMAP makes of a quaternion (w, x, y, z) of any length."""
    rotation = pycolmap.Rotation3d(np.roll(quaternion / np.linalg.norm(quaternion), -1))
    return Pose(rotation=rotation.matrix(), translation=translation)


def to_world(pose: Pose, points: np.ndarray) -> np.ndarray:
    return (points - pose.translation) @ pose.rotation


def test_quaternions_and_rotations_go_round() -> None:
    random = np.random.default_rng(0)
    quaternions = [*random.normal(size=(50, 4)), *np.eye(4)]  # np.eye: half turns about the axes
    for quaternion in quaternions:
        pose = pose_of(quaternion, np.array([1.0, 2, 3]))
        np.testing.assert_allclose(pose.rotation @ pose.rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(pose.rotation) == pytest.approx(1)
        expected = quaternion / np.linalg.norm(quaternion)
        assert abs(pose.quaternion @ expected) == pytest.approx(1)
        assert pose.quaternion[0] >= 0
        again = pose_of(pose.quaternion, pose.translation)
        np.testing.assert_allclose(again.rotation, pose.rotation, atol=1e-12)


def test_a_quaternion_turns_as_it_should() -> None:
    """A quarter turn about z carries x to y."""
    pose = pose_of(np.array([1.0, 0, 0, 1]), np.zeros(3))
    np.testing.assert_allclose(pose.apply(np.array([1.0, 0, 0])), [0, 1, 0], atol=1e-12)


def test_looks_at_its_target_and_stands_upright() -> None:
    centre, target = np.array([1.0, -4, 1.5]), np.array([0.3, 1, 1.2])
    pose = Pose.looking_at(centre, target)
    np.testing.assert_allclose(pose.centre, centre, atol=1e-12)
    distance = np.linalg.norm(target - centre)
    np.testing.assert_allclose(pose.apply(target), [0, 0, distance], atol=1e-12)
    above = pose.apply(target + np.array([0, 0, 1]))
    assert above[0] == pytest.approx(0)
    assert above[1] < 0
    np.testing.assert_allclose(to_world(pose, pose.apply(target)), target, atol=1e-12)


def test_refuses_poses_without_a_direction() -> None:
    with pytest.raises(ValueError, match="no upright pose"):
        Pose.looking_at(np.zeros(3), np.array([0.0, 0, 2]))


# --- depth


@pytest.mark.parametrize("uv", [(0.05, 0.05), (0.3, 0.6), (0.9, 0.5), (0.95, 0.95)])
def test_depth_leads_back_to_the_planted_point(uv: tuple[float, float]) -> None:
    surface, pose = slanted(), along_y()
    point = surface.at(*uv)
    xy = CAMERA.project(pose.apply(point))
    z = 1 / inverse_depth_at(depth([surface], CAMERA, pose), xy)
    assert z == pytest.approx(pose.apply(point)[2], rel=1e-6)
    np.testing.assert_allclose(to_world(pose, z * CAMERA.rays(xy)), point, atol=1e-5)


def test_corners_bound_what_is_covered() -> None:
    """A pixel is covered exactly where its centre lies inside the projected corners."""
    surface = wall((-1.0, 4.0), (1.0, 4.0), 1.0, GREY)
    pose = along_y(height=0.4)
    found = depth([surface], CAMERA, pose) > 0
    first = CAMERA.project(pose.apply(surface.at(0.0, 0.0)))
    last = CAMERA.project(pose.apply(surface.at(1.0, 1.0)))
    y, x = np.mgrid[:121, :161]
    expected = (x >= first[0]) & (x <= last[0]) & (y >= first[1]) & (y <= last[1])
    np.testing.assert_array_equal(found, expected)


def test_depth_of_the_ground_is_the_analytic_one() -> None:
    ground = Surface(
        corner=np.array([-50.0, 90, 0]),
        right=np.array([100.0, 0, 0]),
        down=np.array([0, -100.0, 0]),  # goes on behind the camera
        texture=GREY,
    )
    found = depth([ground], CAMERA, along_y(height=1.6))
    rows = np.arange(66, 121)  # from 57 m on
    expected = 1.6 * CAMERA.focal / (rows - CAMERA.principal_point[1])
    np.testing.assert_allclose(found[66:], np.repeat(expected[:, None], 161, axis=1), rtol=1e-6)
    assert not found[:62].any()


def test_the_nearest_surface_is_seen_and_none_from_behind() -> None:
    near, far = (wall((-9.0, y), (9.0, y), 9.0, GREY) for y in (2.0, 5.0))
    pose = along_y(height=4.0)
    assert depth([far, near], CAMERA, pose) == pytest.approx(2.0)
    assert depth([near, far], CAMERA, pose) == pytest.approx(2.0)
    turned = wall((9.0, 2.0), (-9.0, 2.0), 9.0, GREY)
    assert depth([turned, far], CAMERA, pose) == pytest.approx(5.0)
    assert not depth([turned], CAMERA, pose).any()
    assert not depth([], CAMERA, pose).any()


def test_solids_are_closed() -> None:
    """From any side a ray that enters a solid meets the face that is turned to it."""
    solids = (
        *box((0.0, 0.0), (1.0, 0.6, 0.8), 33.0, [GREY], GREY, base=0.3),
        *column((2.0, 0.0), 0.4, 1.5, 8, np.repeat(GREY, 4, axis=1)),
        *block(slanted(), 0.2, [GREY], GREY),
    )
    for solid in solids[:6], solids[14:]:
        middle = np.mean([s.at(0.5, 0.5) for s in solid], axis=0)
        assert all((s.at(0.5, 0.5) - middle) @ s.normal > 0 for s in solid)
        assert sum(s.normal * np.prod(s.lengths) for s in solid) == pytest.approx(0, abs=1e-12)
    assert all((s.at(0.5, 0.5) - [2, 0, 0.75]) @ s.normal > 0.3 for s in solids[6:14])


# --- colours


def scene_of(*surfaces: Surface) -> Scene:
    return Scene.lit(surfaces, replace(DAY, sun=(0.0, 0.0, 0.0)))


def test_pixels_are_means_over_their_area() -> None:
    """An edge that runs through a column of pixels, 0.3 of each being covered."""
    white = plain((1.0, 1.0, 1.0))
    x, distance = 100.2, 4.0  # a pixel ends 0.5 to the right of its centre
    edge = (x - CAMERA.principal_point[0]) / CAMERA.focal * distance
    scene = scene_of(wall((edge, distance), (20.0, distance), 50.0, white))
    pose = along_y(height=25.0)
    light = pixel_light(scene, CAMERA, pose, samples=10)[60]
    sky, full = pixel_light(scene_of(), CAMERA, pose, samples=10)[60], light[120]
    share = (light[100] - sky[100]) / (full - sky[100])
    np.testing.assert_allclose(share, 0.3, atol=1e-4)


def test_textures_lie_as_documented() -> None:
    """Red at the top left, green at the top right, blue at the bottom left."""
    texture = np.zeros((2, 2, 3), np.float32)
    texture[0, 0, 0] = texture[0, 1, 1] = texture[1, 0, 2] = 1
    scene = scene_of(wall((-3.0, 5.0), (3.0, 5.0), 4.5, texture))
    image, _ = render(scene, CAMERA, along_y(height=2.25))
    corners = [image[10, 10], image[10, 150], image[110, 10]]
    assert [int(c.argmax()) for c in corners] == [0, 1, 2]
    assert image[110, 150].max() < 30


def test_far_textures_do_not_alias() -> None:
    """A fine chessboard from far away is an even grey, whatever the samples meet."""
    board = np.indices((512, 512)).sum(axis=0)[..., None] % 2 * np.ones(3, np.float32)
    scene = scene_of(wall((-50.0, 60.0), (50.0, 60.0), 100.0, board.astype(np.float32)))
    image, _ = render(scene, CAMERA, along_y(height=50.0))
    assert image[30:90, 40:120].std(axis=(0, 1)).max() < 4


def warp(image: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """An image's colours at pixels (H, W, 2), interpolated; NaN outside."""
    height, width = image.shape[:2]
    size = np.array([width - 1, height - 1])
    grid = torch.from_numpy(2 * xy / size - 1)[None]
    pixels = torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)[None]
    found = F.grid_sample(pixels, grid, align_corners=True)[0].permute(1, 2, 0).numpy()
    return np.where(((xy >= 0) & (xy <= size)).all(axis=2, keepdims=True), found, np.nan)


def colmap_projection(camera: Camera, points: np.ndarray) -> np.ndarray:
    """With the numbers that are written to file, in COLMAP's pixels."""
    fx, fy, cx, cy = (float(x) for x in camera.colmap().split()[3:])
    return points[..., :2] / points[..., 2:] * (fx, fy) + (cx, cy)


def test_two_views_agree_where_they_see_the_same(day: Scene) -> None:
    """Depth and pose carry one view into the other, also through COLMAP's pixels."""
    cameras = [Camera.from_view_angle((320, 240), angle) for angle in (62.0, 56.0)]
    poses = [demo.around(-6.0, 4.9, 1.5), demo.around(2.0, 5.1, 1.7, roll=3.0)]
    (image0, depth0), (image1, depth1) = (
        render(day, camera, pose) for camera, pose in zip(cameras, poses, strict=True)
    )
    xy = np.stack(np.meshgrid(*cameras[0].grid()), axis=2)
    points = poses[1].apply(to_world(poses[0], cameras[0].rays(xy) * depth0[..., None]))
    there = from_colmap(colmap_projection(cameras[1], points))
    seen = warp(depth1[..., None], there)[..., 0]
    same = (depth0 > 0) & (np.abs(seen - points[..., 2]) < 0.01)
    assert same.mean() > 0.5

    def difference(shift: tuple[float, float]) -> float:
        shifted = warp(image1, there + shift)[same]
        return float(np.nanmedian(np.abs(shifted - image0[same]).mean(axis=1)))

    assert difference((0, 0)) < 4  # grey levels
    shifts = [(0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)]
    assert difference((0, 0)) < 0.8 * min(difference(s) for s in shifts)
    np.testing.assert_allclose(to_colmap(there), colmap_projection(cameras[1], points))


def test_the_square_is_the_same_every_time(day: Scene, square: tuple[Surface, ...]) -> None:
    again = market_square()
    assert all(np.array_equal(a.texture, b.texture) for a, b in zip(square, again, strict=True))
    camera, pose = Camera.from_view_angle((97, 61), 60.0), demo.around(0.0, 5.0, 1.6)
    first, second = render(day, camera, pose), render(day, camera, pose)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert first[0].shape == (61, 97, 3)
    assert first[1].shape == (61, 97)


def test_the_demo_sees_no_holes(square: tuple[Surface, ...]) -> None:
    """The sky has no depth, and lies above the walls: none is seen at their feet or ends."""
    for view in demo.mapping_views() + demo.query_views():
        xy = np.stack(np.meshgrid(*view.camera.grid()), axis=2)
        rays = view.camera.rays(xy) @ view.pose.rotation
        rise = rays[..., 2] / np.linalg.norm(rays[..., :2], axis=2)
        sky = depth(square, view.camera, view.pose) == 0
        assert 0.02 < sky.mean() < 0.25, view.name
        assert np.degrees(np.arctan(rise[sky])).min() > 5, view.name


# --- light


def test_what_stands_in_the_sun_casts_a_shadow() -> None:
    ground = Surface(
        corner=np.array([-3.0, 3, 0]),
        right=np.array([6.0, 0, 0]),
        down=np.array([0, -6.0, 0]),
        texture=GREY,
    )
    sun = replace(DAY, to_sun=(1.0, 0.0, 1.0), sky=(0.0, 0.0, 0.0), sun=(2.0, 2.0, 2.0))
    solid = box((0.0, 0.0), (1.0, 1.0, 1.0), 0.0, [GREY], GREY)
    light = irradiance(ground, [ground, *solid], sun)
    rows, columns = light.shape[:2]

    def at(x: float, y: float) -> float:
        return float(light[int((3 - y) / 6 * rows), int((x + 3) / 6 * columns), 0])

    assert at(-1.2, 0.0) == 0  # the shadow reaches 1 m to the left of the box
    assert [at(-1.7, 0.0), at(1.2, 0.0), at(-1.0, 0.7)] == pytest.approx([np.sqrt(2)] * 3, 1e-5)


def test_a_lamp_fades_with_the_square_of_the_distance() -> None:
    lamp = Lamp(place=(0.0, 3.0, 1.0), colour=(1.0, 0.5, 0.25))
    light = replace(NIGHT, sky=(0.0, 0.0, 0.0), lamps=(lamp,))
    surface = wall((-2.0, 5.0), (2.0, 5.0), 2.0, GREY)
    found = irradiance(surface, [surface], light)
    middle = found[found.shape[0] // 2, found.shape[1] // 2]
    np.testing.assert_allclose(middle, np.array(lamp.colour) / 4, rtol=1e-2)
    screen = wall((-2.0, 4.0), (2.0, 4.0), 2.0, GREY)
    assert not irradiance(surface, [surface, screen], light)[20:-20].any()


# --- textures


def test_textures_need_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    photograph.cache_clear()
    surfaces = market_square()
    for surface in surfaces:
        assert surface.texture.dtype == np.float32
        assert surface.texture.shape[2] == 3
        assert surface.texture.min() >= 0
        assert surface.texture.max() <= 1


def test_no_two_bricks_are_alike() -> None:
    colours = [(0.5, 0.2, 0.1), (0.1, 0.1, 0.1)]
    bricks = masonry((2.0, 0.8), 100.0, (0.2, 0.1), 0.01, colours, seed=0)
    patches = [bricks[y : y + 10, x : x + 20] for y in range(0, 80, 10) for x in range(0, 200, 20)]
    assert len({patch.tobytes() for patch in patches}) == len(patches) == 80


def test_noise_is_centred_and_of_the_size_asked_for() -> None:
    found = noise(61, 97, 20.0, seed=3)
    assert found.shape == (61, 97)
    assert found.mean() == pytest.approx(0.5, abs=0.1)
    assert not np.array_equal(found, noise(61, 97, 20.0, seed=4))


# --- the folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A square of one wall and small images: the folder is the same."""
    surfaces = (wall((-3.0, 3.0), (3.0, 3.0), 3.0, photograph("coffee")),)
    monkeypatch.setattr(demo, "market_square", lambda: surfaces)
    monkeypatch.setattr(demo, "SIZE", (64, 48))


@pytest.mark.usefixtures("quick")
def test_the_written_files_agree_with_the_views(tmp_path: Path) -> None:
    from PIL import Image

    demo.write_demo(tmp_path / "a" / "demo")
    folder = tmp_path / "a" / "demo"
    lines = [(folder / f"{n}.txt").read_text().splitlines() for n in ("intrinsics", "ground_truth")]
    views = demo.mapping_views() + demo.query_views()
    assert len(lines[0]) == len(lines[1]) == len(views) == len({v.name for v in views})
    for view, camera, truth in zip(views, *lines, strict=True):
        name, model, *size, fx, fy, cx, cy = camera.split()
        assert (name, model) == (Path(view.name).name, "PINHOLE")
        with Image.open(folder / view.name) as image:
            assert list(image.size) == [int(s) for s in size]
        assert float(fx) == float(fy) == view.camera.focal
        assert (float(cx), float(cy)) == (32, 24)
        name, *numbers = truth.split()
        quaternion, translation = np.split(np.array(numbers, float), [4])
        pose = pose_of(quaternion, translation)
        assert name == Path(view.name).name
        np.testing.assert_allclose(pose.rotation, view.pose.rotation, atol=1e-12)
        np.testing.assert_array_equal(pose.translation, view.pose.translation)


@pytest.mark.usefixtures("quick")
def test_is_written_once_and_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        demo.write_demo(tmp_path / name)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 12 + 3 + 2
    assert all(
        (tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files
    )
    before = (tmp_path / "a" / files[0]).stat().st_mtime_ns
    demo.write_demo(tmp_path / "a")
    assert (tmp_path / "a" / files[0]).stat().st_mtime_ns == before


@pytest.mark.usefixtures("quick")
def test_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    with monkeypatch.context() as broken:
        broken.setattr(demo, "ground_truth", lambda views: "view")
        broken.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            demo.write_demo(folder)
    assert not folder.exists() or not any(folder.iterdir())
    demo.write_demo(folder)
    assert (folder / "ground_truth.txt").read_text().count("\n") == 15
    assert [p.name for p in tmp_path.iterdir()] == ["demo"]


@pytest.mark.usefixtures("quick")
def test_leaves_other_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        demo.write_demo(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.usefixtures("quick")
def test_nights_are_darker_and_noisy() -> None:
    view = demo.query_views()[0]
    light, dark = demo.take([view, replace(view, night=True)])
    assert dark.mean() < 0.6 * light.mean()
    assert np.diff(dark[:, :8].astype(float), axis=0).std() > 4
