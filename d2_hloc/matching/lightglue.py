"""A learned matcher: features of two images -> Matches, by where they are as well as what they are.

LightGlue (Lindenberger et al., ICCV 2023), small: kornia's layers, with weights of our own that
docs/matcher.md tells the making of. Each feature looks at all others of its image, then at those of
the other image, several times over; then partners are chosen by a softmax in both directions, times
how likely each feature is to have a partner at all.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import kornia.feature as KF
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from d2_hloc.core.devices import chosen_device
from d2_hloc.core.structs import Matches
from d2_hloc.core.text import parse_json
from d2_hloc.features.options import BUNDLED as PROJECTION
from d2_hloc.features.projection import Projection, load_projection
from d2_hloc.files.atomic import write_whole
from d2_hloc.matching.options import GlueShape
from d2_hloc.network.d2net import DTYPES
from d2_hloc.network.weights.catalogue import FOLDER, WeightsError

BUNDLED = {"d2_lightglue": FOLDER / "d2_lightglue.safetensors"}
NEVER = -1e9  # a similarity or logit whose share is zero
MIN_SCORE = 0.03  # most right matches after verification, on pairs held back (docs/matcher.md)
ATTENDING = 256  # features at a time, so that their weights stay in the processor's cache
SLOWEST, FASTEST = 0.8, 8.0  # radians that positions turn by from an image's middle to its edge


@dataclass(frozen=True, kw_only=True)
class Points:
    """Features of one or several images, as the network takes them."""

    descriptors: Float[Tensor, "B N D"]
    positions: Float[Tensor, "B N 2"]  # the middle is 0, the ends of the longer edge are -1 and 1
    are_real: Bool[Tensor, "B N"] | None = None  # not mere padding; None: all are

    def __len__(self) -> int:
        return self.positions.shape[1]

    def to(self, dtype: torch.dtype) -> Points:
        """Descriptors in another precision; positions stay as exact as they are."""
        return replace(self, descriptors=self.descriptors.to(dtype))

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.descriptors.nbytes + self.positions.nbytes


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """The network's answer for two images: who is like whom, and who has a partner at all."""

    similarity: Float[Tensor, "B N0 N1"]
    matchable0: Float[Tensor, "B N0"]  # logits
    matchable1: Float[Tensor, "B N1"]

    def log_scores(self) -> Float[Tensor, "B N0 N1"]:
        """Logarithms of the scores of all pairs."""
        rows, columns = self.similarity.logsumexp(dim=2), self.similarity.logsumexp(dim=1)
        row = F.logsigmoid(self.matchable0) - rows
        column = F.logsigmoid(self.matchable1) - columns
        return 2 * self.similarity + row[:, :, None] + column[:, None, :]


class Glue(nn.Module):
    """kornia's LightGlue without its early exits, and with attention that the processor likes."""

    def __init__(self, shape: GlueShape | None = None) -> None:
        """Weights with which partners are mutual neighbours, softly: training adds the context."""
        super().__init__()
        self.shape = shape = shape or GlueShape()
        self.net: Any = KF.LightGlue(
            features=None,  # pyright: ignore[reportArgumentType] - kornia takes None
            input_dim=shape.input_width,
            descriptor_dim=shape.width,
            n_layers=shape.layers,
            num_heads=shape.heads,
        )
        self.net.token_confidence = nn.ModuleList()
        last = self.net.log_assignment[-1]
        self.net.log_assignment = nn.ModuleList([nn.Identity()] * (shape.layers - 1) + [last])
        self.net.posenc.requires_grad_(False)
        self._begin()

    @torch.no_grad()
    def _begin(self) -> None:
        """The leading directions of the descriptors go through, to a softmax that is not flat."""
        net, width = self.net, self.shape.width
        net.input_proj.weight.copy_(math.sqrt(width) * torch.eye(width, self.shape.input_width))
        net.input_proj.bias.zero_()
        for layer in net.transformers:
            for block in (layer.self_attn, layer.cross_attn):
                block.ffn[-1].weight.mul_(0.02)
                block.ffn[-1].bias.zero_()
        last = net.log_assignment[-1]
        last.final_proj.weight.copy_(1.35 * torch.eye(width))
        last.final_proj.bias.zero_()
        last.matchability.weight.mul_(0.1)
        last.matchability.bias.zero_()
        turns = net.posenc.Wr.weight
        speeds = torch.logspace(math.log10(FASTEST), math.log10(SLOWEST), len(turns))
        turns.copy_(speeds[:, None] * torch.randn_like(turns))

    def forward(self, points0: Points, points1: Points) -> Assignment:
        """Features of B pairs of images. Padding changes nothing."""
        net = self.net
        turns0, turns1 = net.posenc(points0.positions), net.posenc(points1.positions)
        x0, x1 = net.input_proj(points0.descriptors), net.input_proj(points1.descriptors)
        real0, real1 = points0.are_real, points1.are_real
        for layer in net.transformers:
            x0 = attend_to_own(layer.self_attn, x0, turns0, real0)
            x1 = attend_to_own(layer.self_attn, x1, turns1, real1)
            x0, x1 = attend_to_other(layer.cross_attn, x0, x1, real0, real1)
        last = net.log_assignment[-1]
        y0, y1 = last.final_proj(x0).float(), last.final_proj(x1).float()
        similarity = y0 @ y1.transpose(1, 2) / math.sqrt(self.shape.width)
        matchable0, matchable1 = (last.matchability(x)[..., 0].float() for x in (x0, x1))
        if real0 is not None:
            similarity = similarity.masked_fill(~real0[:, :, None], NEVER)
            matchable0 = matchable0.masked_fill(~real0, NEVER)
        if real1 is not None:
            similarity = similarity.masked_fill(~real1[:, None, :], NEVER)
            matchable1 = matchable1.masked_fill(~real1, NEVER)
        return Assignment(similarity=similarity, matchable0=matchable0, matchable1=matchable1)


def attend_to_own(block: Any, x: Tensor, turns: Tensor, are_real: Tensor | None) -> Tensor:
    """Self-attention, with positions as rotations (kornia's SelfBlock)."""
    q, k, v = block.Wqkv(x).unflatten(-1, (block.num_heads, -1, 3)).transpose(1, 2).unbind(-1)
    turns = turns.to(q.dtype)
    # torch's fast kernel wants the channels of all three side by side.
    found = attention(rotated(q, turns), rotated(k, turns), v.contiguous(), are_real)
    return _added(block.ffn, x, block.out_proj(found.transpose(1, 2).flatten(-2)))


def attend_to_other(
    block: Any, x0: Tensor, x1: Tensor, real0: Tensor | None, real1: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attention from each image to the other (kornia's CrossBlock)."""
    qk0, qk1, v0, v1 = (
        part.unflatten(-1, (block.heads, -1)).transpose(1, 2)
        for part in (block.to_qk(x0), block.to_qk(x1), block.to_v(x0), block.to_v(x1))
    )
    found0, found1 = attention(qk0, qk1, v1, real1), attention(qk1, qk0, v0, real0)
    return (
        _added(block.ffn, x0, block.to_out(found0.transpose(1, 2).flatten(-2))),
        _added(block.ffn, x1, block.to_out(found1.transpose(1, 2).flatten(-2))),
    )


def _added(ffn: nn.Module, x: Tensor, message: Tensor) -> Tensor:
    return x + ffn(torch.cat([x, message], dim=-1))


def rotated(x: Float[Tensor, "B H N C"], turns: Float[Tensor, "2 B 1 N C"]) -> Tensor:
    """Each pair of channels, turned by the position's angle."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * turns[0] + torch.stack([-odd, even], dim=-1).flatten(-2) * turns[1]


def attention(
    q: Float[Tensor, "B H N C"],
    k: Float[Tensor, "B H M C"],
    v: Float[Tensor, "B H M C"],
    are_real: Bool[Tensor, "B M"] | None,
) -> Float[Tensor, "B H N C"]:
    """softmax(q k / sqrt(C)) v over the keys that are real."""
    if are_real is None and q.device.type == "cpu" and q.dtype == torch.bfloat16:
        # Three times as fast as torch's kernel, where the processor multiplies bfloat16.
        heads = q.shape[:2]
        q, k, v = (part.flatten(0, 1) for part in (q * q.shape[-1] ** -0.5, k, v))
        keys = k.transpose(1, 2)
        found = [torch.softmax(rows @ keys, dim=-1) @ v for rows in q.split(ATTENDING, dim=1)]
        return torch.cat(found, dim=1).unflatten(0, heads)
    mask = None if are_real is None else are_real[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def partners(
    log_scores: Float[Tensor, "N0 N1"], min_score: float
) -> tuple[Tensor, Float[Tensor, " K"]]:
    """Pairs (K, 2) that are each other's best and score more than this, and their scores."""
    best, indices = log_scores.max(dim=1)
    is_mutual = log_scores.argmax(dim=0)[indices] == torch.arange(len(best), device=best.device)
    rows = (is_mutual & (best.exp() > min_score)).nonzero()[:, 0]
    return torch.stack([rows, indices[rows]], dim=1), best[rows].exp()


class LightGlue:
    """The matcher: prepare() an image once, then call it with two of them."""

    def __init__(
        self,
        weights: str = "d2_lightglue",
        min_score: float | None = None,
        precision: str = "float32",
    ) -> None:
        """Load weights, by a bundled name or from a file, to the chosen device.

        A match has to score more than `min_score`; None is MIN_SCORE.

        Raises:
            WeightsError: if they cannot be used.
        """
        self.min_score = MIN_SCORE if min_score is None else min_score
        self.dtype = DTYPES[precision]
        self.device = chosen_device()
        self.glue = load_glue(locate(weights)).to(self.device, self.dtype)
        self.glue.net.posenc.float()  # positions are exact in all precisions

    @torch.no_grad()
    def prepare(
        self,
        keypoints: Float[Tensor, "N 2"],
        descriptors: Float[Tensor, "N D"],
        image_size: tuple[int, int],
    ) -> Points:
        """One image, once for all pairs that it is in. `image_size` is (w, h) in pixels.

        Raises:
            ValueError: for descriptors of a width that the weights were not learned from.
        """
        found = projected(descriptors.to(self.device), self.glue.shape.input_width)
        places = positions(keypoints.to(self.device).float(), image_size)
        return Points(descriptors=found[None], positions=places[None]).to(self.dtype)

    @torch.no_grad()
    def __call__(self, points0: Points, points1: Points) -> Matches:
        """Matches of two images that were prepared, with scores in [0, 1]."""
        if len(points0) == 0 or len(points1) == 0:
            return Matches.none(self.device)
        pairs, scores = partners(self.log_scores(points0, points1), self.min_score)
        return Matches(pairs=pairs, scores=scores)

    @torch.no_grad()
    def log_scores(self, points0: Points, points1: Points) -> Float[Tensor, "N0 N1"]:
        """Logarithms of the scores of all pairs of two images' features; neither is empty."""
        return self.glue(points0, points1).log_scores()[0]


def positions(keypoints: Float[Tensor, "N 2"], image_size: tuple[int, int]) -> Float[Tensor, "N 2"]:
    """Keypoints from the image's middle, in halves of its longer edge."""
    size = keypoints.new_tensor(image_size)
    return (keypoints - size / 2) / (size.max() / 2)


def projected(descriptors: Float[Tensor, "N D"], width: int) -> Float[Tensor, "N W"]:
    """Descriptors as the network takes them: D2-Net's through the bundled projection.

    Raises:
        ValueError: for a width that is neither D2-Net's nor the projection's.
    """
    if descriptors.shape[1] == width:
        return F.normalize(descriptors.float())
    projection = _projection()
    if descriptors.shape[1] == len(projection.mean) and width == projection.basis.shape[1]:
        return projection.apply(descriptors)
    raise ValueError(
        f"the matcher was learned from D2-Net's descriptors of {len(projection.mean)} numbers, or "
        f"{width} by the bundled projection, and cannot take {descriptors.shape[1]}: extract with "
        f"d2net, compress to {width} or not at all, or match by 'nearest'."
    )


@lru_cache
def _projection() -> Projection:
    return load_projection(PROJECTION)


def locate(source: str) -> Path:
    """The file behind a bundled name or a path.

    Raises:
        WeightsError: if there is none.
    """
    path = BUNDLED.get(source, Path(source))
    if not path.is_file():
        names = ", ".join(BUNDLED)
        raise WeightsError(
            f"{source}: there are no such weights of a matcher; bundled are {names}, and "
            "pipelines/train_matcher.py makes others."
        )
    return path


def save_glue(path: Path, glue: Glue) -> Path:
    """Write weights in half precision, as safetensors with a record of their shape.

    Raises:
        DiskFull: if there is no space.
    """
    tensors = {
        key: value.detach().cpu().half().contiguous()
        for key, value in glue.net.state_dict().items()
    }
    record = {"shape": asdict(glue.shape)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, save(tensors, {"matcher": json.dumps(record)}))
    return path


def load_glue(path: Path) -> Glue:
    """Read weights, for inference.

    Raises:
        WeightsError: if the file is damaged or something else.
    """
    try:
        with safe_open(path, "pt") as file:
            shape = GlueShape(**parse_json((file.metadata() or {})["matcher"])["shape"])
            tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        with torch.random.fork_rng(devices=[]):  # its first weights are drawn, and not kept
            glue = Glue(shape)
        glue.net.load_state_dict(tensors)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{path}: holds no weights of a matcher, or is damaged.") from error
    if not all(bool(value.isfinite().all()) for value in tensors.values()):
        raise WeightsError(f"{path}: holds weights that are no numbers; train it again.")
    return glue.eval().requires_grad_(False)
