"""The loop on toy pairs: it learns, resumes to the bit, caches, and runs in several processes."""

import os
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from loaded_process import LoadedProcess
from safetensors.torch import load_file
from training_form import training_maps
from training_toys import CACHED, OPTIONS, Toys, WithoutPairs

from d2_hloc.files.provenance import ConfigurationChanged
from d2_hloc.network.backbone import Backbone
from d2_hloc.network.d2net import D2Net
from d2_hloc.network.options import D2NetOptions
from d2_hloc.network.weights.files import load_weights
from d2_hloc.training.cache import ActivationCache, CacheOptions, TrunkExample
from d2_hloc.training.distributed import World, joined
from d2_hloc.training.history import LOSSES, VALIDATION, Table
from d2_hloc.training.loop import Trainer
from d2_hloc.training.network import Network
from d2_hloc.training.options import TrainingOptions
from d2_hloc.training.pair import split

ALONE = World(device=torch.device("cpu"))


def run(output, options=OPTIONS, train=None, held_back=None):
    trainer = Trainer(options, train or Toys(3), held_back or Toys(1, seed=9), output, ALONE)
    trainer.run()
    return trainer


def losses(output):
    return Table(output / "losses.csv", LOSSES).rows()


def validation(output):
    return Table(output / "validation.csv", VALIDATION).rows()


def state(output, name="last"):
    return torch.load(output / f"{name}.pth", weights_only=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupted."""
    output = tmp_path_factory.mktemp("whole")
    run(output)
    return output


def test_a_run_learns_and_leaves_its_numbers(whole):
    steps, measured = losses(whole), validation(whole)
    assert [row["step"] for row in steps] == list(range(6))
    assert [row["epoch"] for row in steps] == [0] * 3 + [1] * 3
    assert {row["correspondences"] for row in steps} == {56}
    assert [row["epoch"] for row in measured] == [0, 1, 2]
    assert measured[2]["loss"] < measured[0]["loss"]
    assert all(0 <= row["accuracy"] <= 1 for row in measured)


def test_only_the_last_layer_changes(whole):
    before, after = load_weights("d2_ots"), load_weights(str(whole / "last.pth"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"conv4_3.weight", "conv4_3.bias"}


def test_checkpoints_are_of_the_published_form(whole, photo):
    published = load_file(whole / "best.safetensors")
    assert set(published) == set(state(whole)["model"])
    assert all(k.startswith("dense_feature_extraction.model.") for k in published)
    for name in ("best.pth", "best.safetensors", "best_small.safetensors", "last.pth"):
        features = D2Net(D2NetOptions(weights=str(whole / name))).extract(photo)
        assert len(features) > 20
    small, best = (load_weights(str(whole / f"best{k}.safetensors")) for k in ("_small", ""))
    assert (whole / "best_small.safetensors").stat().st_size < 5e6
    assert all(torch.equal(small[key], best[key].half().float()) for key in best)


def test_the_best_checkpoint_is_the_most_accurate(whole):
    measured = validation(whole)
    best = max(measured, key=lambda row: row["matching_accuracy"])
    progress = state(whole, "best")["progress"]
    assert (progress["best_epoch"], progress["best_accuracy"]) == (
        best["epoch"],
        best["matching_accuracy"],
    )


@pytest.mark.parametrize(
    ("options", "save_seconds", "fail_at"),
    [(OPTIONS, 0.0, 4), (OPTIONS, 1e9, 4), (CACHED, 0.0, 2)],
    ids=["saved at each step", "saved at each epoch", "cached"],
)
def test_an_interrupted_run_goes_on_to_the_bit(tmp_path, whole, options, save_seconds, fail_at):
    if options is CACHED:
        whole = tmp_path / "whole"
        run(whole, options)
    options = replace(options, save_seconds=save_seconds)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "resumed", options, Toys(3, fail_at=fail_at))
    assert len(losses(tmp_path / "resumed")) == fail_at
    run(tmp_path / "resumed", options)
    for name in ("losses.csv", "validation.csv"):
        assert (tmp_path / "resumed" / name).read_text() == (whole / name).read_text()
    found, expected = state(tmp_path / "resumed")["model"], state(whole)["model"]
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_finished_run_goes_on_to_more_epochs(tmp_path, whole):
    run(tmp_path, replace(OPTIONS, epochs=1))
    run(tmp_path)
    assert losses(tmp_path) == losses(whole)


def test_the_rate_halves(tmp_path):
    run(tmp_path, replace(OPTIONS, epochs=3, halve_every=1), Toys(1), Toys(1))
    assert [row["learning_rate"] for row in losses(tmp_path)] == [1e-3, 5e-4, 2.5e-4]


def test_a_row_that_a_kill_cut_short_is_dropped(tmp_path):
    table = Table(tmp_path / "t.csv", ("step", "loss"))
    table.keep_before(0)
    for step in range(3):
        table.append({"step": step, "loss": step / 3})
    with table.path.open("a") as file:
        file.write("3,")
    assert table.rows()[-1] == {"step": 2, "loss": 2 / 3}
    table.keep_before(2)
    assert table.path.read_text().splitlines() == ["step,loss", "0,0.0", f"1,{1 / 3!r}"]


def test_pairs_that_cannot_be_used_are_left_out(tmp_path):
    run(tmp_path, replace(OPTIONS, epochs=1), WithoutPairs(4, {1, 2}))
    assert sorted(row["pairs"] for row in losses(tmp_path)) == [0, 0, 1, 1]
    few = replace(OPTIONS, min_correspondences=57)
    with pytest.raises(ValueError, match="none of the 1 pairs held back has 57 correspondences"):
        run(tmp_path / "few", few)


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "last.pth").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"last.pth: is not a checkpoint of this run; delete it"):
        run(tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_with_a_remedy(tmp_path, monkeypatch):
    from d2_hloc.training import loop

    def broken(_options, maps0, *_):
        return maps0.sum() * torch.nan, None

    monkeypatch.setattr(loop, "pair_loss", broken)
    with pytest.raises(ValueError, match=r"step 0 is not finite; begin again .* learning_rate"):
        run(tmp_path, train=Toys(1), held_back=Toys(1))
    assert (tmp_path / "last.pth").is_file()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_learns_too(tmp_path, precision):
    run(tmp_path, replace(OPTIONS, precision=precision, epochs=1), Toys(1), Toys(1))
    measured = validation(tmp_path)
    assert measured[1]["loss"] < measured[0]["loss"]
    assert state(tmp_path)["model"]["dense_feature_extraction.model.21.bias"].dtype == torch.float32


def test_more_layers_may_learn(tmp_path):
    run(tmp_path, replace(OPTIONS, trained_from="conv4_1", epochs=1), Toys(1), Toys(1))
    before, after = load_weights("d2_ots"), load_weights(str(tmp_path / "last.pth"))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"conv4_1", "conv4_2", "conv4_3"}


@pytest.mark.parametrize("start", ["conv4_1", "conv4_2", "conv4_3"])
def test_trunk_and_head_make_the_training_form(start):
    image = Toys(1).pair(0, 0).image0[None]
    network = Network("d2_ots", start, "float32")
    backbone = Backbone()
    backbone.load_state_dict(load_weights("d2_ots"))
    with torch.no_grad():
        expected = training_maps(backbone, image)
        found = network(network.trunk(image))
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-3)
    assert (expected < 0).any()  # no ReLU at the end


def test_workers_make_the_same_pairs(tmp_path, whole):
    run(tmp_path, replace(OPTIONS, workers=1, epochs=1))
    found, expected = losses(tmp_path), losses(whole)[:3]
    assert [r["correspondences"] for r in found] == [r["correspondences"] for r in expected]
    # A worker has one thread for its own pass through the trunk, which rounds otherwise.
    assert [r["loss"] for r in found] == pytest.approx([r["loss"] for r in expected], rel=1e-5)


def example(count=5, value=1.0):
    xy = torch.arange(2.0 * count).reshape(count, 2)
    return TrunkExample(activations=torch.full((2, 4, 3, 3), value), xy0=xy, xy1=xy + 1)


def open_cache(folder, max_gib=1.0, **changes):
    options = CacheOptions(enabled=True, max_gib=max_gib)
    return ActivationCache(folder, 3, (4, 3, 3), options, {"weights": "w"} | changes)


def test_the_cache_gives_back_what_it_was_given(tmp_path):
    cache = open_cache(tmp_path)
    assert not cache.has(1)
    put = cache.put(1, example(value=1 / 3))
    cache.put(2, None)
    again = open_cache(tmp_path)
    found = again.get(1)
    assert [again.has(i) for i in range(3)] == [False, True, False]  # it may be mended
    assert torch.equal(found.activations, put.activations)
    assert torch.allclose(found.activations, torch.tensor(1 / 3), rtol=1e-3)
    assert torch.equal(found.xy1, example().xy1)
    assert cache.put(0, example(value=1e6)).activations.isfinite().all()


def test_a_cache_is_the_default_on_a_cpu_alone():
    devices = [torch.device("cpu"), torch.device("cuda", 0)]
    for enabled, expected in ((None, [True, False]), (True, [True] * 2), (False, [False] * 2)):
        assert [CacheOptions(enabled=enabled).is_enabled_on(d) for d in devices] == expected


def test_the_cache_keeps_to_its_size(tmp_path):
    pair_bytes = 2 * 2 * 36 + 4 * 4 * 9
    cache = open_cache(tmp_path, max_gib=2.5 * pair_bytes / 2**30)
    assert cache.slots == 2
    assert cache.put(2, example()).activations.dtype == torch.float32
    assert not cache.has(2)
    assert sum(p.stat().st_size for p in tmp_path.iterdir() if p.suffix == "") < 3 * pair_bytes
    assert open_cache(tmp_path / "none", max_gib=0.0).put(0, example()) is not None


def test_the_cache_refuses_other_weights_and_a_full_disk(tmp_path, monkeypatch):
    open_cache(tmp_path)
    with pytest.raises(ConfigurationChanged, match=r"There: .*Delete it or choose another output"):
        open_cache(tmp_path, weights="v")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"counts: 0.0 GiB cannot be reserved \(No space left"):
        open_cache(tmp_path / "other")
    assert not (tmp_path / "other" / "counts").exists()


def test_too_few_pairs_and_wrong_options_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"3 pairs .* 1 held back are too few for batches of 5"):
        run(tmp_path, replace(OPTIONS, batch_size=5))
    with pytest.raises(ValueError, match="halve_every must be from 1 to 1000000000, not 0"):
        TrainingOptions(halve_every=0)
    with pytest.raises(ValueError, match="0 photograph or scene cannot be split"):
        split([], 0.1, 0)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="torch finds none here; use cpu"), joined("cuda"):
            pass


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.usefixtures("one_thread")
def test_a_killed_run_goes_on_to_the_bit(tmp_path):
    """Each step saves, so that most kills come while a checkpoint is being written."""
    script = """
        import sys
        from dataclasses import replace
        from pathlib import Path
        import torch
        from training_toys import OPTIONS, Toys
        from d2_hloc.training.distributed import joined
        from d2_hloc.training.loop import Trainer

        torch.set_num_threads(1)
        with joined("cpu") as world:
            options = replace(OPTIONS, epochs=1, save_seconds=0)
            Trainer(options, Toys(4), Toys(1, seed=9), Path(sys.argv[1]), world).run()
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    process = LoadedProcess([tmp_path / "script.py", tmp_path / "killed"])
    while len(losses(tmp_path / "killed")) < 2 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert len(validation(tmp_path / "killed")) < 2  # it was killed under way
    for name in ("killed", "whole"):
        run(tmp_path / name, replace(OPTIONS, epochs=1), Toys(4))
    for name in ("losses.csv", "validation.csv"):
        found, expected = ((tmp_path / k / name).read_text() for k in ("killed", "whole"))
        assert found == expected
    found, expected = (state(tmp_path / k)["model"] for k in ("killed", "whole"))
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def environment():
    """A process's that finds this code and the toys."""
    root = Path(__file__).parents[2]
    paths = [str(root / "tests" / "support"), str(root)]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.ci
def test_two_processes_learn_what_one_does_with_a_batch_of_two(tmp_path):
    script = """
        import sys
        from dataclasses import replace
        from pathlib import Path
        from training_toys import CACHED, Toys
        from d2_hloc.training.distributed import joined
        from d2_hloc.training.loop import Trainer

        with joined("cpu") as world:
            Trainer(CACHED, Toys(4), Toys(2, seed=9), Path(sys.argv[1]), world).run()
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launch, str(tmp_path / "script.py"), str(tmp_path / "two")],
        env=environment(), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run(tmp_path / "one", replace(CACHED, batch_size=2), Toys(4), Toys(2, seed=9))
    for read, tolerance in ((losses, 1e-4), (validation, 0.05)):  # rounding moves a match or two
        one, two = read(tmp_path / "one"), read(tmp_path / "two")
        assert len(one) == len(two)
        for row, other in zip(one, two, strict=True):
            assert other == pytest.approx(row, rel=tolerance, abs=1e-6)
