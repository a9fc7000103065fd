"""The training step of prompt tuning on frozen features: what is trained, and its losses, written twice.

ByHand has them as trainers write them in PyTorch, ByCraft with craft's operators. Everything else is common to both.
prompt_tuning.py says what the terms are, and runs all this.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Optional, Sequence

import torch
import torch.nn.functional as F
from prompt_tuning_data import Task
from torch import Tensor, nn

import craft_align

SCALE = 100.0  # of the cosines: CLIP's, frozen like its towers
WEIGHTS = {"text": 1.0, "image": 1.0, "batch": 1.0, "mmd": 1.0, "keep_images": 10.0, "keep_texts": 25.0, "keep_logits": 1.0}
BANDWIDTHS = (0.5, 1.0, 2.0)  # of the Gaussians, in units of the root of the mean squared distance


# ----------------------------------------------------------------------------------------------------------------------
# What is trained


class Towers(nn.Module):
    """Adapter and prompts on frozen features; before training they change nothing."""

    def __init__(self, width: int, base_classes: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.adapter = nn.Parameter(torch.zeros(width, width, dtype=dtype))
        self.context = nn.Parameter(torch.zeros(width, dtype=dtype))
        self.prompts = nn.Parameter(torch.zeros(base_classes, width, dtype=dtype))

    def images(self, frozen: Tensor) -> Tensor:
        return F.normalize(frozen + frozen @ self.adapter)

    def texts(self, frozen: Tensor) -> Tensor:
        """Classes after the base classes have no prompt of their own."""
        prompts = F.pad(self.prompts, (0, 0, 0, len(frozen) - len(self.prompts)))
        return F.normalize(frozen + self.context + prompts)


@dataclass
class Step:
    """What the losses of one training step look at; all features have unit rows."""

    images: Tensor  # n x d, tuned
    labels: Tensor  # n
    texts: Tensor  # C x d, tuned
    target: Optional[Tensor]  # m x d, tuned; of another domain
    frozen_images: Tensor  # n x d
    frozen_texts: Tensor  # C x d
    image_anchors: Tensor  # C x d: class means of frozen images

    @functools.cached_property
    def own_texts(self) -> Tensor:
        return self.texts[self.labels]

    @functools.cached_property
    def logits(self) -> Tensor:
        return SCALE * self.images @ self.texts.T

    @functools.cached_property
    def frozen_log_probabilities(self) -> Tensor:
        return (SCALE * self.frozen_images @ self.frozen_texts.T).log_softmax(1)


# ----------------------------------------------------------------------------------------------------------------------
# Its losses


class Losses:
    """The weighted sum of the terms asked for. Each is the method of its name."""

    def __init__(self, terms: Sequence[str], mmd_kind: str = "gaussian") -> None:
        self.terms, self.mmd_kind = terms, mmd_kind

    def __call__(self, step: Step) -> Tensor:
        return sum(WEIGHTS[term] * getattr(self, term)(step) for term in self.terms)

    def keep_images(self, step: Step) -> Tensor:
        return F.l1_loss(step.images, step.frozen_images)

    def keep_texts(self, step: Step) -> Tensor:
        return F.l1_loss(step.texts, step.frozen_texts)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp_min(0)


def gaussian_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased MMD^2; bandwidths in units of the root of the mean squared distance of all pairs, a constant."""
    n, m = len(x), len(y)
    xx, yy, xy = squared_distances(x, x), squared_distances(y, y), squared_distances(x, y)
    mean = ((xx.sum() + yy.sum() + 2 * xy.sum()) / (n + m) ** 2).detach()

    def kernel(distances: Tensor) -> Tensor:
        return sum(torch.exp(-distances / (2 * b**2 * mean)) for b in BANDWIDTHS) / len(BANDWIDTHS)

    xx, yy, xy = kernel(xx), kernel(yy), kernel(xy)
    return (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1)) - 2 * xy.mean()


def craft_rbf_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Biased MMD^2 as Craft was released with: each sample scaled to [0, 1] by column, then four Gaussians."""

    def scaled(v: Tensor) -> Tensor:
        low, high = v.amin(0), v.amax(0)
        return (v - low) / (high - low + 1e-8)

    def mean_kernel(x: Tensor, y: Tensor) -> Tensor:
        distances = squared_distances(x, y)
        return sum(torch.exp(-distances / (2 * a)) for a in (10, 15, 20, 50)).mean()

    x, y = scaled(x), scaled(y)
    return mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)


class ByHand(Losses):
    """As trainers write them: with n x n logits, and for the discrepancy several matrices of n x n, m x m and n x m."""

    def text(self, step: Step) -> Tensor:
        return F.cross_entropy(step.logits, step.labels)

    def image(self, step: Step) -> Tensor:
        return F.cross_entropy(SCALE * step.own_texts @ step.image_anchors.T, step.labels)

    def batch(self, step: Step) -> Tensor:
        logits = SCALE * step.images @ step.own_texts.T
        return F.cross_entropy(logits, torch.arange(len(logits)))

    def mmd(self, step: Step) -> Tensor:
        source, target = step.logits, SCALE * step.target @ step.texts.T
        return gaussian_mmd(source, target) if self.mmd_kind == "gaussian" else craft_rbf_mmd(source, target)

    def keep_logits(self, step: Step) -> Tensor:
        frozen = step.frozen_log_probabilities
        return F.kl_div(step.logits.log_softmax(1), frozen, reduction="sum", log_target=True) / frozen.numel()


class ByCraft(Losses):
    """The same terms by craft's operators."""

    def __init__(self, terms: Sequence[str], mmd_kind: str = "gaussian") -> None:
        super().__init__(terms, mmd_kind)
        log_scale = math.log(SCALE)  # normalise=False below: the towers give unit rows
        self.cross_entropy = craft_align.AnchorCrossEntropyLoss(log_scale=log_scale, normalise=False)
        self.contrast = craft_align.InfoNCELoss(log_scale=log_scale, normalise=False, direction="one_way")
        self.relative = craft_align.RelativeRepresentation(log_scale=log_scale, normalise=False)
        weights = [1 / len(BANDWIDTHS)] * len(BANDWIDTHS)
        self.discrepancy = craft_align.MMDLoss(
            "gaussian", BANDWIDTHS, weights, estimator="unbiased", bandwidth_rule="mean"
        )
        if mmd_kind == "craft_rbf":
            self.discrepancy = craft_align.MMDPresetLoss("craft_rbf")

    def text(self, step: Step) -> Tensor:
        return self.cross_entropy(step.images, step.texts, step.labels)

    def image(self, step: Step) -> Tensor:
        return self.cross_entropy(step.own_texts, step.image_anchors, step.labels)

    def batch(self, step: Step) -> Tensor:
        return self.contrast(step.images, step.own_texts)

    def mmd(self, step: Step) -> Tensor:
        source, target = self.relative(step.images, step.texts), self.relative(step.target, step.texts)
        return self.discrepancy(source, target)

    def keep_logits(self, step: Step) -> Tensor:
        # KL(frozen || tuned): the cross-entropy with soft targets, less their entropy, which is a constant.
        frozen = step.frozen_log_probabilities
        entropy = -(frozen.exp() * frozen).sum(1).mean()
        return (self.cross_entropy(step.images, step.texts, frozen.exp()) - entropy) / frozen.shape[1]


VARIANTS = {"by_hand": ByHand, "craft": ByCraft}


# ----------------------------------------------------------------------------------------------------------------------
# The step


@dataclass
class Recipe:
    epochs: int = 50
    batch: int = 32
    target_batch: int = 256
    learning_rate: float = 0.001
    momentum: float = 0.9


class Trainer:
    """SGD with momentum and a cosine schedule. The same seed gives the same batches, whatever the losses."""

    def __init__(self, task: Task, losses: Losses, recipe: Recipe, dtype: torch.dtype, seed: int) -> None:
        base = task.base_classes
        self.losses, self.recipe = losses, recipe
        self.images, self.labels, self.texts = task.shots.to(dtype), task.shot_labels, task.texts[:base].to(dtype)
        self.target = None if task.target is None else task.target.to(dtype)
        self.image_anchors = F.normalize(craft_align.class_means(self.images, self.labels, base))
        self.towers = Towers(self.images.shape[1], base, dtype)
        self.random = torch.Generator().manual_seed(seed)
        self.steps = recipe.epochs * math.ceil(len(self.images) / recipe.batch)
        self.optimiser = torch.optim.SGD(self.towers.parameters(), recipe.learning_rate, recipe.momentum)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimiser, self.steps)

    def draw(self, rows: int, count: int) -> Tensor:
        return torch.randperm(rows, generator=self.random)[:count]

    def step(self) -> float:
        """The loss before the step."""
        rows = self.draw(len(self.images), self.recipe.batch)
        images, target = self.images[rows], None
        if self.target is not None:
            target = self.towers.images(self.target[self.draw(len(self.target), self.recipe.target_batch)])
        self.optimiser.zero_grad()
        loss = self.losses(
            Step(
                images=self.towers.images(images),
                labels=self.labels[rows],
                texts=self.towers.texts(self.texts),
                target=target,
                frozen_images=images,
                frozen_texts=self.texts,
                image_anchors=self.image_anchors,
            )
        )
        loss.backward()
        self.optimiser.step()
        self.schedule.step()
        return loss.item()
