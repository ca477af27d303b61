"""Speed, measured side by side in one run: what a step, a measurement, a snapshot costs, as ratios to the plain way.

    python benchmarks/speed.py --measure=curve,path --networks=small_cnn

What is compared takes turns; the first turn, which compiles, does not count; a ratio is that of two pieces of work in
the same turn, and its median and quartiles are quoted. Each measurement writes a record of its own, with the seconds of
every turn. docs/performance.md shows the committed ones.
"""

import os
import time
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # As `cifar.py`.

import keras
from absl import app, flags

from keras_fge.core.files import local_path
from speed import engines, evaluation, layout, profile, side_by_side, size, training
from study.progress import console
from study.records import new_record, write_json
from study.training import default_jit_compile

FLAGS = flags.FLAGS
DEFAULT = ["small_cnn", "convfc", "preresnet20", "vgg16"]
MEASURES = {  # Name: (function of a network and the settings, its default networks)
    "curve": (training.curve, DEFAULT),
    "short_epochs": (training.short_epochs, DEFAULT[:3]),
    "peer": (training.peer, DEFAULT),
    "layout": (layout.layout, DEFAULT),
    "loop": (training.loop, ["vgg16"]),
    "profile": (profile.profile, ["convfc", "preresnet20", "vgg16"]),
    "fge": (training.fge, ["small_cnn", "preresnet164"]),
    "pipeline": (training.pipeline, ["small_cnn", "preresnet20"]),
    "path": (evaluation.path, ["small_cnn_bn", "convfc", "preresnet20", "vgg16"]),
    "plane": (evaluation.plane, ["small_cnn_bn", "convfc"]),
    "ensemble": (evaluation.ensemble, ["small_cnn", "convfc"]),
    "side_by_side": (side_by_side.side_by_side, ["small_cnn"]),
    "memory": (size.memory, ["small_cnn", "convfc", "vgg16"]),
    "growth": (size.growth, ["convfc"]),
    "startup": (size.startup, ["any"]),
    "engines": (engines.engines, ["any"]),
}
# JAX only, TensorFlow only, torch only, and where Ray is installed.
SPECIAL = ("loop", "side_by_side", "profile", "layout", "engines")
DEFAULT_MEASURES = [measure for measure in MEASURES if measure not in SPECIAL]


def main(_):
    settings = types.SimpleNamespace(**{flag.name: flag.value for flag in FLAGS.get_key_flags_for_module(__name__)})
    if settings.jit_compile is None:
        settings.jit_compile = default_jit_compile()
    settings.points = list(map(int, settings.points))
    settings.members = list(map(int, settings.members))
    if settings.dtype_policy:
        keras.config.set_dtype_policy(settings.dtype_policy)
    os.makedirs(local_path(settings.output_dir), exist_ok=True)
    for measure in settings.measure:
        function, networks = MEASURES[measure]
        record = {**new_record(settings), "networks": {}}
        path = os.path.join(settings.output_dir, f"{measure}_{keras.backend.backend()}.json")
        for name in settings.networks or networks:
            keras.utils.set_random_seed(settings.seed)
            begin = time.monotonic()
            result = record["networks"][name] = function(name, settings)
            record["wall_seconds"][name] = round(time.monotonic() - begin)
            for case, ratio in result["ratios"].items():
                values = f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
                console.print(f"{name}: {case}: {values} of {ratio['to']}")
            write_json(record, path)


if __name__ == "__main__":
    flags.DEFINE_list(
        "measure", DEFAULT_MEASURES, f"What to measure: {', '.join(MEASURES)}. Default: all but {', '.join(SPECIAL)}."
    )
    flags.DEFINE_list("networks", None, "Networks, as for `cifar.py`. Default: those of each measurement.")
    flags.DEFINE_string("output_dir", "results/speed", "Folder of the records.")
    flags.DEFINE_integer("seed", 0, "Seed of weights and images.")
    flags.DEFINE_integer("batch_size", 128, "Images per step.", lower_bound=1)
    flags.DEFINE_integer("steps", None, "Steps of a turn. Default: some, by network.", lower_bound=1)
    flags.DEFINE_integer("turns", 5, "Turns that count.", lower_bound=1)
    flags.DEFINE_list("points", ["13", "61"], "Positions on a path.")
    flags.DEFINE_list("members", ["2", "10", "50"], "Members of ensembles.")
    flags.DEFINE_bool("jit_compile", None, "Compile with XLA. Default: as `cifar.py`.")
    flags.DEFINE_bool("compile", False, "Handwritten steps also compiled by torch.compile.")
    flags.DEFINE_string("dtype_policy", None, "Keras' dtype policy, such as mixed_bfloat16. Default: float32.")
    flags.DEFINE_string("torch_python", None, "Python with PyTorch, for `peer`. Default: the present one.")
    app.run(main)
