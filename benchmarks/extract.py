"""Time and peak memory of extraction against the plain formulation, in one run.

The plain formulation takes the whole image at once through dilated convolutions and builds the
detection and localisation maps of all 512 channels at every cell. Each measurement runs in a
process of its own; the two are interleaved, and the fastest of the repeats counts. 'of peak' is the
rate of the trunk's multiply-adds, counted as direct convolutions over the whole time, against that
of a large matrix product: Winograd's form needs fewer, so it can pass 1.

    python benchmarks/extract.py
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from d2_hloc.network.backbone import LAYERS, preprocess
from d2_hloc.network.d2net import D2Net
from d2_hloc.network.options import MULTISCALE, D2NetOptions

# name: (scales, (w, h))
CASES = {
    "single-scale 1024 x 768": ((1.0,), (1024, 768)),
    "multi-scale 640 x 480": (MULTISCALE, (640, 480)),
    "multi-scale 1600 x 1200": (MULTISCALE, (1600, 1200)),
}
DIFFERENCES = {
    "i": ((0, -0.5, 0), (0, 0, 0), (0, 0.5, 0)),
    "j": ((0, 0, 0), (-0.5, 0, 0.5), (0, 0, 0)),
    "ii": ((0, 1, 0), (0, -2, 0), (0, 1, 0)),
    "jj": ((0, 0, 0), (1, -2, 1), (0, 0, 0)),
    "ij": ((0.25, 0, -0.25), (0, 0, 0), (-0.25, 0, 0.25)),
}


class Plain:
    """The method as the paper writes it, for one image."""

    def __init__(self, scales: tuple[float, ...]) -> None:
        self.scales = scales
        state = D2Net().backbone.state_dict()
        self.layers = [(n, state[f"{n}.weight"].contiguous(), state[f"{n}.bias"]) for n in LAYERS]

    def maps(self, image: Tensor) -> Tensor:
        x = preprocess(image).contiguous()
        for name, weight, bias in self.layers:
            if name in ("conv2_1", "conv3_1"):
                x = F.max_pool2d(x, 2)
            if name == "conv4_1":
                x = F.avg_pool2d(x, 2, stride=1)
            dilation = 2 if name.startswith("conv4") else 1
            x = F.relu_(F.conv2d(x, weight, bias, padding=dilation, dilation=dilation))
        return x

    def difference(self, maps: Tensor, name: str) -> Tensor:
        kernel = torch.tensor(DIFFERENCES[name], dtype=torch.float32).view(1, 1, 3, 3)
        return F.conv2d(maps.transpose(0, 1), kernel, padding=1).transpose(0, 1)

    def detections(self, maps: Tensor) -> Tensor:
        is_max = (maps == maps.amax(dim=1, keepdim=True)) & (maps == F.max_pool2d(maps, 3, 1, 1))
        ii, jj, ij = (self.difference(maps, n) for n in ("ii", "jj", "ij"))
        determinant, trace = ii * jj - ij**2, ii + jj
        return is_max & (determinant > 0) & (trace**2 / determinant <= 7.2)

    def steps(self, maps: Tensor) -> Tensor:
        i, j, ii, jj, ij = (self.difference(maps, n) for n in ("i", "j", "ii", "jj", "ij"))
        determinant = ii * jj - ij**2
        return torch.stack([(ij * j - jj * i) / determinant, (ij * i - ii * j) / determinant])

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> int:
        coarse, banned, count = None, None, 0
        for scale in self.scales:
            level = F.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=True)
            maps = self.maps(level)
            if coarse is not None:
                maps += F.interpolate(coarse, maps.shape[2:], mode="bilinear", align_corners=True)
            found = self.detections(maps)
            if banned is not None:
                banned = F.interpolate(banned.float(), maps.shape[2:]).bool()
                found &= ~banned
            mask = found.any(dim=1, keepdim=True)
            banned = mask if banned is None else banned | mask
            _, k, row, column = found.nonzero().T
            step = self.steps(maps)[:, 0, k, row, column]
            keep = (step.abs() < 0.5).all(dim=0)
            row, column = (torch.stack([row, column]) + step)[:, keep]
            size = maps.new_tensor([maps.shape[3] - 1, maps.shape[2] - 1])
            grid = torch.stack([column, row], dim=1) / size * 2 - 1
            sampled = F.grid_sample(maps, grid[None, None], align_corners=True)
            count += F.normalize(sampled[0, :, 0], dim=0).shape[1]
            coarse = maps
        return count


def photograph(width: int, height: int) -> Tensor:
    """A picture with structure at every scale: sums of noise, from fine to coarse."""
    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(1, 3, height, width)
    for k in range(7):
        noise = torch.rand(1, 3, max(2, height >> k), max(2, width >> k), generator=generator)
        image += F.interpolate(noise, (height, width), mode="bilinear") * 2**k
    image -= image.amin()
    return image / image.amax()


def measure(method: str, case: str, repeats: int) -> dict[str, float]:
    """Seconds of the fastest repeat and peak memory of this process."""
    scales, size = CASES[case]
    image = photograph(*size)
    net = Plain(scales) if method == "plain" else D2Net(D2NetOptions(scales=scales))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        found = net(image)
        seconds.append(time.perf_counter() - start)
    count = found if method == "plain" else len(found[0])
    found = {"seconds": min(seconds), "bytes": peak_bytes(), "features": count}
    return found | {"of_peak": multiply_adds(scales, size) / min(seconds) / peak_rate()}


def multiply_adds(scales: tuple[float, ...], size: tuple[int, int]) -> float:
    """Multiply-adds of the trunk's direct convolutions, all levels; conv4 is as dense as conv3."""
    total = 0.0
    for scale in scales:
        for name, (channels_in, channels_out, _) in LAYERS.items():
            stride = 2 ** (min(int(name[4]), 3) - 1)
            cells = scale * size[0] * scale * size[1] / stride**2
            total += 9 * channels_in * channels_out * cells
    return total


def peak_rate(edge: int = 2048, repeats: int = 5) -> float:
    """Multiply-adds a second of a large matrix product in float32."""
    matrix, seconds = torch.rand(edge, edge), []
    for _ in range(repeats):
        start = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - start)
    return edge**3 / min(seconds)


def peak_bytes() -> int:
    """Peak resident memory of this process (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_child(method: str, case: str, repeats: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", method, case, "--repeats", str(repeats)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", nargs=2, metavar=("METHOD", "CASE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(*args.child, args.repeats)))
        return
    columns = f"{'plain':>9}{'ours':>9}{'faster':>9}{'memory':>19}{'ratio':>7}{'of peak':>14}"
    print(f"{'case':26}{columns}  features")
    for case in CASES:
        plain, ours = (in_child(method, case, args.repeats) for method in ("plain", "ours"))
        print(
            f"{case:26}{plain['seconds']:8.2f}s{ours['seconds']:8.2f}s"
            f"{plain['seconds'] / ours['seconds']:8.2f}x"
            f"{plain['bytes'] / 2**30:8.2f} -> {ours['bytes'] / 2**30:4.2f} GB"
            f"{ours['bytes'] / plain['bytes']:7.2f}"
            f"{plain['of_peak']:6.2f} -> {ours['of_peak']:4.2f}  "
            f"{plain['features']} = {ours['features']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
