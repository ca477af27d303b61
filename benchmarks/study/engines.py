"""Who does the units of a study: this process, several on this machine, or Ray, on a laptop or a cluster.

In each case the folder holds the truth: records, checkpoints and locks. So a study can go from one engine to another,
and whatever was killed goes on from its last checkpoint.
"""

import glob
import os
import subprocess
import sys
import time

from study.progress import console
from study.setup import do_unit
from study.status import Board
from study.units import UnitsFailed, in_order, raise_failures, run

WORKER = "KERAS_FGE_WORKER"  # A variable that tells a worker what it is.
FAILED = 3  # Its exit status if units failed.
RETRIES = 5  # How often a worker that was killed, not one that failed, is started again.
PASSED = ("KERAS_BACKEND", "TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS", "XLA_FLAGS")  # To the tasks of Ray.
PASSED += ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
# The first process on a GPU would take its memory: all of it on TensorFlow, three quarters on JAX.
SHARED_GPU = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
PASSED += tuple(SHARED_GPU)
EVERY = 10.0  # Seconds from one look at the folder to the next.


def run_units(study, units, when_done):
    """Does the units that are not recorded yet, by the engine of the settings; returns the `UnitsFailed`, or None.

    `when_done(unit)` is called after each one that this process does.
    """
    settings = study.settings
    try:
        if settings.engine == "ray":
            run_ray(study, units, settings.ray_address, settings.cpus_per_unit, settings.gpus_per_unit)
        elif settings.workers > 1:
            run_workers(study, units, settings.workers)
        else:
            with study.progress:
                run(study, units, when_done)
    except UnitsFailed as failures:
        return failures
    return None


def run_workers(study, units, count):
    """Does the units in `count` processes of this program, to which CPU cores and GPUs are shared out.

    What each says is in workers/worker_K.log of the output folder.

    Raises:
        UnitsFailed: if units failed.
        RuntimeError: if a worker cannot be kept alive.
    """
    arguments = [*sys.argv, "--workers=1"]  # The last one counts.
    workers = [
        _Worker(arguments, study.path("workers", f"worker_{number}.log"), number, count) for number in range(count)
    ]
    begin, board = time.time(), Board(study, units)
    try:
        while any([worker.runs_or_is_started_again() for worker in workers]):
            board.look()
            end = time.monotonic() + EVERY
            while time.monotonic() < end and not any(worker.has_just_ended() for worker in workers):
                time.sleep(0.2)
    finally:
        for worker in workers:
            worker.stop()
    board.look(is_last=True)
    raise_failures(study, in_order(units), begin)


class _Worker:
    """A process that is started again when it was killed; after one in which units failed that would not help."""

    def __init__(self, arguments, log, number, count):
        self._command, self._log, self._left = [sys.executable, *arguments], log, RETRIES
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._cores, self._is_done = set(cores[number::count] or cores), False
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if "CUDA_VISIBLE_DEVICES" in os.environ else []
        gpus = gpus or [str(index) for index in range(len(glob.glob("/dev/nvidia[0-9]*")))]
        self._environment = {
            **(SHARED_GPU if gpus and count > len(gpus) else {}),
            **os.environ,
            WORKER: str(number),
            **({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}),
        }
        self._start()

    def _start(self):
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._environment)
        if self._cores:
            os.sched_setaffinity(self._process.pid, self._cores)  # Before it has started threads.

    def runs_or_is_started_again(self):
        """Whether it runs; one that was killed is started again first."""
        status = self._process.poll()
        self._is_done = status in (0, FAILED)
        if status is None or self._is_done:
            return status is None
        if not self._left:
            raise RuntimeError(f"A worker ended {RETRIES + 1} times, with status {status}. {self._log} says why.")
        self._left -= 1
        console.print(f"A worker ended with status {status}, and is started again. Its log: {self._log}", markup=False)
        self._start()
        return True

    def has_just_ended(self):
        return not self._is_done and self._process.poll() is not None

    def stop(self):
        if self._process.poll() is None:
            self._process.terminate()  # A training writes its state at the end of the epoch.
            self._process.wait()


def run_ray(study, units, address, cpus, gpus):
    """Does each unit in a task of Ray, after those that it needs; a lost worker or node costs what it had begun.

    Args:
        address: Of the cluster; None: one is started on this machine.
        cpus, gpus: What each task takes; fractions of GPUs are shared.

    Raises:
        UnitsFailed: if units failed.
    """
    import ray

    benchmarks = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    places = os.pathsep.join([benchmarks, os.path.dirname(benchmarks), *filter(None, [os.environ.get("PYTHONPATH")])])
    shared = SHARED_GPU if 0 < gpus < 1 else {}
    passed = {**shared, **{name: os.environ[name] for name in PASSED if name in os.environ}}
    environment = {"env_vars": {**passed, "PYTHONPATH": places}}
    ray.init(address, runtime_env=environment, log_to_driver=False, include_dashboard=False)
    begin, ordered, board = time.time(), in_order(units), Board(study, units)
    try:
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(_do_in_a_task)
        references = {}
        for name, unit in ordered.items():
            if name not in study.records:
                needs = [references[need.name] for need in unit.needs if need.name in references]
                references[name] = task.options(name=name).remote(os.getcwd(), sys.argv, name, *needs)
        left = list(references.values())
        while left:
            _, left = ray.wait(left, num_returns=len(left), timeout=EVERY)
            board.look()
        for name, reference in references.items():
            try:
                ray.get(reference)
            except ray.exceptions.RayError as error:  # A worker died too often, or the machine lacks something.
                needs_are_done = all(need.name in study.records for need in ordered[name].needs)
                if needs_are_done and name not in study.records:
                    study.records.add_failure(name, str(error).strip().splitlines()[-1])
    finally:
        ray.shutdown()
    board.look(is_last=True)
    raise_failures(study, ordered, begin)


def _do_in_a_task(folder, argv, name, *_):
    """In a process of Ray: does one unit, if it is not done. What it needs comes first, as arguments."""
    os.chdir(folder)
    do_unit(argv, name)
    return name
