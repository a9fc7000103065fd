"""The losses of craft for PyTorch: differentiable functions, and modules with learnable parts.

    loss = craft_align.MMDLoss(bandwidths=(0.5, 1.0, 2.0), bandwidth_rule="median")
    loss(source, target).backward()

Matrices hold one sample per row (n x d) and have one type: float64, float32, float16 or bfloat16. Values are float64 for
float64 and float32 else, gradients are computed so and then have the type of their input. They run on the CPU in torch's number
of threads and, where the package was built for it, on CUDA tensors in the current stream. Nothing is copied where the
numbers of a row lie side by side (`x.stride(1) == 1`); else the call makes x contiguous first.

Under autocast matrices of different types are cast to the widest of them. torch.compile traces all of it without a graph break.
Each loss is one sweep for the value and all gradients that are needed; those by weights of samples take a second one over the
pairs. There are no second derivatives: asking for one raises NotImplementedError.

Errors: TypeError (types), ValueError (shapes, options, names), IndexError (a label out of range; of labels in CUDA memory the
value is NaN instead), RuntimeError (devices), all before anything is computed.

These are losses of a batch, not sums over its rows: two halves of a batch have another loss, and another gradient, than the whole.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, Optional, Sequence, Union

import torch
from torch import Tensor, nn

from . import _load

__all__ = [
    "AnchorCrossEntropyLoss",
    "CraftObjective",
    "InfoNCELoss",
    "KMeans",
    "MMDLoss",
    "MMDPresetLoss",
    "Objective",
    "RelativeRepresentation",
    "SigmoidLoss",
    "anchor_cross_entropy",
    "class_means",
    "farthest_point_anchors",
    "info_nce",
    "kmeans",
    "mmd",
    "mmd_preset",
    "objective",
    "relative",
    "sigmoid_contrastive",
]


def _load_operators() -> None:
    if hasattr(torch.ops.craft, "mmd"):  # the program has them itself
        return
    library = _load.library("libcraft_align_torch")
    if library is None:
        raise ImportError(
            "craft_align was built without PyTorch; install it with `pip install --no-build-isolation` where torch is installed"
        )
    try:
        torch.ops.load_library(library)
    except OSError as error:
        raise ImportError(
            f"craft_align was built for another PyTorch than {torch.__version__}; install it again with "
            "`pip install --no-build-isolation --force-reinstall --no-deps`"
        ) from error


_load_operators()
_ops = torch.ops.craft  # called by position, which takes microseconds less than by name

Number = Union[float, Tensor]
Kernel = Literal[
    "gaussian", "laplacian", "inverse_multiquadric", "rational_quadratic", "energy", "negative_distance", "dot_product", "cosine"
]
Estimator = Literal["biased", "unbiased", "linear"]
BandwidthRule = Literal["fixed", "mean", "mean_offdiagonal", "median", "median_mid"]
BandwidthSample = Literal["pooled", "x"]
ColumnScaling = Literal["none", "minmax_separate", "minmax_joint"]
Direction = Literal["one_way", "symmetric"]
Reduction = Literal["mean", "sum"]
Statistics = Literal["none", "centre", "standardise"]
Metric = Literal["euclidean", "cosine"]
Preset = Literal[
    "craft_rbf",
    "craft_multiscale",
    "tllib",
    "transferlearning",
    "cmmd",
    "geomloss_gaussian",
    "geomloss_laplacian",
    "geomloss_energy",
    "alibi_detect",
]


def _number(value: Optional[Number]) -> Optional[Tensor]:
    """A number as the tensor that operators take: on the CPU, which calls on any device read without waiting."""
    return value if value is None or isinstance(value, Tensor) else torch.full((), value, dtype=torch.float64, device="cpu")


# ----------------------------------------------------------------------------------------------------------------------------
# Functions


def mmd(
    x: Tensor,
    y: Tensor,
    kernel: Kernel = "gaussian",
    bandwidths: Union[Sequence[float], Tensor, None] = None,
    weights: Union[Sequence[float], Tensor, None] = None,
    *,
    shape: float = 0.0,
    estimator: Estimator = "biased",
    bandwidth_rule: BandwidthRule = "fixed",
    bandwidth_sample: BandwidthSample = "pooled",
    bandwidth_gradient: bool = False,
    columns: ColumnScaling = "none",
    column_gradient: bool = True,
    column_eps: float = 1e-8,
    x_weights: Optional[Tensor] = None,
    y_weights: Optional[Tensor] = None,
    factor: float = 1.0,
    offset: float = 0.0,
) -> Tensor:
    """Squared maximum mean discrepancy (MMD) between the rows of two samples; one number.

        MMD^2 = mean_ij k(x_i, x_j) + mean_ij k(y_i, y_j) - 2 mean_ij k(x_i, y_j),    k = sum_q weights_q k_q

    x: n x d, y: m x d. bandwidths: one for each k_q, in units of x or, with a bandwidth rule, in units of the root of the mean or
    median squared distance; default 1 for a Gaussian. weights: as many, default 1. As tensors both can be learnt; the host has to read
    them then, and on a GPU the call waits for that. shape: alpha of the rational quadratic, floor or eps of others.
    estimator: "unbiased" leaves the diagonals out and may be negative; "linear" looks at disjoint pairs only.
    bandwidth_gradient: whether the gradient runs through the bandwidth rule. x_weights (n), y_weights (m): of samples, >= 0, divided
    by their sum inside, with gradients (on the device of x) if they require them; not with the linear estimator.
    The result is factor * MMD^2 + offset. Cost: (n + m)^2 d multiply-adds, three times that with gradients, memory O((n + m) d).
    """
    learnt_bandwidths, learnt_weights = isinstance(bandwidths, Tensor), isinstance(weights, Tensor)
    return _ops.mmd(
        x, y, kernel, None if learnt_bandwidths else bandwidths, None if learnt_weights else weights, shape,
        bandwidths if learnt_bandwidths else None, weights if learnt_weights else None,
        estimator, bandwidth_rule, bandwidth_sample, bandwidth_gradient, columns, column_gradient, column_eps,
        x_weights, y_weights, factor, offset,
    )


def mmd_preset(x: Tensor, y: Tensor, name: Preset, *, blur: float = 0.05) -> Tensor:
    """MMD^2 of x (n x d) against y (m x d) by the convention of another code: kernel, bandwidth, estimator and factor of "craft_rbf",
    "craft_multiscale", "tllib", "transferlearning", "cmmd", "geomloss_gaussian", "geomloss_laplacian" (both with `blur`),
    "geomloss_energy" or "alibi_detect"."""
    return _ops.mmd_preset(x, y, name, blur)


def anchor_cross_entropy(
    x: Tensor,
    anchors: Tensor,
    target: Tensor,
    *,
    log_scale: Optional[Number] = None,
    max_scale: Optional[float] = None,
    normalise: bool = True,
    label_smoothing: float = 0.0,
    ignore_label: int = -100,
    weights: Optional[Tensor] = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cross-entropy of softmax_c(s cos(x_i, a_c)): features of one modality seen through static anchors of the other; one number.

    x: n x d, anchors: C x d, target: n labels (int64 or int32), or n x C soft targets. s = min(exp(log_scale), max_scale),
    by default exp(log_scale) = 100; a tensor log_scale can be learnt. At max_scale and above (where the value is that at
    max_scale) its gradient, what comes from above included, passes if a step against it leads back inside, and is 0 else: it
    may start at the bound. normalise=False: dot products instead of cosines. weights: n numbers >= 0. reduction: "mean"
    divides by the sum of the weights that take part. Gradients to x, anchors, log_scale, weights and soft targets.
    Cost: 2 n C d operations, 8 n C d with gradients, memory O((n + C) d).
    """
    return _ops.anchor_cross_entropy(
        x, anchors, target, _number(log_scale), max_scale, normalise, label_smoothing, ignore_label, weights, reduction,
    )


def info_nce(
    x: Tensor,
    y: Tensor,
    *,
    log_scale: Optional[Number] = None,
    max_scale: Optional[float] = None,
    normalise: bool = True,
    direction: Direction = "symmetric",
    x_labels: Optional[Tensor] = None,
    y_labels: Optional[Tensor] = None,
    label_smoothing: float = 0.0,
    weights: Optional[Tensor] = None,
) -> Tensor:
    """Contrastive loss with the other modality's batch as stochastic anchors; one number.

        L = mean_i (lse_j z_ij - mean over positives p of i of z_ip),    z_ij = s cos(x_i, y_j)

    x: n x d, y: m x d. Without labels row i of x belongs to row i of y (n = m); with x_labels (n) and y_labels (m) all pairs of a
    class belong together. "symmetric": the mean of this and of the same by columns; "one_way": x finds its y only. weights: n
    numbers >= 0, of the rows (and of the columns, where it is symmetric). Gradients to x, y, log_scale and weights.
    log_scale, max_scale, normalise as in anchor_cross_entropy. Cost: 2 n m d operations, 8 n m d with gradients.
    """
    return _ops.info_nce(
        x, y, _number(log_scale), max_scale, normalise, direction, x_labels, y_labels, label_smoothing, weights,
    )


def sigmoid_contrastive(
    x: Tensor,
    y: Tensor,
    *,
    log_scale: Optional[Number] = None,
    bias: Optional[Number] = None,
    max_scale: Optional[float] = None,
    normalise: bool = True,
    x_labels: Optional[Tensor] = None,
    y_labels: Optional[Tensor] = None,
) -> Tensor:
    """Sigmoid loss of every pair by itself; one number.

        L = -(1/n) sum_ij log sigmoid(l_ij (s cos(x_i, y_j) + bias)),    l_ij = 1 for pairs that belong together, else -1

    x: n x d, y: m x d, labels as in info_nce. By default exp(log_scale) = 10 and bias = -10; tensors can be learnt.
    max_scale as in anchor_cross_entropy.
    """
    return _ops.sigmoid_contrastive(
        x, y, _number(log_scale), _number(bias), max_scale, normalise, x_labels, y_labels,
    )


def relative(
    x: Tensor,
    anchors: Tensor,
    similarity: Kernel = "dot_product",
    bandwidths: Optional[Sequence[float]] = None,
    weights: Optional[Sequence[float]] = None,
    *,
    shape: float = 0.0,
    normalise: bool = True,
    statistics: Statistics = "none",
    statistics_gradient: bool = True,
    log_scale: Optional[Number] = None,
    max_scale: Optional[float] = None,
) -> Tensor:
    """Relative representation r_ic = s k(x_i, a_c), s = min(exp(log_scale), max_scale): every row described by its similarities
    to the anchors.

    x: n x d, anchors: C x d; n x C, in float64 for float64 and float32 else. With normalise, rows and anchors are divided by
    their norms first, so that the dot product is the cosine. statistics: "centre" subtracts the anchors' mean before that,
    "standardise" divides by their deviation too. log_scale: 0 by default; a tensor can be learnt, at max_scale as in
    anchor_cross_entropy. Cost: n C d multiply-adds.
    """
    return _ops.relative(
        x, anchors, similarity, bandwidths, weights, shape, normalise, statistics, statistics_gradient,
        _number(log_scale), max_scale,
    )


class Objective(NamedTuple):
    total: Tensor
    """The weighted sum; the only one that is differentiable."""
    terms: Tensor
    """Text, image, batch and MMD term without their weights (4 numbers, for reports)."""


def objective(
    images: Tensor,
    class_texts: Tensor,
    targets: Tensor,
    *,
    batch_texts: Optional[Tensor] = None,
    image_anchors: Optional[Tensor] = None,
    target_images: Optional[Tensor] = None,
    text: float = 1.0,
    image: float = 1.0,
    batch: float = 1.0,
    mmd: float = 1.0,
    log_scale: Optional[Number] = None,
    max_scale: Optional[float] = None,
    label_smoothing: float = 0.0,
    direction: Direction = "one_way",
    same_class_positives: bool = False,
    kernel: Kernel = "gaussian",
    bandwidths: Optional[Sequence[float]] = None,
    weights: Optional[Sequence[float]] = None,
    shape: float = 0.0,
    estimator: Estimator = "biased",
    bandwidth_rule: BandwidthRule = "fixed",
    bandwidth_sample: BandwidthSample = "pooled",
    bandwidth_gradient: bool = False,
    columns: ColumnScaling = "none",
    column_gradient: bool = True,
    column_eps: float = 1e-8,
    factor: float = 1.0,
    offset: float = 0.0,
) -> Objective:
    """The objective of Craft (arXiv 2407.15894): three alignment terms, and the discrepancy between domains.

        L = text  CE(s cos(images, class_texts), targets)          images seen through static text anchors
          + image CE(s cos(batch_texts, image_anchors), targets)   texts seen through static image anchors
          + batch InfoNCE(s cos(images, batch_texts))              stochastic anchors
          + mmd   MMD^2(r(images), r(target_images)),              r = s cos(., class_texts)

    s = min(exp(log_scale), max_scale), as in anchor_cross_entropy: at max_scale it counts where the gradient of L leads.

    images: n x d, class_texts: C x d, targets: n labels, batch_texts: n x d (default: each row's class text), image_anchors:
    C x d (default: no image term), target_images: m x d (default: no discrepancy). The arguments from `kernel` on are
    those of mmd, for the discrepancy. All terms and gradients in one call.
    """
    total, terms = _ops.objective(
        images, class_texts, targets, batch_texts, image_anchors, target_images, text, image, batch, mmd,
        _number(log_scale), max_scale, label_smoothing, direction, same_class_positives, kernel, bandwidths, weights, shape,
        estimator, bandwidth_rule, bandwidth_sample, bandwidth_gradient, columns, column_gradient, column_eps, factor, offset,
    )
    return Objective(total, terms)


def class_means(x: Tensor, labels: Tensor, classes: int, *, normalise: bool = False) -> Tensor:
    """Static anchors: the mean of the rows of x (n x d) of each class; classes x d. Constants: pass x.detach()."""
    return _ops.class_means(x, labels, classes, normalise=normalise)


class KMeans(NamedTuple):
    centres: Tensor
    """count x d, or classes * count x d."""
    assignment: Tensor
    """Centre of each row: n, int64."""
    inertia: Tensor
    """Sum of squared distances to it, one float64."""
    distinct: Tensor
    """How many distinct centres there are, one int64: fewer than count only if x (or a class) has fewer different rows. Equal rows
    share a centre; the centres that are left over have no rows, and are copies of a row."""


def kmeans(
    x: Tensor,
    count: int,
    *,
    labels: Optional[Tensor] = None,
    classes: int = 0,
    seed: int = 0,
    restarts: int = 10,
    max_iterations: int = 300,
    tolerance: float = 0.0,
    spherical: bool = False,
) -> KMeans:
    """Static anchors: `count` centres of the rows of x (n x d), or of those of each class where labels (n) and classes are given.

    k-means++ and Lloyd's iteration, the best of `restarts`; the same centres for any number of threads. spherical: rows and centres of
    unit norm. On a GPU the call waits. Constants: pass x.detach(). ValueError for NaN or infinity in x, and, unless spherical, for
    numbers whose squared distances are not in the range of the type."""
    return KMeans(
        *_ops.kmeans(
            x,
            count,
            labels=labels,
            classes=classes,
            seed=seed,
            restarts=restarts,
            max_iterations=max_iterations,
            tolerance=tolerance,
            spherical=spherical,
        )
    )


def farthest_point_anchors(x: Tensor, count: int, *, start: int = 0, metric: Metric = "euclidean") -> Tensor:
    """Indices (int64) of `count` rows of x (n x d), each the farthest from those before it, from row `start` on. ValueError as kmeans
    (metric "cosine": as spherical)."""
    return _ops.farthest_point_anchors(x, count, start=start, metric=metric)


# ----------------------------------------------------------------------------------------------------------------------------
# Modules


class _Module(nn.Module):
    """A function with its options; those that are learnt are parameters instead."""

    options: dict[str, Any]

    def __init__(self, options: dict[str, Any], **learnt: Any) -> None:
        super().__init__()
        self.options = options
        for name, value in learnt.items():
            self.register_parameter(name, nn.Parameter(torch.tensor(value, dtype=torch.get_default_dtype())))

    def _arguments(self) -> dict[str, Any]:
        return {**self.options, **dict(self.named_parameters(recurse=False))}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


def _split(learn: dict[str, bool], **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    learnt = {name: options.pop(name) for name, wanted in learn.items() if wanted}
    return options, learnt


class MMDLoss(_Module):
    """Squared maximum mean discrepancy between the rows of two samples; the arguments are those of `mmd`.

    learn_bandwidths, learn_weights: make them parameters, of as many numbers as `bandwidths`.

    Shape: x (n, d), y (m, d) -> ().
    """

    def __init__(
        self,
        kernel: Kernel = "gaussian",
        bandwidths: Optional[Sequence[float]] = None,
        weights: Optional[Sequence[float]] = None,
        *,
        shape: float = 0.0,
        estimator: Estimator = "biased",
        bandwidth_rule: BandwidthRule = "fixed",
        bandwidth_sample: BandwidthSample = "pooled",
        bandwidth_gradient: bool = False,
        columns: ColumnScaling = "none",
        column_gradient: bool = True,
        column_eps: float = 1e-8,
        factor: float = 1.0,
        offset: float = 0.0,
        learn_bandwidths: bool = False,
        learn_weights: bool = False,
    ) -> None:
        bandwidths = None if bandwidths is None else tuple(bandwidths)
        if learn_bandwidths and bandwidths is None:
            raise ValueError("MMDLoss: give the bandwidths to start from")
        if learn_weights and weights is None:
            weights = (1.0,) * (1 if bandwidths is None else len(bandwidths))
        options, learnt = _split(
            {"bandwidths": learn_bandwidths, "weights": learn_weights},
            kernel=kernel,
            bandwidths=bandwidths,
            weights=None if weights is None else tuple(weights),
            shape=shape,
            estimator=estimator,
            bandwidth_rule=bandwidth_rule,
            bandwidth_sample=bandwidth_sample,
            bandwidth_gradient=bandwidth_gradient,
            columns=columns,
            column_gradient=column_gradient,
            column_eps=column_eps,
            factor=factor,
            offset=offset,
        )
        super().__init__(options, **learnt)

    def forward(
        self, x: Tensor, y: Tensor, x_weights: Optional[Tensor] = None, y_weights: Optional[Tensor] = None
    ) -> Tensor:
        return mmd(x, y, x_weights=x_weights, y_weights=y_weights, **self._arguments())


class MMDPresetLoss(_Module):
    """MMD^2 by the convention of another code, see `mmd_preset`.

    Shape: x (n, d), y (m, d) -> ().
    """

    def __init__(self, name: Preset, *, blur: float = 0.05) -> None:
        super().__init__({"name": name, "blur": blur})

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return mmd_preset(x, y, **self.options)


class AnchorCrossEntropyLoss(_Module):
    """Cross-entropy of features seen through static anchors of the other modality; the arguments are those of
    `anchor_cross_entropy`. learn_scale: log_scale is a parameter.

    Shape: x (n, d), anchors (C, d), target (n,) of labels or (n, C), weights (n,) -> ().
    """

    def __init__(
        self,
        *,
        log_scale: float = math.log(100.0),
        learn_scale: bool = False,
        max_scale: Optional[float] = None,
        normalise: bool = True,
        label_smoothing: float = 0.0,
        ignore_label: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        options, learnt = _split(
            {"log_scale": learn_scale},
            log_scale=log_scale,
            max_scale=max_scale,
            normalise=normalise,
            label_smoothing=label_smoothing,
            ignore_label=ignore_label,
            reduction=reduction,
        )
        super().__init__(options, **learnt)

    def forward(self, x: Tensor, anchors: Tensor, target: Tensor, weights: Optional[Tensor] = None) -> Tensor:
        return anchor_cross_entropy(x, anchors, target, weights=weights, **self._arguments())


class InfoNCELoss(_Module):
    """Contrastive loss with the other modality's batch as stochastic anchors; the arguments are those of `info_nce`.
    learn_scale: log_scale is a parameter.

    Shape: x (n, d), y (m, d), x_labels (n,), y_labels (m,), weights (n,) -> ().
    """

    def __init__(
        self,
        *,
        log_scale: float = math.log(100.0),
        learn_scale: bool = False,
        max_scale: Optional[float] = None,
        normalise: bool = True,
        direction: Direction = "symmetric",
        label_smoothing: float = 0.0,
    ) -> None:
        options, learnt = _split(
            {"log_scale": learn_scale},
            log_scale=log_scale,
            max_scale=max_scale,
            normalise=normalise,
            direction=direction,
            label_smoothing=label_smoothing,
        )
        super().__init__(options, **learnt)

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        x_labels: Optional[Tensor] = None,
        y_labels: Optional[Tensor] = None,
        weights: Optional[Tensor] = None,
    ) -> Tensor:
        return info_nce(x, y, x_labels=x_labels, y_labels=y_labels, weights=weights, **self._arguments())


class SigmoidLoss(_Module):
    """Sigmoid loss of every pair by itself; the arguments are those of `sigmoid_contrastive`. learn_scale, learn_bias:
    log_scale and bias are parameters.

    Shape: x (n, d), y (m, d), x_labels (n,), y_labels (m,) -> ().
    """

    def __init__(
        self,
        *,
        log_scale: float = math.log(10.0),
        bias: float = -10.0,
        learn_scale: bool = False,
        learn_bias: bool = False,
        max_scale: Optional[float] = None,
        normalise: bool = True,
    ) -> None:
        options, learnt = _split(
            {"log_scale": learn_scale, "bias": learn_bias},
            log_scale=log_scale,
            bias=bias,
            max_scale=max_scale,
            normalise=normalise,
        )
        super().__init__(options, **learnt)

    def forward(
        self, x: Tensor, y: Tensor, x_labels: Optional[Tensor] = None, y_labels: Optional[Tensor] = None
    ) -> Tensor:
        return sigmoid_contrastive(x, y, x_labels=x_labels, y_labels=y_labels, **self._arguments())


class RelativeRepresentation(_Module):
    """Rows described by their similarities to anchors; the arguments are those of `relative`. learn_scale: log_scale is a
    parameter.

    Shape: x (n, d), anchors (C, d) -> (n, C).
    """

    def __init__(
        self,
        similarity: Kernel = "dot_product",
        bandwidths: Optional[Sequence[float]] = None,
        weights: Optional[Sequence[float]] = None,
        *,
        shape: float = 0.0,
        normalise: bool = True,
        statistics: Statistics = "none",
        statistics_gradient: bool = True,
        log_scale: float = 0.0,
        learn_scale: bool = False,
        max_scale: Optional[float] = None,
    ) -> None:
        options, learnt = _split(
            {"log_scale": learn_scale},
            similarity=similarity,
            bandwidths=None if bandwidths is None else tuple(bandwidths),
            weights=None if weights is None else tuple(weights),
            shape=shape,
            normalise=normalise,
            statistics=statistics,
            statistics_gradient=statistics_gradient,
            log_scale=log_scale,
            max_scale=max_scale,
        )
        super().__init__(options, **learnt)

    def forward(self, x: Tensor, anchors: Tensor) -> Tensor:
        return relative(x, anchors, **self._arguments())


class CraftObjective(_Module):
    """The objective of Craft; the arguments are those of `objective`. learn_scale: log_scale is a parameter.

    Shape: images (n, d), class_texts (C, d), targets (n,), batch_texts (n, d), image_anchors (C, d), target_images (m, d)
    -> total () and terms (4,).
    """

    def __init__(
        self,
        *,
        text: float = 1.0,
        image: float = 1.0,
        batch: float = 1.0,
        mmd: float = 1.0,
        log_scale: float = math.log(100.0),
        learn_scale: bool = False,
        max_scale: Optional[float] = None,
        label_smoothing: float = 0.0,
        direction: Direction = "one_way",
        same_class_positives: bool = False,
        kernel: Kernel = "gaussian",
        bandwidths: Optional[Sequence[float]] = None,
        weights: Optional[Sequence[float]] = None,
        shape: float = 0.0,
        estimator: Estimator = "biased",
        bandwidth_rule: BandwidthRule = "fixed",
        bandwidth_sample: BandwidthSample = "pooled",
        bandwidth_gradient: bool = False,
        columns: ColumnScaling = "none",
        column_gradient: bool = True,
        column_eps: float = 1e-8,
        factor: float = 1.0,
        offset: float = 0.0,
    ) -> None:
        options, learnt = _split(
            {"log_scale": learn_scale},
            text=text,
            image=image,
            batch=batch,
            mmd=mmd,
            log_scale=log_scale,
            max_scale=max_scale,
            label_smoothing=label_smoothing,
            direction=direction,
            same_class_positives=same_class_positives,
            kernel=kernel,
            bandwidths=None if bandwidths is None else tuple(bandwidths),
            weights=None if weights is None else tuple(weights),
            shape=shape,
            estimator=estimator,
            bandwidth_rule=bandwidth_rule,
            bandwidth_sample=bandwidth_sample,
            bandwidth_gradient=bandwidth_gradient,
            columns=columns,
            column_gradient=column_gradient,
            column_eps=column_eps,
            factor=factor,
            offset=offset,
        )
        super().__init__(options, **learnt)

    def forward(
        self,
        images: Tensor,
        class_texts: Tensor,
        targets: Tensor,
        batch_texts: Optional[Tensor] = None,
        image_anchors: Optional[Tensor] = None,
        target_images: Optional[Tensor] = None,
    ) -> Objective:
        return objective(
            images,
            class_texts,
            targets,
            batch_texts=batch_texts,
            image_anchors=image_anchors,
            target_images=target_images,
            **self._arguments(),
        )
