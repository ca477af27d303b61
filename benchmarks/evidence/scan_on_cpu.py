"""XLA on a CPU: the same training steps of a convolution are many times slower inside `lax.scan` than one by one.

    python benchmarks/evidence/scan_on_cpu.py

JAX alone, so that it can be reported as it is. Keras 3.16 runs `steps_per_execution` > 1 as such a scan.
"""

import time

import jax
import jax.numpy as jnp

STEPS, KERNEL = 10, jax.random.normal(jax.random.key(0), (3, 3, 16, 16))
IMAGES = jax.random.normal(jax.random.key(1), (STEPS, 64, 16, 16, 16))


def step(kernel, images):
    def loss(kernel):
        y = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.mean(y**2)

    return kernel - 0.01 * jax.grad(loss)(kernel), None


one_by_one, scanned = jax.jit(step), jax.jit(lambda kernel, batches: jax.lax.scan(step, kernel, batches)[0])
unrolled = jax.jit(lambda kernel, batches: jax.lax.scan(step, kernel, batches, unroll=True)[0])


def loop(kernel, batches):
    for images in batches:
        kernel, _ = one_by_one(kernel, images)
    return kernel


print(f"JAX {jax.__version__}, {jax.devices()[0].platform}")
for name, run in {"one by one": loop, "lax.scan": scanned, "lax.scan(unroll=True)": unrolled}.items():
    times = []
    for _ in range(6):  # The first compiles.
        begin = time.perf_counter()
        run(KERNEL, IMAGES).block_until_ready()
        times.append((time.perf_counter() - begin) / STEPS)
    print(f"{name}: {1000 * min(times[1:]):.1f} ms a step")
