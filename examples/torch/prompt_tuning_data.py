"""Frozen features for prompt_tuning.py: from .npy files, generated, or of Fashion-MNIST. All rows are of unit norm."""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class InputError(Exception):
    pass


class Features(NamedTuple):
    images: Tensor  # n x d
    labels: Tensor  # n; rows with a negative one are left out
    texts: Tensor  # C x d
    target: Optional[Tensor] = None  # m x d, of another domain
    target_labels: Optional[Tensor] = None  # m, for reporting


@dataclass
class Task:
    """What is trained on, and tested. Classes below base_classes have images; the rest has its texts only."""

    texts: Tensor  # C x d
    base_classes: int
    shots: Tensor  # labelled images of the base classes
    shot_labels: Tensor
    target: Optional[Tensor]  # unlabelled images of the other domain
    tests: dict[str, tuple[Tensor, Tensor]]  # by domain: images and labels


def split(features: Features, base_classes: Optional[int], shots: int, seed: int) -> Task:
    """Half of each class is tested on; shots are drawn from the other half. Where the target has labels, half of it is
    tested on and the base classes of the other half are trained on: domains are compared by what both show."""
    images, labels, texts, target, target_labels = features
    random = torch.Generator().manual_seed(seed)
    base = base_classes or (len(texts) + 1) // 2
    if not 2 <= base <= len(texts):
        raise InputError(f"expected 2 to {len(texts)} base classes, got {base}")
    drawn, tested = [], []
    for c in range(len(texts)):
        rows = (labels == c).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=random)]
        half = (len(rows) + 1) // 2
        if c < base and half == 0:
            raise InputError(f"class {c} has no images")
        drawn.append(rows[: min(half, shots if c < base else 0)])
        tested.append(rows[half:])
    drawn, tested = torch.cat(drawn), torch.cat(tested)
    tests = {"clean": (images[tested], labels[tested])}
    if target is not None and target_labels is not None:
        rows = torch.randperm(len(target), generator=random)
        rows = rows[target_labels[rows] >= 0]
        adapt, test = rows[::2], rows[1::2]
        tests["shifted"] = (target[test], target_labels[test])
        target = target[adapt[target_labels[adapt] < base]]
    if target is not None and len(target) < 2:
        raise InputError("expected at least two target images of the base classes")
    return Task(texts, base, images[drawn], labels[drawn], target, tests)


# ----------------------------------------------------------------------------------------------------------------------
# .npy files


def read_array(path: str, dimensions: int) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim != dimensions or array.size == 0:
        raise InputError(f"{path}: expected {dimensions} dimensions, got {getattr(array, 'shape', 'several arrays')}")
    return array


def read_rows(path: str, width: Optional[int] = None) -> Tensor:
    array = read_array(path, 2)
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise InputError(f"{path}: expected finite floating-point numbers")
    if width is not None and array.shape[1] != width:
        raise InputError(f"{path}: expected rows of {width} numbers as the images have, got {array.shape[1]}")
    return F.normalize(torch.from_numpy(array.astype(np.float64)))


def read_labels(path: str, rows: int, classes: int) -> Tensor:
    array = read_array(path, 1)
    if array.dtype.kind not in "iu":
        raise InputError(f"{path}: expected integers, got {array.dtype}")
    if len(array) != rows or array.max() >= classes:
        raise InputError(f"{path}: expected {rows} labels below {classes}, got {len(array)} up to {array.max()}")
    return torch.from_numpy(array.astype(np.int64))


def from_files(images: str, labels: str, texts: str, target: Optional[str], target_labels: Optional[str]) -> Features:
    x = read_rows(images)
    t = read_rows(texts, x.shape[1])
    y = read_labels(labels, len(x), len(t))
    if target is None:
        return Features(x, y, t)
    g = read_rows(target, x.shape[1])
    return Features(x, y, t, g, None if target_labels is None else read_labels(target_labels, len(g), len(t)))


# ----------------------------------------------------------------------------------------------------------------------
# Generated


def generated(seed: int = 0, classes: int = 20, per_class: int = 100, width: int = 128) -> Features:
    """Texts in random directions. An image is its class's text, plus what its class looks like, what all images have in
    common (the gap between modalities), nuisances along eight directions, and noise. Those of the target domain have
    other nuisances."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    texts, looks, gap, directions = (F.normalize(normal(n, width)) for n in (classes, classes, 1, 8))
    labels = torch.arange(classes).repeat_interleave(per_class)

    def images(shift: Tensor) -> Tensor:
        nuisances = (0.3 * normal(len(labels), 8) + shift) @ directions
        noise = 0.9 / math.sqrt(width) * normal(len(labels), width)
        return F.normalize(0.4 * texts[labels] + 0.3 * looks[labels] + gap + nuisances + noise)

    return Features(images(torch.zeros(8, dtype=torch.float64)), labels, texts, images(normal(8)), labels)


# ----------------------------------------------------------------------------------------------------------------------
# Fashion-MNIST (H. Xiao et al., arXiv 1708.07747; Debian: dataset-fashion-mnist)

TEXTS = Path(__file__).resolve().parent.parent / "data" / "class_text.npy"


def fashion_mnist(folder: str, count: int = 10000, components: int = 128) -> Features:
    """Principal components of the pixels as image features, gently whitened. Texts of the class names come from a
    sentence encoder that never saw an image; a linear map joins them to the images. In place of CLIP's pre-training,
    components and map are learnt from `count` images and their classes, which are not used again. The target domain is
    another `count` images, turned by 20 degrees."""

    def read(name: str, offset: int) -> Tensor:
        try:
            with gzip.open(Path(folder) / f"train-{name}-ubyte.gz") as file:
                return torch.from_numpy(np.frombuffer(file.read(), np.uint8, offset=offset).copy())
        except (OSError, EOFError, ValueError) as error:
            raise InputError(f"Fashion-MNIST in {folder}: {error}") from error

    pixels = read("images-idx3", 16).view(-1, 1, 28, 28)[: 3 * count].double() / 255
    labels = read("labels-idx1", 8)[: 3 * count].long()
    angle = math.radians(20)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]]).double()
    grid = F.affine_grid(turn.expand(count, 2, 3), (count, 1, 28, 28), align_corners=False)
    pixels[2 * count :] = F.grid_sample(pixels[2 * count :], grid, align_corners=False)
    pixels = pixels.flatten(1)

    mean = pixels[:count].mean(0)
    variances, axes = torch.linalg.eigh(torch.cov(pixels[:count].T))
    variances, axes = variances[-components:], axes[:, -components:]
    images = F.normalize((pixels - mean) @ (axes / (variances + 0.01 * variances[-1]).sqrt()))

    templates = read_array(str(TEXTS), 3)  # templates x classes x d
    captions = torch.from_numpy(templates.astype(np.float64)).flatten(0, 1)
    captions -= captions.mean(0)
    of_class = F.one_hot(labels[:count]).double()
    means = (of_class.T @ images[:count]) / of_class.sum(0)[:, None]
    # Ridge regression in its dual form, from every caption to the mean image of its class.
    gram = captions @ captions.T + 0.1 * torch.eye(len(captions)).double()
    texts = captions @ (captions.T @ torch.linalg.solve(gram, means.repeat(len(templates), 1)))
    texts = F.normalize(texts.view(*templates.shape[:2], -1).mean(0))
    source, target = slice(count, 2 * count), slice(2 * count, None)
    return Features(images[source], labels[source], texts, images[target], labels[target])
