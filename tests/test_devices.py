"""Every step computes on the device that is chosen: no operation mixes its tensors with others."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from dense_scene import model_of, name_of, write_grids, write_scene
from PIL import Image
from pretended_device import DEVICE, DevicesMixed, OnDevice, pretended_gpu
from stereo_scene import CENTRES, render
from training_toys import OPTIONS as TRAINING
from training_toys import Toys, planted_views

from d2_hloc.app import cli
from d2_hloc.benchmarks.inloc.rendering import Cloud, QueryView, dense_score, render_cloud
from d2_hloc.core.devices import chosen_device, device_named, use_device
from d2_hloc.extractors.d2net import D2NetExtractor
from d2_hloc.features.extraction import extract
from d2_hloc.features.options import CompressionOptions, ExtractionOptions
from d2_hloc.files import features_h5
from d2_hloc.matchers.d2net_lightglue import D2NetLightGlue
from d2_hloc.matchers.nearest_neighbor_exact import NearestNeighborExact
from d2_hloc.matching.match_pairs import match
from d2_hloc.matching.options import GlueShape, MatchingOptions
from d2_hloc.mvs.consistency import consistent_depth
from d2_hloc.mvs.normals import normals
from d2_hloc.mvs.options import ConsistencyOptions, SweepOptions
from d2_hloc.mvs.plane_sweep import sweep
from d2_hloc.refinement.image_matches import ImageMatcher, ImageMatchingOptions
from d2_hloc.refinement.matches import PairRefiner
from d2_hloc.refinement.options import RefinementOptions, SpreadingOptions
from d2_hloc.refinement.pair_spreader import PairSpreader
from d2_hloc.refinement.shallow_maps import CACHE_BYTES, MapReader
from d2_hloc.sfm.searching.covering import search
from d2_hloc.sfm.searching.views import model_views
from d2_hloc.training.distributed import World
from d2_hloc.training.history import LOSSES, Table
from d2_hloc.training.loop import Trainer
from d2_hloc.training.loss import LossOptions
from d2_hloc.training.matcher import loop
from d2_hloc.training.matcher.examples import ExampleOptions, Source
from d2_hloc.training.matcher.loop import MatcherTrainer, MatcherTrainingOptions
from d2_hloc.training.matching_accuracy import match_held_back
from d2_hloc.training.network import Network
from d2_hloc.training.pair import TrainingPair

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: use that")

PAIR = ("0.png", "1.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photo):
    """Two views that are 8 pixels apart."""
    folder = tmp_path_factory.mktemp("images")
    pixels = (photo.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    for name, left in zip(PAIR, (0, 8), strict=True):
        Image.fromarray(pixels[20:148, left : left + 160]).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def extracted(folder, tmp_path_factory):
    """Features by name, made on the processor when they are first asked for."""
    made = {}

    def get(feature):
        if feature not in made:
            path = tmp_path_factory.mktemp("features") / "features.h5"
            made[feature] = extract(ExtractionOptions(feature=feature), folder, path)
        return made[feature]

    return get


def test_operations_that_mix_devices_raise_and_others_compute():
    with pretended_gpu():
        assert chosen_device().type == "cuda"
        there, here = torch.arange(3.0, device="cuda"), torch.arange(3.0)
        assert (there * 2).device == DEVICE
        assert (there + 1).cpu().tolist() == [1, 2, 3]
        assert there[there > 0].tolist() == [1, 2]
        for mixed in (lambda: there + here, lambda: torch.stack([there, here])):
            with pytest.raises(DevicesMixed):
                mixed()
        with pytest.raises(TypeError, match="copy it to the processor first"):
            there.numpy()
        assert isinstance(torch.nn.Linear(3, 1).to("cuda")(there), OnDevice)
    assert chosen_device().type == "cpu"


def test_a_device_is_chosen_once_for_all_steps():
    try:
        with pretended_gpu():
            use_device("cpu")
            assert chosen_device().type == "cpu"
    finally:
        use_device("auto")
    with pytest.raises(ValueError, match="cuda is asked for, and torch finds none here"):
        use_device("cuda")
    with pytest.raises(ValueError, match="there is no device 'gpu'; known are auto, cpu"):
        device_named("gpu")


@pytest.mark.parametrize("feature", ["d2net", "d2net-dense", "densesfm"])
def test_extraction(extracted, folder, tmp_path, feature):
    expected = extracted(feature)
    with pretended_gpu() as computed:
        found = extract(ExtractionOptions(feature=feature), folder, tmp_path / "features.h5")
    assert computed["aten::convolution"] >= 7
    for name in PAIR:
        there, here = (features_h5.read_keypoints(f.path, name) for f in (found, expected))
        assert abs(len(there) - len(here)) <= 0.02 * len(here)
        distances = torch.cdist(torch.from_numpy(there).float(), torch.from_numpy(here).float())
        assert (distances.amin(dim=1) < 0.05).float().mean() > 0.98
    if feature == "d2net":  # of retrieval
        pooled = [features_h5.read_global_descriptors(f.path, PAIR) for f in (found, expected)]
        np.testing.assert_allclose(*pooled, atol=1e-3)


def test_extraction_of_the_best(folder, tmp_path):
    options = ExtractionOptions(top_k=9, compression=CompressionOptions(dimensions=64))
    with pretended_gpu():
        found = extract(options, folder, tmp_path / "features.h5")
    for name in PAIR:
        assert features_h5.read_features(found.path, name).descriptors.shape == (9, 64)


@pytest.mark.parametrize(
    ("feature", "matcher"),
    [
        ("d2net", "nearest"),
        ("d2net", "lightglue"),
        ("d2net-dense", "grown"),
        ("densesfm", "hierarchical"),
    ],
)
def test_matching(extracted, tmp_path, feature, matcher):
    features, found = extracted(feature).path, []
    options = MatchingOptions(matcher=matcher)
    match(options, [PAIR], features, tmp_path / "here.h5")
    with pretended_gpu() as computed:
        match(options, [PAIR], features, tmp_path / "there.h5")
    assert computed["aten::mm"] + computed["aten::bmm"] > 0
    for name in ("here", "there"):
        matches = features_h5.read_matches(tmp_path / f"{name}.h5", *PAIR)
        found.append(set(map(tuple, matches.pairs.tolist())))
    assert len(found[0]) > 20
    assert len(found[0] & found[1]) > 0.98 * len(found[0] | found[1])


def test_models_of_hloc(photo):
    """Called as by hloc: model and data are moved, what comes back is on the device."""
    images = photo[None, :, :96, :128], photo[None, :, :96, 8:136]

    def matched():
        data, device = {}, chosen_device()
        extractor = D2NetExtractor({}).to(device)
        for k, image in enumerate(images):
            found = extractor({"image": image.to(device)})
            data |= {f"image{k}": image.to(device)}
            data |= {f"{key}{k}": value[0][None] for key, value in found.items()}
        models = D2NetLightGlue({}), NearestNeighborExact({})
        return [model.to(device)(data)["matches0"] >= 0 for model in models]

    here = matched()
    with pretended_gpu():
        there = matched()
    for expected, found in zip(here, there, strict=True):
        assert isinstance(found, OnDevice)
        assert expected.sum() > 10
        assert abs(found.cpu().sum() - expected.sum()) <= 0.03 * expected.sum() + 1


def test_refinement(folder):
    xy = np.stack(np.meshgrid(np.arange(30.0, 140, 12), np.arange(20.0, 110, 12)), -1).reshape(
        -1, 2
    )
    moved = xy - [8.0, 0] + np.random.default_rng(0).uniform(-1, 1, xy.shape)
    options = RefinementOptions(enabled=True)
    _, here = PairRefiner(options, folder, None)(PAIR, xy, moved)
    with pretended_gpu() as computed:
        _, there = PairRefiner(options, folder, None)(PAIR, xy, moved)
    assert computed["aten::convolution"] >= 4
    assert computed["aten::bmm"] >= 3
    assert np.median(np.linalg.norm(here - (xy - [8.0, 0]), axis=1)) < 0.1
    assert (np.abs(here - there).max(axis=1) < 0.02).mean() > 0.97


def test_spreading(extracted, folder, tmp_path):
    features, found = extracted("d2net").path, []
    matches = match(MatchingOptions(), [PAIR], features, tmp_path / "matches.h5").path
    pairs = features_h5.read_matches(matches, *PAIR).pairs.T.numpy()
    keypoints = [features_h5.read_keypoints(features, name) for name in PAIR]
    xy = [k[index].astype(float) for k, index in zip(keypoints, pairs, strict=True)]
    options, spreading = RefinementOptions(enabled=True), SpreadingOptions(enabled=True, steps=1)

    def spread():
        refiner = PairRefiner(options, folder, None)
        return PairSpreader(spreading, options, refiner, features)(PAIR, *xy)

    found = spread()
    with pretended_gpu() as computed:
        there = spread()
    assert computed["aten::bmm"] >= 6
    assert len(found[0]) > 40
    assert abs(len(there[0]) - len(found[0])) <= 0.03 * len(found[0])
    assert np.median(np.linalg.norm(there[1] - (there[0] - [8.0, 0]), axis=1)) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--refinement", "on", "--rotations", "auto"),
        ("--refinement", "on", "--matcher", "lightglue", "--matching.precision", "bfloat16"),
        ("--refinement", "off", "--extraction.top-k", "200", "--pairs", "retrieval"),
    ],
)
def test_main_jobs(small_run, tmp_path, options):
    """From images to a model, a query's pose and depth maps."""
    model, dense = tmp_path / "model", tmp_path / "dense"
    queries = small_run.queries, tmp_path / "queries", *small_run.intrinsics
    with pretended_gpu() as computed:
        for command in (
            [*small_run.arguments(model), *options],
            ["localize", model, *queries, *options[:2]],
            ["dense", model, dense, "--max-image-size", "96", "--sweep.hypotheses", "8"],
        ):
            assert cli.main([str(argument) for argument in command]) == 0
    assert computed["aten::convolution"] >= 20
    assert (dense / "fused.ply").is_file()


def test_covering(tmp_path):
    rendered, names = write_scene(tmp_path), [name_of(k) for k in range(5)]
    write_grids(features := tmp_path / "features.h5", names, (211, 160))
    views = model_views(model_of(rendered), features)
    options = RefinementOptions(enabled=True)

    def search_one():
        maps = MapReader(None).of(tmp_path / "images", CACHE_BYTES, 2)
        pair = names[0], names[1]
        given = (tuple(v[n] for n in pair) for v in (views, maps))
        return search(options, *given, views[names[0]].keypoints)

    here = search_one()
    with pretended_gpu() as computed:
        there = search_one()
    assert computed["aten::bmm"] >= 6  # also back
    assert len(here[0]) > 100
    common, of_here, of_there = np.intersect1d(here[0], there[0], return_indices=True)
    assert len(common) > 0.97 * max(len(here[0]), len(there[0]))
    assert np.median(np.abs(here[1][of_here] - there[1][of_there])) < 0.01


def test_coarse_to_fine(photo):
    image0, image1 = photo[:, :128, :160], photo[:, :128, 8:168]
    options = ImageMatchingOptions(resize_max=None)
    here = ImageMatcher(options)(image0, image1)
    with pretended_gpu() as computed:
        there = ImageMatcher(options)(image0, image1)
    assert computed["aten::convolution"] >= 14
    assert computed["aten::bmm"] >= 3
    assert there.keypoints0.device.type == "cpu"
    assert abs(len(there) - len(here)) <= 0.03 * len(here)
    assert len(here) > 200


def test_plane_sweep_and_consistency():
    views = [render(centre, width=81, height=60, focal=72.0).view for centre in CENTRES[:3]]
    options = SweepOptions(hypotheses=16, refinements=1)

    def depths(views):
        found = [
            sweep(view, [v for v in views if v is not view], 3.0, 8.0, options)[0] for view in views
        ]
        others = zip(found[1:], views[1:], strict=True)
        sure = consistent_depth(found[0], views[0], others, ConsistencyOptions(min_num_views=1))
        return sure.cpu(), normals(sure, views[0].K).cpu()

    here = depths(views)
    with pretended_gpu():
        there = depths([replace(view, image=view.image.to("cuda")) for view in views])
    assert (here[0] > 0).float().mean() > 0.3
    for expected, found in zip(here, there, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_dense_pose_verification():
    rng = torch.Generator().manual_seed(0)
    xyz = torch.rand(4000, 3, generator=rng) * torch.tensor([2.0, 2, 1]) + torch.tensor(
        [-1.0, -1, 3]
    )
    rgb, image = torch.rand(4000, 3, generator=rng), torch.rand(3, 48, 64, generator=rng)
    view = QueryView(
        size=(64, 48),
        focal=60.0,
        principal_point=(32.0, 24.0),
        rotation=np.eye(3),
        translation=np.zeros(3),
    )

    def score(device):
        rendered, mask = render_cloud(Cloud(xyz=xyz.to(device), rgb=rgb.to(device)), view)
        return dense_score(image.to(device), rendered, mask, 0.05)

    here = score("cpu")
    with pretended_gpu():
        assert score("cuda") == pytest.approx(here, abs=1e-4)


@pytest.mark.parametrize("form", ["paper", "released"])
def test_training(form, tmp_path):
    """The trunk, the loss, its gradients, Adam, and validation."""
    options = replace(TRAINING, epochs=1, loss=LossOptions(safe_radius=1, soft_detection=form))

    def trained(device):
        world = World(device=torch.device(device))
        held_back = Toys(1, seed=9)
        trainer = Trainer(options, Toys(2), held_back, tmp_path / device, world)
        trainer.run()
        rows = Table(trainer.outputs.losses, LOSSES).rows()
        changes = [p.cpu() - b for p, b in zip(trainer.network.learned(), before, strict=True)]
        return [row["loss"] for row in rows], changes

    before = [p.clone() for p in Network(options.weights, "conv4_3", "float32").learned()]
    here = trained("cpu")
    with pretended_gpu() as computed:
        there = trained("cuda")
    assert computed["aten::convolution_backward"] == 2
    assert there[0] == pytest.approx(here[0], rel=1e-4)
    for found, expected in zip(there[1], here[1], strict=True):
        # Adam's first steps are of equal length, wherever a gradient is not next to nothing
        assert expected.abs().max() > 0
        assert (torch.abs(found - expected) < 0.1 * expected.abs().max()).float().mean() > 0.97


def test_training_of_the_matcher(tmp_path):
    """The network, the loss, its gradients, AdamW, the running mean, and validation."""
    options = MatcherTrainingOptions(
        steps=2, batch_size=2, warm_up=0, held_back_pairs=2, precision="float32"
    )
    shape = GlueShape(input_width=32, width=16, heads=2, layers=1)
    examples = ExampleOptions(points=(24, 24), noise=0.0)
    train, held_back = (Source(examples, {"photo": planted_views(seed)}) for seed in range(2))

    def trained(folder):
        trainer = MatcherTrainer(options, shape, train, {"views": held_back}, tmp_path / folder)
        trainer.run()
        rows = Table(tmp_path / folder / "losses.csv", loop.LOSSES).rows()
        return [row["loss"] for row in rows], [p.detach().cpu() for p in trainer.mean.parameters()]

    here = trained("here")
    with pretended_gpu() as computed:
        there = trained("there")
    assert computed["aten::native_layer_norm_backward"] > 0
    assert there[0] == pytest.approx(here[0], rel=1e-4)
    for found, expected in zip(there[1], here[1], strict=True):
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)


def test_matches_of_a_training_are_measured(backbone, photo):
    pair = TrainingPair(
        name="a pair",
        image0=photo[:, :96, :112],
        image1=photo[:, :96, 8:120],
        xy0=(grid := cell_centres(12, 13) + torch.tensor([8.0, 0])),
        xy1=grid - torch.tensor([8.0, 0]),
    )
    with torch.no_grad():
        here = match_held_back(backbone, pair)
        with pretended_gpu():
            there = match_held_back(copy.deepcopy(backbone).to("cuda"), pair)
    torch.testing.assert_close(there, here, atol=0.1, rtol=0.05)


def cell_centres(rows, columns):
    """Centres of the training form's cells, pixels (x, y)."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2) * 8 + 3.5
