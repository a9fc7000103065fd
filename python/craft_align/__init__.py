"""Cross-modal alignment losses and maximum mean discrepancy with analytic gradients: NumPy, CuPy, PyTorch, JAX."""

from .arrays import (
    Array,
    KMeans,
    ObjectiveValues,
    anchor_cross_entropy,
    as_array,
    bandwidth_scale,
    class_means,
    farthest_point_anchors,
    info_nce,
    kmeans,
    kmeans_per_class,
    medoids,
    mmd,
    mmd_preset,
    objective,
    random_anchors,
    relative,
    relative_pullback,
    sigmoid_contrastive,
    stratified_anchors,
)
