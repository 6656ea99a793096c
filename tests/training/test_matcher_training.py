"""The matcher's training: views that are cached, examples, a loss that falls, resume."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from killing import go_on_after_interruptions
from PIL import Image
from scripts import load
from skimage import data
from torch.testing import assert_close
from training_toys import planted_views

from d2_hloc.core.structs import Features
from d2_hloc.core.threads import one_thread_an_operation
from d2_hloc.files.provenance import ConfigurationChanged
from d2_hloc.matching.lightglue import GlueShape, LightGlue, load_glue
from d2_hloc.training.matcher import cache, examples, loop, scenes, views
from d2_hloc.training.matcher.cache import (
    LARGEST,
    cache_views,
    moved,
    read_views,
    to_bytes,
)
from d2_hloc.training.matcher.examples import ExampleOptions, Source, mosaic, stacked
from d2_hloc.training.matcher.loop import MatcherTrainer, MatcherTrainingOptions
from d2_hloc.training.matcher.loss import assignment_loss
from d2_hloc.training.matcher.truth import NOWHERE
from d2_hloc.training.matcher.views import ViewOptions, draw_view
from d2_hloc.training.pair import generator
from d2_hloc.training.scene_info import SceneImage

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = GlueShape(input_width=32, width=16, heads=2, layers=2)
TINY = MatcherTrainingOptions(
    steps=6,
    batch_size=2,
    warm_up=2,
    learning_rate=3e-3,
    validate_every=3,
    held_back_pairs=4,
    mean_of=3,
    precision="float32",
    save_seconds=0.0,
)
EXAMPLES = ExampleOptions(points=(24, 32), noise=0.0)


@pytest.fixture
def source():
    return Source(EXAMPLES, {f"photo {k}": planted_views(k) for k in range(4)})


@pytest.fixture
def held_back():
    return {"views": Source(EXAMPLES, {f"held {k}": planted_views(10 + k) for k in range(2)})}


# Views


@pytest.mark.parametrize("size", [(313, 471), (640, 200)])
def test_views_show_the_photograph_from_the_front(size):
    for number in range(4):
        pose = draw_view(size, number, ViewOptions(), generator(0, number, 3))
        middle = moved(torch.tensor([size]) / 2, pose.view_from_photo)
        assert max(pose.size) in ViewOptions().edge
        assert ((middle > -pose.size[0]) & (middle < 2 * max(pose.size))).all()
        assert np.linalg.det(pose.view_from_photo) > 0  # no mirror image
        if number == 0:
            assert pose.view_from_photo[2].tolist() == [0, 0, 1]


def test_a_homography_of_no_angles_is_a_resize():
    found = views.homography((200, 100), (100, 50), np.zeros(3), 1.0, np.zeros(2))
    xy = torch.tensor([[99.5, 49.5], [0.0, 0.0]])
    assert_close(moved(xy, found), torch.tensor([[49.5, 24.5], [-0.25, -0.25]]))


def corners(image):
    """Features at the four brightest pixels of a grid."""
    grey = image.float().mean(dim=0)
    xy = torch.tensor([[8.0 * k + 4, 8.0 * j + 4] for k in range(6) for j in range(5)])
    values = grey[xy[:, 1].long(), xy[:, 0].long()]
    return Features(
        keypoints=xy,
        scores=values,
        descriptors=F.normalize(torch.rand(len(xy), 32), dim=1),
        scales=torch.ones(len(xy)),
    )


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    Image.fromarray(data.astronaut()[:200, :240]).save(folder / "a.png")
    Image.fromarray(data.coffee()[:200, :240]).save(folder / "more" / "b.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


def test_views_are_extracted_once(photos, tmp_path):
    options, calls = ViewOptions(count=3, edge=(96,)), []

    def extract(image):
        calls.append(tuple(image.shape))
        return corners(image)

    names = ["a.png", "broken.jpg", "more/b.png"]
    first = cache_views(options, photos, names, tmp_path / "views", extract, 0)
    assert set(first) == {"a.png", "more/b.png"}
    assert len(calls) == 6
    (tmp_path / "views/a.png.safetensors").write_bytes(b"cut")
    again = cache_views(options, photos, names, tmp_path / "views", extract, 0)
    assert len(calls) == 9  # of the damaged file alone
    for one, other in zip(first["more/b.png"], again["more/b.png"], strict=True):
        assert torch.equal(one.descriptors, other.descriptors)
        assert torch.equal(one.keypoints, other.keypoints)
        assert np.array_equal(one.view_from_photo, other.view_from_photo)
        assert (one.size, one.photo_size) == (other.size, other.photo_size)
    Image.open(photos / "a.png").point(lambda value: value // 2).save(photos / "a.png")
    cache_views(options, photos, names, tmp_path / "views", extract, 0)
    assert len(calls) == 12  # of the photograph that was replaced
    with pytest.raises(ConfigurationChanged, match=r'"count": 3.*"count": 4'):
        cache_views(replace(options, count=4), photos, names, tmp_path / "views", extract, 0)


def test_features_beyond_the_photograph_are_left_out():
    pose = views.PhotoView(
        view_from_photo=views.homography((90, 90), (90, 90), np.zeros(3), 0.5, np.zeros(2)),
        size=(90, 90),
    )
    xy = torch.tensor([[1.0, 1.0], [45.0, 45.0], [30.0, 60.0], [20.0, 45.0]])
    features = Features(
        keypoints=xy, scores=torch.ones(4), descriptors=torch.zeros(4, 8), scales=torch.ones(4)
    )
    kept = cache.seen_view(features, pose, (90, 90))
    assert kept.keypoints.tolist() == [[45.0, 45.0], [30.0, 60.0]]


def test_bytes_keep_descriptors_nearly():
    exact = F.normalize(torch.randn(50, 256), dim=1)
    found = F.normalize(to_bytes(exact).float(), dim=1)
    assert (found * exact).sum(dim=1).min() > 0.999
    assert read_views is cache.read_views


# Examples


def unit_descriptors(example):
    """Descriptors of both images, (N0, D) and (N1, D), as the network takes them."""
    return [points.descriptors[0] for points in stacked([example]).points()]


def test_views_have_their_true_partners(source):
    example = source.example(32, np.random.default_rng(0), plain=True)
    first, second = unit_descriptors(example)
    partners = example.partner0
    assert (partners >= 0).sum() >= 12
    right = partners >= 0
    alike = (first[right] * second[partners[right]]).sum(dim=1)
    assert alike.min() > 0.5  # of the planted point; of others 0 or so
    assert not (example.alone0 & right).any()


def test_halves_of_a_mosaic_have_partners_in_their_own_half_only():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        found = mosaic(tuple(planted_views(1)), tuple(planted_views(2)), 48, EXAMPLES, rng)
        if found is None:
            continue
        first, second = unit_descriptors(found)
        right = found.partner0 >= 0
        alike = (first[right] * second[found.partner0[right]]).sum(dim=1)
        assert right.sum() > 5
        assert alike.min() > 0.5
        return
    pytest.fail("no mosaic could be made")


def test_strangers_have_no_partners():
    first, second = planted_views(1), planted_views(2)
    found = examples.strangers(first[0], second[0], 24, np.random.default_rng(0))
    assert (found.partner0 == -1).all()
    assert found.alone0.all()
    assert found.alone1.all()


def test_varied_positions_stay_inside_and_keep_their_shape(source):
    rng = np.random.default_rng(0)
    plain = source.example(24, rng, plain=True)
    for _ in range(20):
        found = examples.varied(plain, ExampleOptions(noise=0.02), rng)
        change = (found.descriptors0.float() - plain.descriptors0.float()) * LARGEST / 127
        assert change.std() < 0.021
        assert found.positions0.abs().max() <= 1
        ratio = torch.pdist(found.positions0) / torch.pdist(plain.positions0)
        assert ratio.max() - ratio.min() < 1e-3
        assert 0.64 < ratio.mean() <= 1


def test_too_few_features_are_an_error():
    with pytest.raises(ValueError, match="none of 1 photographs has two views of 24 features"):
        Source(EXAMPLES, {"a": planted_views(0, count=10)})
    alike = Source(EXAMPLES, {"a": planted_views(0, count=30)})
    with pytest.raises(ValueError, match="no two views have 31 features"):
        alike.example(31, np.random.default_rng(0), plain=True)


def test_batches_are_drawn_from_the_generator_alone(source):
    one, other = (source.batch(3, np.random.default_rng([1, 5])) for _ in range(2))
    for name, value in vars(one).items():
        assert torch.equal(value, getattr(other, name))


# Scenes


def test_depth_says_where_features_lie():
    """Two cameras, side by side before a wall; a box stands before the left half of the first."""
    intrinsics = np.array([[50.0, 0, 50], [0, 50.0, 40], [0, 0, 1]])
    beside = np.eye(4)
    beside[0, 3] = -1.0
    first = SceneImage(image="a", depth="a", intrinsics=intrinsics, cam_from_world=np.eye(4))
    second = SceneImage(image="b", depth="b", intrinsics=intrinsics, cam_from_world=beside)
    depth0, depth1 = np.full((80, 100), 10.0), np.full((80, 100), 10.0)
    depth1[:, 60:80] = 5.0  # something that the first does not see there
    depth0[:10] = 0
    depth1[70:] = 0
    xy = torch.tensor([[40.0, 40.0], [75.0, 40.0], [2.0, 40.0], [40.0, 5.0], [40.0, 75.0]])
    found = scenes.places(first, second, depth0, depth1, xy, scenes.SceneOptions())
    assert_close(found[0], torch.tensor([35.0, 40.0]))
    assert found[1].tolist() == [NOWHERE, NOWHERE]  # hidden
    assert found[2].tolist() == [NOWHERE, NOWHERE]  # outside
    assert found[3].isnan().all()
    assert found[4].isnan().all()
    codes = xy.to(torch.int8)
    back = scenes.ScenePair(
        keypoints0=xy, keypoints1=xy[:2], descriptors0=codes, descriptors1=codes[:2], in1=found,
        in0=xy[:2], size0=(1, 2), size1=(3, 4),
    ).reversed()  # fmt: skip
    assert back.size0 == (3, 4)
    assert back.keypoints1 is xy


# Loop


def test_the_loss_falls_and_the_best_is_kept(source, held_back, tmp_path):
    options = replace(TINY, steps=60, validate_every=30, batch_size=4)
    MatcherTrainer(options, SHAPE, source, held_back, tmp_path).run()
    losses = loop.Table(tmp_path / "losses.csv", loop.LOSSES).rows()
    assert len(losses) == 60
    first, last = ([row["loss"] for row in losses[k]] for k in (slice(10), slice(-10, None)))
    assert np.mean(last) < 0.8 * np.mean(first)
    measured = loop.Table(tmp_path / "validation.csv", loop.VALIDATION).rows()
    assert [row["step"] for row in measured] == [0, 30, 60]
    assert measured[-1]["recall"] > 0.5
    glue = load_glue(tmp_path / "best.safetensors")
    assert glue.shape == SHAPE
    matcher = LightGlue(str(tmp_path / "best.safetensors"), min_score=0.1)
    view = planted_views(20)[0]
    descriptors = F.normalize(view.descriptors.float(), dim=1)
    one = matcher.prepare(view.keypoints, descriptors, view.size)
    assert len(matcher(one, one)) > 30


def test_a_run_goes_on_to_the_bit(source, held_back, tmp_path):
    whole = MatcherTrainer(TINY, SHAPE, source, held_back, tmp_path / "whole")
    whole.run()

    class Killed(Source):
        made = 0

        def batch(self, size, rng):
            Killed.made += 1
            if Killed.made == 5:
                raise KeyboardInterrupt
            return super().batch(size, rng)

    killed = Killed(EXAMPLES, {f"photo {k}": planted_views(k) for k in range(4)})
    trainer = MatcherTrainer(TINY, SHAPE, killed, held_back, tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    again = MatcherTrainer(TINY, SHAPE, source, held_back, tmp_path / "parts")
    assert 0 < again.step < 6
    again.run()
    for name, value in whole.glue.net.state_dict().items():
        assert torch.equal(value, again.glue.net.state_dict()[name]), name
    for name in ("losses.csv", "validation.csv"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "parts" / name).read_text()
    saved = [load_glue(tmp_path / k / "best.safetensors").net for k in ("whole", "parts")]
    for name, value in saved[0].state_dict().items():
        assert torch.equal(value, saved[1].state_dict()[name])


def test_a_run_begins_from_other_weights(source, held_back, tmp_path):
    MatcherTrainer(TINY, SHAPE, source, held_back, tmp_path / "first").run()
    best = str(tmp_path / "first" / "best.safetensors")
    begun = loop.first_glue(replace(TINY, begin_from=best), SHAPE)
    assert begun.training
    assert_close(
        begun.net.state_dict(), load_glue(tmp_path / "first/best.safetensors").net.state_dict()
    )
    with pytest.raises(ValueError, match="has the shape"):
        loop.first_glue(replace(TINY, begin_from=best), replace(SHAPE, layers=1))


def test_a_damaged_checkpoint_is_named(source, held_back, tmp_path):
    (tmp_path / "last.pth").write_bytes(b"cut")
    with pytest.raises(ValueError, match="is not a checkpoint of this run"):
        MatcherTrainer(TINY, SHAPE, source, held_back, tmp_path)


def test_half_precision_is_nearly_the_same(source):
    torch.manual_seed(0)
    glue = loop.first_glue(TINY, SHAPE)
    batch = source.batch(2, np.random.default_rng(0))
    exact, halved = (loop.assign(glue, batch, p) for p in ("float32", "bfloat16"))
    assert_close(exact.similarity, halved.similarity, atol=0.2, rtol=0.05)
    assignment_loss(halved, batch).total.backward()
    gradients = [p.grad for p in glue.parameters() if p.grad is not None]
    assert gradients
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)


def test_the_rate_rises_stays_and_falls():
    options = replace(TINY, steps=100, warm_up=10, cool_down=0.25, learning_rate=1.0)
    assert [round(options.rate(k), 2) for k in (0, 9, 50, 75, 99)] == [0.1, 1.0, 1.0, 1.0, 0.04]
    with pytest.raises(ValueError, match=r"steps must be from 1 to .*, not 0"):
        replace(TINY, steps=0)


# Pipeline

SHORT = {
    "max_keypoints": 120,
    "held_back": 0.34,
    "shape": {"width": 16, "heads": 2, "layers": 1},
    "views": {"count": 3, "edge": [224], "yaw": 8, "pitch": 5, "roll": 3, "zoom": 0.1},
    "examples": {"points": [24]},
    "training": {
        "steps": 4,
        "batch_size": 2,
        "validate_every": 2,
        "held_back_pairs": 2,
        "precision": "float32",
    },
}


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """The command, in short, for a folder to write to; it returns the exit status."""
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "photos").mkdir()
    for name in ("astronaut", "coffee", "chelsea"):
        Image.fromarray(getattr(data, name)()[:260, :320]).save(folder / "photos" / f"{name}.png")
    conf, pipeline = folder / "tiny.yaml", load("train_matcher")
    conf.write_text(yaml.safe_dump(SHORT))

    def run(output):
        command = ["--config", conf, "--dataset", folder / "photos", "--output", output]
        with one_thread_an_operation():  # more would round in another way
            return pipeline.run_command("train", lambda: pipeline.main([str(c) for c in command]))

    return run


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained")
    assert train(output) == 0
    return output


def test_the_pipeline_trains_on_photographs(train, trained):
    assert train(trained) == 0  # all is done
    names = {path.name for path in trained.iterdir()}
    assert names >= {
        *("best.safetensors", "last.pth", "losses.csv", "report.html", "run.json", "views")
    }
    assert load_glue(trained / "best.safetensors").shape.width == 16
    assert "precision at best" in (trained / "report.html").read_text()


def test_the_pipeline_goes_on_after_interruptions_before_any_record(train, trained, tmp_path):
    assert go_on_after_interruptions(lambda: train(tmp_path / "out")) > 1
    for name in ("losses.csv", "validation.csv", "best.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (trained / name).read_bytes(), name


def test_the_shipped_configuration_is_whole():
    pipeline = load("train_matcher")
    conf = pipeline.config.load(pipeline.TrainMatcher, pipeline.CONFIG)
    assert conf.shape == GlueShape()
    assert conf.training == MatcherTrainingOptions()
    with pytest.raises(ValueError, match="name the folder of photographs by --dataset"):
        pipeline.sources(conf, pipeline.CONFIG.parent)
