"""The command line of the benchmark: flags, presets, and messages for what a user can cure."""

import os
import pathlib
import subprocess
import sys
import types

import keras
import pytest
from absl import flags as absl_flags
from absl.testing import flagsaver

import cifar
from inputs import networks
from inputs.networks import make_network
from study import flags as study_flags
from study import presets, setup, units

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).parent.parent


# --- Presets and flags ------------------------------------------------------------------------------------------------


def benchmark(*flags, **environment):
    command = [sys.executable, "benchmarks/cifar.py", *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset=imagenet"], "--dataset=imagenet"),
        (
            ["--experiment=everything"],
            "--experiment=everything is unknown. There are: all, report, status, endpoint, curve",
        ),
        (["--num_bends=2"], "--num_bends=2"),
        (["--epochs=many"], "--epochs=many"),
        (["--learning_rat=0.1"], "learning_rat"),
        (["seed=3"], "Flags start with two dashes"),
        (["--fge_max_learning_rate=0.0001"], "--fge_min_learning_rate=0.0005 must be below"),
        (["--fge_cycle_epochs=0"], "must be more than 0"),
        (["--fge_start_epoch=40"], "there would be no snapshot"),
        (["--sse_cycles=90000"], "--sse_cycles=90000 are more than the steps of 40 epochs"),
        (["--output_dir=/dev/null/results"], "--output_dir=/dev/null/results cannot be written"),
        (["--preset=vgg17"], "--preset=vgg17 is unknown. There are: vgg16_cifar10,"),
        (["--preset=smoke", "--epochs=5"], "--epochs=5 contradicts --preset=smoke, which sets --epochs=4"),
        (["--preset=vgg16_folder"], "--dataset=folder needs --data_dir"),
        (["--dataset=folder", "--data_dir=/nowhere"], "--data_dir=/nowhere does not exist"),
        (["--dataset=folder", "--data_dir=docs"], "docs must hold images as train/<class>"),
        (["--network=vgg16"], "is made for images of 32 x 32 pixels; these have 14 x 14"),
        (["--network=vgg16", "--dataset=digits"], "these have 8 x 8"),
        (["--transform=vgg"], "--transform is for photographs, not for fashion_subset"),
        (["--dataset=digits", "--image_size=16"], "--image_size=16 is only for other data than digits"),
        (["--bn_samples=4001"], "--bn_samples=4001 must not exceed the 4000 training images"),
        (
            ["--steps_per_execution=2"],
            "--steps_per_execution=2 must divide the 63 iterations of an epoch, the 32 of half an FGE cycle and the",
        ),
        (["--experiment=report"], "has no records yet"),
        (["--learning_rate=nan"], "--learning_rate=nan must be a finite number"),
        (["--fge_max_learning_rate=inf"], "--fge_max_learning_rate=inf must be a finite number"),
    ],
)
def test_bad_flags_end_with_a_message_before_any_training(flags, message, tmp_path, monkeypatch):
    monkeypatch.setattr(units, "run", None)
    output = [] if any("output_dir" in flag for flag in flags) else [f"--output_dir={tmp_path}"]
    with flagsaver.flagsaver(), pytest.raises((SystemExit, absl_flags.Error)) as error:
        cifar.main(cifar.FLAGS(["cifar.py", *flags, *output]))
    assert message in str(error.value)


def test_help_is_short_and_has_every_flag():
    result = benchmark("--help")
    assert result.returncode == 0 and len(result.stdout.splitlines()) <= 62
    names = {flag.name for flag in study_flags.own_flags()}
    assert names == {name for group in study_flags.GROUPS.values() for name in group}
    assert all(f"--{name}: " in result.stdout for name in names)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "stopped: the same command goes on from here"),
        (
            FloatingPointError("The training has diverged."),
            1,
            "error: The training has diverged. Lower the learning rate",
        ),
        (
            OSError(28, "No space left on device", "state.npz"),
            1,
            "error: [Errno 28] No space left on device: 'state.npz'",
        ),
        (ModuleNotFoundError("No module named 'jax'"), 1, "error: No module named 'jax'. Install what is missing: pip"),
    ],
)
def test_what_a_user_can_cure_ends_with_one_line(error, status, message, monkeypatch, capsys):
    def fail(_):
        raise error

    monkeypatch.setattr(cifar.app, "run", fail)
    monkeypatch.setattr(sys, "argv", ["cifar.py"])
    with pytest.raises(SystemExit) as end:
        cifar.run()
    assert status == (end.value.code if isinstance(end.value.code, int) else 1)
    assert message in (str(end.value) if status == 1 else capsys.readouterr().err)
    monkeypatch.setattr(sys, "argv", ["cifar.py", "--debug"])
    with pytest.raises(type(error)):
        cifar.run()


def test_without_its_packages_it_says_how_to_install_them():
    command = [sys.executable, "-S", "benchmarks/cifar.py", "--help"]  # Without site-packages.
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={})
    assert result.returncode == 1 and result.stderr.startswith("error: No module named 'absl'. Install what is missing")


def test_errors_are_messages_and_no_tracebacks(tmp_path):
    result = benchmark("--preset=smoke", "--epochs=5", f"--output_dir={tmp_path}")
    assert result.returncode == 1 and result.stderr.startswith("error: --epochs=5 contradicts --preset=smoke, which")


def test_help_is_quick_and_says_what_to_do():
    result = benchmark("--help")
    assert "python benchmarks/cifar.py --experiment=report" in result.stdout
    assert "--fge_max_learning_rate: alpha_1 of FGE." in result.stdout


def test_presets_are_whole_and_documented():
    text = (ROOT / "docs" / "benchmark.md").read_text()
    flags = {flag.name: flag.default for flag in study_flags.own_flags()}
    assert {"vgg16_cifar10", "preresnet164_cifar100", "wrn28x10_folder", "small", "smoke"} <= set(presets.PRESETS)
    for name in ("preresnet20", "vgg19-bn"):
        assert name in study_flags.NETWORKS
    for name in study_flags.NETWORKS:  # Each can be made.
        assert callable(networks._architecture(name))
    with pytest.raises(ValueError, match="There is no network 'vgg17'"):
        make_network("vgg17", (32, 32, 3), 10)
    for name, preset in presets.PRESETS.items():
        assert set(preset) <= set(flags), name
        settings = types.SimpleNamespace(**{**flags, **preset})
        assert settings.fge_start_epoch < settings.epochs
        assert f"--preset={name}" in text
    for network, members in (("vgg16", 22), ("preresnet164", 6), ("wrn28x10", 12)):  # Those of the paper.
        preset = presets.PRESETS[f"{network}_cifar100"]
        assert (preset["epochs"] - preset["fge_start_epoch"]) / preset["fge_cycle_epochs"] == members


def test_only_flags_without_influence_may_differ_from_a_preset():
    def flag(value=None, present=False):
        return types.SimpleNamespace(value=value, present=present)

    flags = {name: flag() for name in presets.PRESETS["smoke"]}
    flags |= {"runs": flag(7, True), "epochs": flag(4, True)}
    presets.apply_preset("smoke", flags, {"runs"})
    assert flags["runs"].value == 7 and flags["epochs"].value == 4 and flags["width"].value == 4
    flags["width"].present, flags["width"].value = True, 5
    with pytest.raises(ValueError, match="--width=5 contradicts --preset=smoke, which sets --width=4"):
        presets.apply_preset("smoke", flags, {"runs"})


def test_flags_without_influence_on_results_have_defaults_for_the_device(monkeypatch):
    cifar = 128 * 32 * 32 * 3
    assert setup.default_steps_per_execution(391, 391, batch_bytes=cifar) == 1
    monkeypatch.setattr("study.machine.accelerator", lambda: "a GPU")
    monkeypatch.setattr("keras_fge.core.keras_internals.scans_over_steps", lambda: False)
    is_torch = keras.backend.backend() == "torch"
    for *lengths, expected in ((391, 391, 782, 23), (352, 352, 352, 32), (352, 176, 352, 22), (391, 391, 14662, 1)):
        assert setup.default_steps_per_execution(*lengths, batch_bytes=cifar) == (1 if is_torch else expected)
    imagenet = 256 * 224 * 224 * 3
    assert setup.default_steps_per_execution(5004, 5004, batch_bytes=imagenet) == (1 if is_torch else 6)
    assert setup.default_steps_per_execution(5004, 5004, batch_bytes=2**30) == 1
    monkeypatch.setattr("keras_fge.core.keras_internals.scans_over_steps", lambda: True)
    assert setup.default_steps_per_execution(782, 391, batch_bytes=512) == (1 if is_torch else 391)
