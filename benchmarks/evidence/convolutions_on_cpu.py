"""XLA on a CPU: what the convolutions of VGG-16 take, forward and backward, by layout, and as a product of matrices.

    python benchmarks/evidence/convolutions_on_cpu.py

JAX alone. Milliseconds of a batch of 128 images: the fastest of some calls, and 10^9 operations a second.
"""

import time

import jax
import jax.numpy as jnp

BATCH, CALLS = 128, 4
LAYERS = [(32, 3, 64), (32, 64, 64), (16, 128, 128), (8, 256, 256), (4, 512, 512), (2, 512, 512)]  # Size, in, out.


def convolution(images, kernel, layout):
    numbers = (layout, "HWIO", layout)
    return jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def product(images, kernel):
    """Each patch of 3 x 3 as a row, times the kernel as a matrix."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    size = images.shape[1]
    shifted = [padded[:, i : i + size, j : j + size] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, -1) @ kernel.reshape(-1, kernel.shape[-1])


def milliseconds(function, *arguments):
    compiled, times = jax.jit(function), []
    for _ in range(1 + CALLS):
        begin = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - begin)
    return 1000 * min(times[1:])


WAYS = {
    "NHWC": lambda images, kernel: convolution(images, kernel, "NHWC"),
    "NCHW": lambda images, kernel: convolution(images.transpose(0, 3, 1, 2), kernel, "NCHW").transpose(0, 2, 3, 1),
    "product": product,
}

print(
    f"JAX {jax.__version__}, {jax.devices()[0].platform}; forward, by the images, by the kernel, in ms (10^9 a second)"
)
for size, inputs, outputs in LAYERS:
    images = jax.random.normal(jax.random.key(0), (BATCH, size, size, inputs))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, inputs, outputs))
    operations = 2 * BATCH * size * size * 9 * inputs * outputs / 1e9
    for name, way in WAYS.items():
        upstream = jax.random.normal(jax.random.key(2), (BATCH, size, size, outputs))

        def loss(images, kernel, upstream, way=way):
            return jnp.vdot(way(images, kernel), upstream)

        backward = [milliseconds(jax.grad(loss, index), images, kernel, upstream) for index in (0, 1)]
        found = [milliseconds(way, images, kernel), *backward]
        cells = [f"{each:7.1f} ({operations / each * 1000:4.0f})" for each in found]
        print(f"{size:2} x {size:2}, {inputs:3} to {outputs:3}, {name:8}", *cells, flush=True)
