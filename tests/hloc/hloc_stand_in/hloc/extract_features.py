"""Images -> features; a command and a function."""

import argparse
from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image

from . import extractors
from .utils.base_model import dynamic_load

confs = {
    "superpoint_aachen": {
        "output": "feats-superpoint",
        "model": {"name": "superpoint"},
        "preprocessing": {"grayscale": True, "resize_max": 1024},
    },
    "d2net-ss": {
        "output": "feats-d2net-ss",
        "model": {"name": "d2net", "multiscale": False},
        "preprocessing": {"grayscale": False, "resize_max": 1600},
    },
    "netvlad": {
        "output": "global-feats-netvlad",
        "model": {"name": "netvlad"},
        "preprocessing": {"resize_max": 1024},
    },
}


def main(conf, image_dir, export_dir, as_half=True):
    path = Path(export_dir, conf["output"] + ".h5")
    path.parent.mkdir(parents=True, exist_ok=True)
    model = dynamic_load(extractors, conf["model"]["name"])(conf["model"]).eval()
    with h5py.File(path, "w") as file, torch.no_grad():
        for image_path in sorted(image_dir.glob("*.png")):
            original = Image.open(image_path).convert("RGB")
            image, scale = resize(original, conf["preprocessing"])
            image = torch.from_numpy(image.astype(np.float32).transpose(2, 0, 1) / 255.0)
            found = {k: v[0].cpu().numpy() for k, v in model({"image": image[None]}).items()}
            if "keypoints" in found:
                found["keypoints"] = (found["keypoints"] + 0.5) * scale - 0.5
                found["scales"] *= scale.mean()
            if as_half:
                halves = {k: v.astype(np.float16) for k, v in found.items() if v.dtype == "f4"}
                found.update(halves)
            found["image_size"] = np.array(original.size)
            for key, value in found.items():
                file.create_dataset(f"{image_path.name}/{key}", data=value)
            noise = getattr(model, "detection_noise", 1) * scale.mean()
            if "keypoints" in found:
                file[image_path.name]["keypoints"].attrs["uncertainty"] = noise
    return path


def resize(image, conf):
    scale = conf["resize_max"] / max(image.size)
    size = image.size if scale >= 1 else tuple(round(x * scale) for x in image.size)
    if size != image.size:
        assert conf["interpolation"] == "pil_bilinear"
    resized = image.resize(size, Image.Resampling.BILINEAR) if size != image.size else image
    return np.asarray(resized), np.array(image.size, np.float32) / np.array(size, np.float32)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--image_dir", type=Path, required=True)
    parser.add_argument("--export_dir", type=Path, required=True)
    parser.add_argument("--conf", default="superpoint_aachen", choices=list(confs.keys()))
    parser.add_argument("--as_half", action="store_true")
    args = parser.parse_args()
    main(confs[args.conf], args.image_dir, args.export_dir, args.as_half)
