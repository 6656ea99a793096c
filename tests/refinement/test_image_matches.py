"""Two images -> pixel matches: right to a fraction of a pixel, many, and none where nothing is."""

import pytest
import torch
import torch.nn.functional as F

import d2_hloc
from d2_hloc.refinement.coarse_to_fine import CoarseToFineOptions
from d2_hloc.refinement.image_matches import ImageMatcher, ImageMatchingOptions, split_corners

pytestmark = pytest.mark.usefixtures("on_device")


@pytest.fixture(scope="module")
def matcher():
    return ImageMatcher()


def warp(image, matrix, shift, size):
    """The image moved so that its pixel x is found at matrix @ x + shift; size is (w, h)."""
    y, x = torch.meshgrid(torch.arange(size[1]), torch.arange(size[0]), indexing="ij")
    source = (torch.stack([x, y], dim=-1).float() - shift) @ torch.linalg.inv(matrix).T
    last = torch.tensor([image.shape[2] - 1, image.shape[1] - 1])
    grid = (source / last * 2 - 1)[None]
    return F.grid_sample(image[None], grid, mode="bicubic", align_corners=True)[0].clamp(0, 1)


MATRIX = (0.95, -0.2), (0.25, 1.0)
SHIFT = 40.5, -12.25


@pytest.fixture(scope="module")
def moved(photo):
    return 0.8 * warp(photo, torch.tensor(MATRIX), torch.tensor(SHIFT), (331, 277)) + 0.1


def errors_of(xy0, xy1):
    return (xy0 @ xy0.new_tensor(MATRIX).T + xy0.new_tensor(SHIFT) - xy1).norm(dim=1)


def test_finds_a_planted_warp(matcher, photo, moved):
    found = matcher(photo, moved)
    errors = errors_of(found.keypoints0, found.keypoints1)
    assert len(found) > 600
    assert errors.median() < 0.35
    assert (errors < 2).float().mean() > 0.92
    assert (errors[found.confidences > 0.5] < 2).float().mean() > 0.96
    assert bool((found.confidences >= 0).all() and (found.confidences <= 1).all())
    sure = errors[found.confidences >= found.confidences.median()]
    assert (sure < 1).float().mean() >= (errors < 1).float().mean()


def test_each_level_is_nearer_than_the_one_before(matcher, photo, moved):
    from d2_hloc.refinement import coarse_to_fine as levels

    images = [matcher.prepare(image).stages for image in (photo, moved)]
    options, medians = CoarseToFineOptions(), []
    found = levels.match_cells(options, *images)
    for level in (levels.match_conv3, levels.split_cells, levels.match_shallow):
        medians.append(float(errors_of(found.xy0, found.xy1).median()))
        found = level(options, *images, found)
    medians.append(float(errors_of(found.xy0, found.xy1).median()))
    assert medians[1] < 0.7 * medians[0]
    assert medians[3] < 0.5 * medians[2]


def test_places_are_those_of_the_images_whatever_size_is_matched(photo, moved):
    large = F.interpolate(photo[None], scale_factor=2, mode="bilinear")[0]
    matcher = ImageMatcher(ImageMatchingOptions(resize_max=331))
    found = matcher(large, moved)
    errors = errors_of((found.keypoints0 - 0.5) / 2, found.keypoints1)
    assert len(found) > 300
    assert errors.median() < 0.5


def test_images_of_nothing_have_no_matches(matcher, photo):
    for other in (torch.full((3, 64, 80), 0.4), photo[:, :16, :16]):
        found = matcher(photo, other)
        assert found.keypoints0.shape == found.keypoints1.shape == (0, 2)
        assert len(found) == 0


def test_says_what_is_wrong(matcher, photo):
    with pytest.raises(ValueError, match="must be 3 x H x W, floating point"):
        matcher(photo, photo[0])
    with pytest.raises(ValueError, match="must be 3 x H x W, floating point"):
        matcher(photo, (photo * 255).byte())
    with pytest.raises(ValueError, match="313 x 7 is too small: 8 at least"):
        matcher(photo[:, :7], photo)


def test_parts_of_cells_are_inside_them(photo):
    keypoints = torch.tensor([[3, 5], [311, 231], [100, 77]])
    parts = split_corners(photo, keypoints, 2)
    assert parts.shape == (3, 4, 2)
    torch.testing.assert_close(parts // 8, (keypoints // 8)[:, None].expand(3, 4, 2))
    assert len(torch.unique(parts // 4, dim=1)[0]) == 4


def test_is_public(photo, moved):
    assert len(d2_hloc.match_images(photo, moved)) > 600
