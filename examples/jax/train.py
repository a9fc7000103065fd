"""Prompts and an adapter, trained with JAX through craft_align.

Two frozen towers give image features and class texts, here drawn at random: images of a class lie around its text, seen
through an unknown linear map, and those of a second domain are shifted besides, without labels. A linear adapter of the
images and an offset of each class text (the prompts) are trained: images towards the texts of their classes (InfoNCE
with the labels of both sides), and the two domains towards each other (MMD^2 in the space of the class texts).

    python train.py
"""

import jax
import jax.numpy as jnp

import craft_align as craft

CLASSES, WIDTH, BATCH, STEPS = 10, 32, 64, 200


def features(key):
    """Class texts, and a function that draws a batch: images, their labels, and images of the other domain."""
    texts, distortion, shift, key = jax.random.split(key, 4)
    texts = jax.random.normal(texts, (CLASSES, WIDTH))
    distortion = jnp.eye(WIDTH) + jax.random.normal(distortion, (WIDTH, WIDTH)) / WIDTH**0.5
    shift = jax.random.normal(shift, (WIDTH,))

    def batch(key):
        label_key, noise_key, other_key = jax.random.split(key, 3)
        labels = jax.random.randint(label_key, (2 * BATCH,), 0, CLASSES)
        noise = 0.7 * jax.random.normal(noise_key, (2 * BATCH, WIDTH))
        images = (texts[labels] + noise) @ distortion
        return images[:BATCH], labels[:BATCH], images[BATCH:] + shift, labels[BATCH:]

    return texts, batch


def loss(parameters, texts, images, labels, other):
    images, other = images @ parameters["adapter"], other @ parameters["adapter"]
    texts = texts + parameters["prompts"]
    alignment = craft.info_nce(
        images, texts[labels], x_labels=labels, y_labels=labels, log_scale=parameters["log_scale"], max_scale=100.0
    )
    discrepancy = craft.mmd(
        craft.relative(images, texts), craft.relative(other, texts), bandwidth_rule="median", bandwidths=(0.5, 1.0, 2.0)
    )
    return alignment + 3 * discrepancy, (alignment, discrepancy)


@jax.jit
def step(parameters, texts, images, labels, other):
    (_, terms), gradients = jax.value_and_grad(loss, has_aux=True)(parameters, texts, images, labels, other)
    return jax.tree.map(lambda p, g: p - 0.05 * g, parameters, gradients), terms


def accuracy(parameters, texts, images, labels):
    similarity = craft.relative(images @ parameters["adapter"], texts + parameters["prompts"])
    return jnp.mean(jnp.argmax(similarity, axis=1) == labels)


def main():
    key, test_key = jax.random.split(jax.random.key(0))
    texts, batch = features(key)
    parameters = {
        "adapter": jnp.eye(WIDTH),
        "prompts": jnp.zeros((CLASSES, WIDTH)),
        "log_scale": jnp.log(10.0),
    }
    images, labels, other, other_labels = batch(test_key)
    before = [accuracy(parameters, texts, x, y) for x, y in ((images, labels), (other, other_labels))]
    first = None
    for number, step_key in enumerate(jax.random.split(key, STEPS)):
        x, y, z, _ = batch(step_key)
        parameters, (alignment, discrepancy) = step(parameters, texts, x, y, z)
        first = first or (alignment, discrepancy)
        if number % 50 == 0 or number == STEPS - 1:
            print(f"step {number:3}   InfoNCE {alignment:.3f}   MMD^2 {discrepancy:.4f}")
    after = [accuracy(parameters, texts, x, y) for x, y in ((images, labels), (other, other_labels))]
    for name, one, other in zip(("the domain with labels", "the other domain"), before, after):
        print(f"accuracy in {name}: {one:.2f}, after training {other:.2f}")
    if not (alignment < first[0] and discrepancy < first[1] and after[0] > before[0] and after[1] > before[1]):
        raise SystemExit("training did not help")


if __name__ == "__main__":
    main()
