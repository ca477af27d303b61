"""Draws the subset of Fashion-MNIST that is committed with the benchmark, from the four original files.

    cd benchmarks && python -m inputs.draw_fashion DIR    # train-images-idx3-ubyte.gz and the three others are in DIR

6,000 of the 60,000 training images and 4,000 of the 10,000 test images, drawn at random by a fixed seed, as they are.
The file is an .npz archive without compression of its own, in xz: 3.8 MB. Drawn again, it has the same bytes.
"""

import lzma
import pathlib
import sys

import numpy as np

from inputs.data import FASHION_SUBSET, read_idx_files
from keras_fge.core.files import to_npz, write_atomically

COUNTS = {"train": 6000, "test": 4000}


def main(folder):
    rng, arrays = np.random.default_rng(0), {}
    for (split, count), (x, y) in zip(COUNTS.items(), read_idx_files(pathlib.Path(folder))):
        rows = rng.permutation(len(x))[:count]
        arrays |= {f"{split}_x": x[rows], f"{split}_y": y[rows].astype("uint8")}
    content = lzma.compress(to_npz(arrays), preset=9 | lzma.PRESET_EXTREME)
    write_atomically(FASHION_SUBSET, content)
    print(
        f"{FASHION_SUBSET}: {len(content) / 1e6:.2f} MB, {', '.join(f'{len(a)} {name}' for name, a in arrays.items())}"
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m inputs.draw_fashion DIR, the folder with the four original files of Fashion-MNIST")
    main(sys.argv[1])
