"""Makes the files of this folder: what NumPy and the safetensors library write, for tests/features_test.cpp to read.

Needs numpy, torch and safetensors. Row i, column j of every matrix of floating-point numbers is (3 i + j) / 4 - 1.5,
which all types can hold; of integers 3 i + j; of the labels 2 i - 1.
"""
import pathlib
import zipfile

import numpy as np
import torch
from safetensors.torch import save_file

here = pathlib.Path(__file__).parent
numbers = np.arange(15).reshape(5, 3)
features = numbers / 4 - 1.5
labels = 2 * np.arange(5) - 1

for name in ("f2", "f4", "f8"):
    np.save(here / f"{name}.npy", features.astype(name))
for name in ("i1", "i2", "i4", "i8", "u1", "u2", "u4"):
    np.save(here / f"{name}.npy", numbers.astype(name))
for version in (2, 3):
    with open(here / f"version{version}.npy", "wb") as file:
        np.lib.format.write_array(file, features.astype("f4"), version=(version, 0))
np.save(here / "labels.npy", labels)
np.save(here / "fortran.npy", np.asfortranarray(features))
np.save(here / "big_endian.npy", features.astype(">f4"))
np.save(here / "structured.npy", np.zeros(3, dtype=[("a", "f4"), ("b", "i4")]))
np.savez(here / "stored.npz", features=features.astype("f4"), labels=labels)
np.savez_compressed(here / "compressed.npz", features=features.astype("f4"))

# Two samples of one distribution, and one that is shifted by a standard deviation in each column.
random = np.random.default_rng(1)
np.save(here / "normal.npy", random.normal(size=(60, 4)).astype("f4"))
np.save(here / "normal_again.npy", random.normal(size=(50, 4)).astype("f4"))
np.save(here / "normal_shifted.npy", random.normal(1, size=(50, 4)).astype("f4"))

# As if everything were larger than 4 GiB: 64-bit sizes in the members, in the directory and behind it.
zipfile.ZIP64_LIMIT, zipfile.ZIP_FILECOUNT_LIMIT = 0, 0
np.savez(here / "zip64.npz", features=features.astype("f4"), labels=labels)

tensors = {"features": torch.tensor(features, dtype=torch.float32), "labels": torch.tensor(labels)}
save_file(tensors, here / "two.safetensors", metadata={"format": "pt"})
kinds = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
whole = {"I32": torch.int32, "I64": torch.int64, "U8": torch.uint8}
all_types = {name: torch.tensor(features).to(kind) for name, kind in kinds.items()}
all_types.update({name: torch.tensor(numbers).to(kind) for name, kind in whole.items()})
all_types["empty"] = torch.zeros(0, 3)
all_types["BOOL"] = torch.ones(3, dtype=torch.bool)
save_file(all_types, here / "types.safetensors")
for path in here.glob("*.safetensors"):
    path.chmod(0o644)
