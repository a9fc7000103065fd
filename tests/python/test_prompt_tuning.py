"""examples/torch/prompt_tuning.py: do its hand-written losses and craft's give the same, and does it do what it says?"""

import gzip
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import craft_align
import numpy as np
import pytest
import torch
import torch.nn.functional as F

SCRIPT = Path(__file__).resolve().parents[2] / "examples/torch/prompt_tuning.py"
sys.path.insert(0, str(SCRIPT.parent))
sys.dont_write_bytecode = True  # examples/ is not the place for it
import prompt_tuning  # noqa: E402
import prompt_tuning_data as data  # noqa: E402
import prompt_tuning_step as step  # noqa: E402


def run(*words):
    return subprocess.run([sys.executable, SCRIPT, "--threads", "1", *words], capture_output=True, text=True)


def result_of(capsys, *words):
    assert prompt_tuning.main(["--threads", "1", "--json", *map(str, words)]) == 0
    return json.loads(capsys.readouterr().out)


QUICK = "--seeds", 1, "--epochs", 3, "--batch", 16, "--target-batch", 32


# ----------------------------------------------------------------------------------------------------------------------
# The same numbers


def test_smoke_in_a_process_of_its_own():
    done = run("--smoke", "--json")
    assert done.returncode == 0, done.stderr
    checks = json.loads(done.stdout)["checks"]
    assert {check["type"] for check in checks} == {"float64", "float32"}
    assert set().union(*(check["terms"] for check in checks)) == set(step.WEIGHTS)
    assert all(check["loss"] > 0 for check in checks)  # two computations, not one compared with itself


@pytest.mark.parametrize("term", ["text", "image", "batch", "mmd", "keep_logits"])
def test_smoke_notices_a_wrong_term(term, monkeypatch, capsys):
    right = getattr(step.ByCraft, term)
    monkeypatch.setattr(step.ByCraft, term, lambda self, s: 1.001 * right(self, s))
    assert prompt_tuning.main(["--smoke"]) == 1
    assert "NO" in capsys.readouterr().out


def test_smoke_notices_a_loss_that_is_not_a_number(monkeypatch, capsys):
    monkeypatch.setattr(step.ByCraft, "batch", lambda self, s: math.nan * s.images.sum())
    assert prompt_tuning.main(["--smoke"]) == 1


def test_hand_written_discrepancies():
    """Against double sums, and against what Craft's released code gave for these numbers."""
    i, k = torch.arange(5.0).double()[:, None], torch.arange(3.0).double()
    x, y = torch.sin(1 + 3 * i + 7 * k), 0.5 + 0.8 * torch.cos(2 + 5 * i + 11 * k)
    assert step.craft_rbf_mmd(x, y).item() == pytest.approx(0.00696669229359426, rel=1e-10)

    y = y[:4]
    z = torch.cat([x, y])
    mean = sum(((a - b) ** 2).sum() for a in z for b in z) / len(z) ** 2
    kernel = lambda a, b: sum(torch.exp(-((a - b) ** 2).sum() / (2 * s * s * mean)) for s in (0.5, 1, 2)) / 3  # noqa: E731
    within = lambda v: sum(kernel(a, b) for p, a in enumerate(v) for q, b in enumerate(v) if p != q)  # noqa: E731
    across = sum(kernel(a, b) for a in x for b in y)
    expected = within(x) / (5 * 4) + within(y) / (4 * 3) - 2 * across / (5 * 4)
    assert step.gaussian_mmd(x, y).item() == pytest.approx(expected.item(), rel=1e-10)


def one_step(n=12, m=9, classes=4, width=6):
    random = torch.Generator().manual_seed(1)
    rows = lambda count: F.normalize(torch.randn(count, width, generator=random, dtype=torch.float64))  # noqa: E731
    tuned = [rows(count).requires_grad_() for count in (n, classes, m)]
    labels = torch.randint(classes, (n,), generator=random)
    return tuned, step.Step(tuned[0], labels, tuned[1], tuned[2], rows(n), rows(classes), rows(classes))


def test_one_call_for_all_of_craft():
    """The objective is the sum of the four terms, with their gradients."""
    terms = ["text", "image", "batch", "mmd"]
    tuned, s = one_step()
    step.ByHand(terms)(s).backward()
    expected = [x.grad for x in tuned]

    tuned, s = one_step()
    objective = craft_align.CraftObjective(
        log_scale=math.log(100),
        bandwidths=(0.5, 1.0, 2.0),
        weights=(1 / 3, 1 / 3, 1 / 3),
        estimator="unbiased",
        bandwidth_rule="mean",
    )
    objective(s.images, s.texts, s.labels, s.own_texts, s.image_anchors, s.target).total.backward()
    # In each row, but for what its norm takes up, which the objective divides by.
    for x, theirs in zip(tuned, expected):
        along = (theirs * x).sum(1, keepdim=True) * x.detach()
        torch.testing.assert_close(x.grad, theirs - along, rtol=1e-9, atol=1e-11)


# ----------------------------------------------------------------------------------------------------------------------
# Training


def test_training_adapts(capsys):
    run = result_of(capsys, "--seeds", 1)["runs"][0]
    assert run["loss"][-1] < run["loss"][0]
    assert run["after"]["clean base"] > run["before"]["clean base"]
    assert run["after"]["shifted base"] > run["before"]["shifted base"] + 20


def test_both_losses_train_to_the_same(capsys):
    by_hand, craft = (result_of(capsys, "--losses", losses, "--dtype", "float64", *QUICK) for losses in step.VARIANTS)
    np.testing.assert_allclose(by_hand["runs"][0]["loss"], craft["runs"][0]["loss"], rtol=1e-10)
    assert by_hand["runs"][0]["after"] == craft["runs"][0]["after"]
    assert (by_hand["losses"], craft["losses"]) == ("by_hand", "craft")


@pytest.fixture
def files(tmp_path):
    for name, rows in data.generated(classes=6, per_class=20, width=16)._asdict().items():
        np.save(tmp_path / f"{name}.npy", rows.numpy())
    return tmp_path


def options(files, *names):
    return [word for name in names for word in (f"--{name}", str(files / f"{name.replace('-', '_')}.npy"))]


ALL = "images", "labels", "texts", "target", "target-labels"


def test_own_files_are_what_is_trained_on(files, capsys, monkeypatch):
    own = result_of(capsys, *options(files, *ALL), *QUICK)
    monkeypatch.setattr(data, "generated", lambda: generated)
    generated = data.Features(*(torch.from_numpy(np.load(files / f"{name}.npy")) for name in data.Features._fields))
    assert own["runs"][0]["after"] == result_of(capsys, *QUICK)["runs"][0]["after"]
    assert own["base_classes"] == 3 and set(own["runs"][0]["after"]) == {
        f"{domain} {classes}" for domain in ("clean", "shifted") for classes in ("base", "held-out")
    }


def test_files_that_may_be_left_out(files, capsys):
    labels = np.load(files / "labels.npy").astype(np.int32)
    labels[:5] = -1
    np.save(files / "labels.npy", labels)
    np.save(files / "images.npy", np.load(files / "images.npy").astype(np.float16))
    alone = result_of(capsys, *options(files, *ALL[:3]), "--base-classes", 6, *QUICK)
    assert "mmd" not in alone["terms"] and set(alone["runs"][0]["after"]) == {"clean base"}
    unlabelled = result_of(capsys, *options(files, *ALL[:4]), *QUICK)
    assert "mmd" in unlabelled["terms"] and set(unlabelled["runs"][0]["after"]) == {"clean base", "clean held-out"}


def test_saved_parameters(files, capsys, tmp_path):
    result_of(capsys, *options(files, *ALL), *QUICK, "--save", tmp_path / "trained", "--terms", "text,mmd")
    saved = np.load(tmp_path / "trained/seed0.npz")
    assert {name: saved[name].shape for name in saved} == {"adapter": (16, 16), "context": (16,), "prompts": (3, 16)}
    assert all(saved[name].any() for name in saved)


@pytest.mark.parametrize(
    "name, array, what",
    [
        ("images", np.zeros((120, 16), np.int64), "floating-point"),
        ("images", np.full((120, 16), np.nan), "finite"),
        ("images", np.zeros((120, 16, 1)), "2 dimensions"),
        ("texts", np.ones((6, 17)), "rows of 16"),
        ("target", np.ones((9, 15)), "rows of 16"),
        ("labels", np.zeros(119, np.int64), "120 labels"),
        ("labels", np.full(120, 6), "below 6"),
        ("labels", np.zeros(120), "integers"),
        ("labels", np.zeros(120, np.int64), "class 1 has no images"),
        ("target_labels", np.full(120, -1), "two target images"),
        ("texts", np.array([{}], dtype=object), "pickle"),
    ],
)
def test_wrong_files(files, capsys, name, array, what):
    np.save(files / f"{name}.npy", array, allow_pickle=True)
    assert prompt_tuning.main([*options(files, *ALL)]) == 1
    error = capsys.readouterr().err
    assert what in error and error.startswith("prompt_tuning: ") and error.count("\n") == 1


def test_missing_file(files, capsys):
    (files / "texts.npy").unlink()
    assert prompt_tuning.main(list(map(str, options(files, *ALL)))) == 1
    said = capsys.readouterr().err
    assert "texts.npy" in said and "Traceback" not in said


@pytest.mark.parametrize(
    "words", [["--images", "i.npy"], ["--target-labels", "l.npy"], ["--terms", "text,tetx"], ["--batch", "1"], ["--sizes", "8"]]
)
def test_wrong_options(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        prompt_tuning.main(words)
    assert words[0] in capsys.readouterr().err


def test_fashion_mnist_features(tmp_path):
    """On files of its format: noisy images of ten bars."""
    random = np.random.default_rng(0)
    labels = random.integers(10, size=600).astype(np.uint8)
    images = random.integers(60, size=(600, 28, 28)).astype(np.uint8)
    for image, label in zip(images, labels):
        image[2 * label + 4 : 2 * label + 6, 8:20] = 255
    for name, head, array in ("images-idx3", 16, images), ("labels-idx1", 8, labels):
        with gzip.open(tmp_path / f"train-{name}-ubyte.gz", "wb") as file:
            file.write(bytes(head) + array.tobytes())
    made = data.fashion_mnist(str(tmp_path), count=200, components=32)
    assert [tuple(t.shape) for t in made] == [(200, 32), (200,), (10, 32), (200, 32), (200,)]
    for rows in made.images, made.texts, made.target:
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)).double())
    assert made.labels.tolist() == labels[200:400].tolist() and made.target_labels.tolist() == labels[400:].tolist()
    assert ((made.images @ made.texts.T).argmax(1) == made.labels).double().mean() > 0.9
    cosine = (made.images * made.texts[made.labels]).sum(1).mean()
    turned = (made.target * made.texts[made.target_labels]).sum(1).mean()
    assert turned < 0.9 * cosine
    with pytest.raises(data.InputError, match="nowhere"):
        data.fashion_mnist(str(tmp_path / "nowhere"))


# ----------------------------------------------------------------------------------------------------------------------
# Comparing


def test_comparison(capsys, monkeypatch):
    bytes_of = {(8, "by_hand"): 3_000_000, (8, "craft"): 2_000_000}  # the rest as where the system does not say
    monkeypatch.setattr(prompt_tuning, "measured_memory", lambda variant, n, m, args: bytes_of.get((n, variant)))
    result = result_of(capsys, "--compare", "--sizes", "8x0", "4x64", "--seconds", 0)
    assert [(s["batch"], s["target_batch"]) for s in result["steps"]] == [(8, 0), (4, 64)]
    assert set(result["terms"][0]["seconds"]) == {"text", "image", "keep_logits", "batch", "mmd"}
    for seconds in [s["seconds"] for s in result["steps"]] + list(result["terms"][0]["seconds"].values()):
        assert all(seconds[name] > 0 for name in ("by_hand", "craft", "ratio"))
    table = prompt_tuning.compare_table(result)
    assert re.search(r"\| 8 \| none \|.* \| 3.0 \| 2.0 \| 1.5 \|", table)
    assert re.search(r"\| 4 \| 64 \|.* \| - \| - \| - \|", table)


def test_memory_of_a_step():
    """By hand, at least the distances of the target batch and three kernels of them are there at once."""
    args = prompt_tuning.parse(["--threads", "1"])
    by_hand, craft = (prompt_tuning.measured_memory(variant, 4, 2048, args) for variant in step.VARIANTS)
    assert by_hand > 4 * 4 * 2048**2 > craft > 4 * 2048 * prompt_tuning.CLASSES


def test_comparison_refuses_what_disagrees(monkeypatch):
    monkeypatch.setattr(step.ByCraft, "text", lambda self, s: 1.5 * step.ByHand.text(self, s))
    with pytest.raises(AssertionError, match="disagree"):
        prompt_tuning.main(["--compare", "--sizes", "8x0", "--seconds", "0"])
