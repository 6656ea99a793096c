"""Wall time of matching against hloc's own match_features, in one run, with the same matches.

All pairs of a features file's images are matched by both, each in a process of its own, in turns;
the fastest of the repeats counts. Imports are not timed; reading and writing are.

    python benchmarks/match.py FEATURES.h5 [--hloc FOLDER] [--ratio .8]

hloc is the installed one, or that of a copy of its repository. Keypoints that the two match
differently are counted, with the largest difference of similarity that any of them hangs on.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import time
import zlib  # noqa: F401 - hloc imports pycolmap, which has to come after zlib
from pathlib import Path

import numpy as np
import torch

from d2_hloc.app.command import run_command
from d2_hloc.files import features_h5
from d2_hloc.matching.match_pairs import match
from d2_hloc.matching.options import MatchingOptions
from d2_hloc.matching.pairs import Pair, exhaustive, read_pairs, write_pairs


def match_ours(args: argparse.Namespace, pairs: Path, output: Path) -> None:
    """d2-hloc match."""
    options = MatchingOptions(ratio_threshold=args.ratio)
    match(options, read_pairs(pairs), args.features, output)


def match_hloc(args: argparse.Namespace, pairs: Path, output: Path) -> None:
    """hloc's step with its nearest neighbours, the confs NN-mutual and NN-ratio."""
    model = {"name": "nearest_neighbor", "do_mutual_check": True, "ratio_threshold": args.ratio}
    conf = {"output": "matches", "model": model}
    hloc = importlib.import_module("hloc.match_features")
    hloc.main(conf, pairs, args.features, matches=output)


METHODS = {"hloc": match_hloc, "ours": match_ours}


def measure(args: argparse.Namespace, pairs: Path, output: Path) -> float:
    """Seconds of one method, in this process."""
    torch.set_num_threads(args.threads)
    if args.child == "hloc":
        import_hloc(args.hloc)
    output.unlink(missing_ok=True)
    start = time.perf_counter()
    METHODS[args.child](args, pairs, output)
    return time.perf_counter() - start


def import_hloc(folder: Path | None) -> None:
    """Find hloc, and say what is missing before anything is measured.

    Raises:
        ValueError: if it is not there, or lacks something that it needs.
    """
    if folder is not None:
        sys.path.insert(0, str(folder.resolve()))
    try:
        importlib.import_module("hloc.match_features")
    except ImportError as error:
        raise ValueError(
            f"hloc cannot be imported ({error}): install it from its repository, or name a copy "
            "of it with --hloc FOLDER."
        ) from error


def in_child(args: argparse.Namespace, method: str, folder: Path) -> float:
    """Seconds of one method, in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--child", method, "--folder", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{method} failed; its last words are above.")
    return float(done.stdout.splitlines()[-1])


def differing(features: Path, pair: Pair, ours: np.ndarray, hloc: np.ndarray) -> tuple[int, float]:
    """Keypoints of the first image that are matched differently, and the largest gap of theirs.

    The gap is between the two best similarities of the rows and columns that decide, the least of
    them, in double precision: where it is 0 the descriptors are equal.
    """
    rows = np.flatnonzero(ours != hloc)
    if len(rows) == 0:
        return 0, 0.0
    d0, d1 = (features_h5.read_features(features, n).descriptors.double() for n in pair)
    gaps = []
    for row in rows:
        deciding = [d1 @ d0[row]] + [d0 @ d1[c] for c in (ours[row], hloc[row]) if c >= 0]
        best = [s.topk(2).values for s in deciding if len(s) > 1]
        gaps.append(min(float(b[0] - b[1]) for b in best))
    return len(rows), max(gaps)


def dense(matches: Path, pair: Pair, count: int) -> np.ndarray:
    """The index in image 1 for each of `count` keypoints of image 0, or -1."""
    found = features_h5.read_matches(matches, *pair).pairs.numpy()
    result = np.full(count, -1)
    result[found[:, 0]] = found[:, 1]
    return result


def compare(features: Path, pairs: list[Pair], folder: Path) -> str:
    """Say whether the matches of both are the same, and how far they differ."""
    total, different, largest = 0, 0, 0.0
    for pair in pairs:
        count = len(features_h5.read_keypoints(features, pair[0]))
        ours, hloc = (dense(folder / f"{m}.h5", pair, count) for m in ("ours", "hloc"))
        total += int((hloc >= 0).sum())
        number, gap = differing(features, pair, ours, hloc)
        different, largest = different + number, max(largest, gap)
    if not different:
        return f"{total} matches, all equal"
    return (
        f"{total} matches; {different} keypoints are matched differently, where similarities "
        f"differ by {largest:.1e} or less"
    )


def run(args: argparse.Namespace) -> None:
    """Both methods in turns, and a comparison of what they made."""
    folder = args.folder or Path(tempfile.mkdtemp(prefix="match-"))
    pairs = folder / "pairs.txt"
    if args.child:
        print(measure(args, pairs, folder / f"{args.child}.h5"))
        return
    import_hloc(args.hloc)
    names = features_h5.extracted_names(args.features)
    write_pairs(pairs, exhaustive(names))
    count = len(exhaustive(names))
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for repeat in range(args.repeats):
        for method, times in seconds.items():
            times.append(in_child(args, method, folder))
        load = os.getloadavg()[0]
        now = ", ".join(f"{method} {times[-1]:.2f} s" for method, times in seconds.items())
        print(f"run {repeat + 1}: {now}, load of the machine {load:.1f}", flush=True)
    best = {method: min(times) for method, times in seconds.items()}
    print(
        f"{len(names)} images, {count} pairs, ratio {args.ratio}, {args.threads} threads: "
        f"hloc {best['hloc']:.2f} s, ours {best['ours']:.2f} s, "
        f"{best['hloc'] / best['ours']:.2f} times as fast\n"
        f"{compare(args.features, exhaustive(names), folder)}"
    )


def main() -> None:
    """Arguments -> run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("features", type=Path)
    parser.add_argument("--hloc", type=Path, help="folder that holds the package hloc")
    parser.add_argument("--ratio", type=float, help="ratio threshold (none)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--child", choices=tuple(METHODS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(run_command("match", main))
