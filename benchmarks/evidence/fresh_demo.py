"""How long `make demo` takes in a fresh clone, set-up included.

    cd benchmarks && python -m evidence.fresh_demo --output=results/demo

Clones the commit of this folder three times, without a cache of packages, and runs the command of the README in each.
The folder gets the record of the first run, and times.json.
"""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
import types

from absl import app, flags

from study.progress import console
from study.records import new_record, write_json

FLAGS = flags.FLAGS
ROOT = pathlib.Path(__file__).parents[2]


def run():
    """Seconds of one run: {"set-up", "all"}; where its results are; the folder to remove."""
    folder = tempfile.mkdtemp()
    clone = pathlib.Path(folder, "keras-fge")
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    begin, seconds = time.monotonic(), {}
    environment = {**os.environ, "PIP_NO_CACHE_DIR": "1"}
    for name, target in (("set-up", ".venv-demo/ready"), ("all", "demo")):
        subprocess.run(["make", target], cwd=clone, env=environment, check=True, stdout=subprocess.DEVNULL)
        seconds[name] = round(time.monotonic() - begin, 1)
    return seconds, clone / "results" / "demo", folder


def main(_):
    settings = types.SimpleNamespace(output=FLAGS.output, seed=0, runs=FLAGS.runs)
    record, output = {**new_record(settings), "seconds": []}, pathlib.Path(FLAGS.output)
    output.mkdir(parents=True, exist_ok=True)
    for number in range(FLAGS.runs):
        seconds, results, folder = run()
        record["seconds"].append(seconds)
        console.print(f"run {number + 1}: {seconds}")
        if not number:
            for path in results.iterdir():
                if re.search(r"\.(jsonl?|npz|png)$", path.name):
                    shutil.copy(path, output)
        shutil.rmtree(folder)
        write_json(record, output / "times.json")


if __name__ == "__main__":
    flags.DEFINE_string("output", "../results/demo", "Folder to write.")
    flags.DEFINE_integer("runs", 3, "Runs.", lower_bound=1)
    app.run(main)
