"""Craft with nothing but NumPy: a linear map of image features, trained by gradient descent on gradients from
craft_align.

Images of two domains are seen through static anchors (the means of each class' texts). The map makes images of the
first domain find their class, and the two domains look alike.

    python align.py
"""

import numpy as np

import craft_align


def main():
    rng = np.random.default_rng(0)
    classes, width = 8, 24
    texts = rng.normal(size=(classes, width))
    distortion = np.eye(width) + rng.normal(size=(width, width)) / width**0.5
    labels, other_labels = rng.integers(0, classes, size=200), rng.integers(0, classes, size=150)
    images = (texts[labels] + 0.7 * rng.normal(size=(200, width))) @ distortion
    other = (texts[other_labels] + 0.7 * rng.normal(size=(150, width))) @ distortion + rng.normal(size=width)

    # Static anchors: five descriptions of each class, and their means.
    described = np.repeat(np.arange(classes), 5)
    anchors = craft_align.class_means(texts[described] + 0.2 * rng.normal(size=(40, width)), described, classes)

    adapter, rate = np.eye(width), 0.02
    totals = []
    for step in range(150):
        x, z = images @ adapter, other @ adapter
        values, g = craft_align.objective(
            x,
            anchors,
            labels,
            target_images=z,
            log_scale=np.log(10.0),
            same_class_positives=True,
            bandwidth_rule="median",
            bandwidths=(0.5, 1.0, 2.0),
            gradients=("images", "target_images"),
        )
        adapter -= rate * (images.T @ g["images"] + other.T @ g["target_images"])
        totals.append(float(values.total))
        if step % 50 == 0 or step == 149:
            print(f"step {step:3}   text {values.text:.3f}   batch {values.batch:.3f}   MMD^2 {values.mmd:.3f}")

    found = craft_align.relative(other @ adapter, anchors).argmax(axis=1)
    untrained = craft_align.relative(other, anchors).argmax(axis=1)
    before, after = np.mean(untrained == other_labels), np.mean(found == other_labels)
    print(f"accuracy in the other domain: {before:.2f}, after training {after:.2f}")
    if not (totals[-1] < totals[0] and after > before):
        raise SystemExit("training did not help")


if __name__ == "__main__":
    main()
