"""Pairs and features -> matches, written by a thread of its own, which stores 16-bit integers."""

import argparse
from functools import partial
from pathlib import Path
from queue import Queue
from threading import Thread

import h5py
import torch

from . import matchers
from .utils.base_model import dynamic_load

confs = {"superglue": {"output": "matches-superglue", "model": {"name": "nothing"}}}


def writer_fn(inp, match_path):
    pair, pred = inp
    with h5py.File(str(match_path), "a", libver="latest") as file:
        group = file.create_group(pair)
        group.create_dataset("matches0", data=pred["matches0"][0].cpu().short().numpy())
        scores = pred["matching_scores0"][0].cpu().half().numpy()
        group.create_dataset("matching_scores0", data=scores)


def work(queue, write):
    while (item := queue.get()) is not None:
        write(item)


@torch.no_grad()
def main(conf, pairs, features, export_dir):
    path = Path(export_dir, f"{features}_{conf['output']}_{pairs.stem}.h5")
    model = dynamic_load(matchers, conf["model"]["name"])(conf["model"]).eval()
    queue = Queue()
    thread = Thread(target=work, args=(queue, partial(writer_fn, match_path=path)))
    thread.start()  # as hloc's, it waits for ever if what follows fails
    with h5py.File(Path(export_dir, f"{features}.h5"), "r") as file:
        for line in pairs.read_text().split("\n"):
            name0, name1 = line.split()
            data = {f"{k}0": torch.from_numpy(v[()])[None].float() for k, v in file[name0].items()}
            data |= {f"{k}1": torch.from_numpy(v[()])[None].float() for k, v in file[name1].items()}
            queue.put((f"{name0}/{name1}", model(data)))
    queue.put(None)
    thread.join()
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--export_dir", type=Path)
    parser.add_argument("--features", default="feats-superpoint")
    parser.add_argument("--conf", default="superglue", choices=list(confs.keys()))
    args = parser.parse_args()
    main(confs[args.conf], args.pairs, args.features, args.export_dir)
