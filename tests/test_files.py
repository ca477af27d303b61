"""Files that are damaged, not ours, or left behind by a killed process."""

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile

import h5py
import keras
import numpy as np
import pytest

import curves
import keras_fge
from conftest import SLOW_BUT_ON_TORCH, batch_norm_network, images, logits_loss
from keras_fge.core import files
from keras_fge.core.files import read_bytes, read_npz, to_npz, write_atomically
from keras_fge.run.folder import checksum_of_manifest
from keras_fge.run.snapshots import StoredSnapshot

pytestmark = SLOW_BUT_ON_TORCH

DEAD = subprocess.Popen([sys.executable, "-c", ""])
DEAD.wait()


def fit(directory, resume=False, **changes):
    keras.utils.set_random_seed(0)
    network = batch_norm_network()
    network.compile(keras.optimizers.SGD(0.02, momentum=0.9), logits_loss())
    fge = keras_fge.FGE(0.02, 0.002, cycle_steps=4, directory=directory, resume=resume)
    network.fit(*images(), batch_size=13, shuffle=False, verbose=0, callbacks=[fge], **{"epochs": 2, **changes})
    return fge


def npz(arrays, compression=zipfile.ZIP_STORED, header=None):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array)
            content = content.getvalue()
            archive.writestr(f"{name}.npy", content.replace(*header) if header else content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x05\x06" + 17 * b"\x00",
        to_npz({"a": np.zeros(1000)})[:-10],
        to_npz({"a": np.zeros(1000)}).replace(8 * b"\x00", 7 * b"\x00" + b"\x01", 3),
        npz({"a": np.zeros(10_000)}, zipfile.ZIP_DEFLATED),
        npz({"a": np.zeros(5)}, header=(b"(5,), }", b"(6,), }")),
        npz({"a": np.zeros(5)}, header=(b"(5,), }          ", b"(50000000000,), }")),
        b"\x93NUMPY\x01\x00",
    ],
    ids=["empty", "no archive", "cut", "altered", "compressed", "header", "huge", "npy"],
)
def test_damaged_arrays_are_one_kind_of_error(content, tmp_path):
    path = tmp_path / "file.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"file.npz' is no .npz file, or a damaged one"):
        read_npz(path, path)


def test_arrays_come_back_and_files_hold_no_objects(tmp_path):
    arrays = {"a": np.arange(6).reshape(2, 3), "b.npy": np.float32(3), "text": np.array("ä"), "empty": np.zeros((0, 2))}
    path = tmp_path / "file.npz"
    write_atomically(path, to_npz(arrays))
    loaded = read_npz(path, path)
    assert loaded.keys() == arrays.keys()
    assert all(np.array_equal(loaded[k], arrays[k]) and loaded[k].dtype == np.asarray(arrays[k]).dtype for k in arrays)
    buffer = io.BytesIO()
    np.savez(buffer, a=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="or a damaged one"):
        read_npz(buffer.getvalue(), path)


def test_pipes_and_files_of_another_size_are_not_read(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert read_bytes(tmp_path / "file", 3) == b"abc"
    with pytest.raises(ValueError, match="it has 3 bytes instead of 4"):
        read_bytes(tmp_path / "file", 4)
    with pytest.raises(ValueError, match=r"is no regular file"):
        read_bytes("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"pipe' is no regular file"):
        read_bytes(tmp_path / "pipe")


@pytest.mark.parametrize("name", ["manifest.json", "network.keras", "member", "state.npz"])
def test_links_out_of_the_folder_are_not_followed(name, tmp_path):
    fit(tmp_path / "run")
    file = next(path for path in (tmp_path / "run").iterdir() if path.name.startswith(name))
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(tmp_path / "run")  # To a folder: it is the user's own.
    with pytest.raises(ValueError, match=f"{file.name}' is a link out of its folder, which is not followed"):
        if name == "state.npz":
            fit(tmp_path / "link", True, epochs=3)
        else:
            keras_fge.Ensemble.load(tmp_path / "link", verify=False)
    file.unlink()
    (tmp_path / "elsewhere").rename(tmp_path / "run/other")
    file.symlink_to("other")  # Inside the folder.
    keras_fge.Ensemble.load(tmp_path / "link")


@pytest.mark.parametrize("kind", ["archive", "chunks", "nothing"])
def test_a_network_that_would_unfold_is_not_read(kind, tmp_path):
    """40 MB of zeros: compressed in the archive, compressed in the file of weights, or only announced there."""
    fit(tmp_path)
    path = tmp_path / "network.keras"
    with zipfile.ZipFile(path) as archive:
        parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    if kind == "archive":
        parts["config.json"] += b" " * 40_000_000
    else:
        buffer = io.BytesIO(parts["model.weights.h5"])
        with h5py.File(buffer, "r+") as weights:
            more = {"compression": "gzip", "data": np.zeros(10_000_000, "float32")} if kind == "chunks" else {}
            weights.create_dataset("more", shape=(10_000_000,), dtype="float32", **more)
        parts["model.weights.h5"] = buffer.getvalue()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if kind == "archive" else zipfile.ZIP_STORED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(ValueError, match=r"is no file of Keras, or a damaged one.*(compressed|announces 40,000,000)"):
        keras_fge.Ensemble.load(tmp_path, verify=False)


def test_nothing_is_written_through_a_link(tmp_path, monkeypatch):
    monkeypatch.setattr(files.secrets, "token_hex", lambda count: "0" * 16)
    (tmp_path / "other").write_bytes(b"mine")
    temporary = tmp_path / f"file.{os.getpid()}.{'0' * 16}.tmp"
    temporary.symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match=r"writing 3 bytes: '.*file'"):
        write_atomically(tmp_path / "file", b"abc")
    assert (tmp_path / "other").read_bytes() == b"mine"


def test_an_error_names_the_file_and_what_was_needed(tmp_path):
    with pytest.raises(OSError, match=r"No such file or directory, writing 3 bytes: '.*missing.file'") as error:
        write_atomically(tmp_path / "missing" / "file", b"abc")
    assert isinstance(error.value, FileNotFoundError)


def test_only_leftovers_of_ours_are_removed(tmp_path):
    fit(tmp_path)
    process, number = DEAD.pid, "0123456789abcdef"
    ours = [
        f"state.npz.{process}.{number}.tmp",
        f"manifest.json.{process}.{number[::-1]}.tmp",
        f"network.{process}.{number}.tmp.keras",
    ]
    ours += [f"member-{number}.npz.{os.getpid()}.{number}.tmp"]  # Of a process with the number that this one has now.
    theirs = ["notes.tmp", "my.tmp.txt", f"data.{process}.{number}.tmp", f"state.npz.{os.getppid()}.{number}.tmp"]
    for name in ours + theirs:
        (tmp_path / name).write_text("x")
    folder = tmp_path / f"manifest.json.{process}.{number}.tmp"
    folder.mkdir()
    fit(tmp_path, resume=True, epochs=3)
    assert not any((tmp_path / name).exists() for name in ours)
    assert all((tmp_path / name).exists() for name in theirs) and folder.exists()


def test_leftovers_of_a_run_that_never_began_are_removed(tmp_path):
    left = tmp_path / f"network.{DEAD.pid}.0123456789abcdef.tmp.keras"
    left.write_text("x")
    fit(tmp_path, resume=True)
    assert not left.exists()


def test_leftovers_of_an_evaluation_are_removed(tmp_path):
    start, end = batch_norm_network(), batch_norm_network()
    line = curves.connect(start, end, curves.PolygonalChain(2))
    line.compile("sgd", logits_loss())
    left, kept = tmp_path / f"path.npz.{DEAD.pid}.0123456789abcdef.tmp", tmp_path / "path.npz.tmp"
    for file in (left, kept):
        file.write_text("x")
    curves.evaluate_path(line, images(), images(), num_points=2, file=tmp_path / "path.npz", verbose=False)
    assert not left.exists() and kept.exists()


def test_a_run_without_a_manifest_is_not_overwritten(tmp_path):
    fit(tmp_path)
    (tmp_path / "manifest.json").unlink()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for resume in (False, True):
        with pytest.raises(ValueError, match=r"holds the state of a training, but no manifest.json"):
            fit(tmp_path, resume)
    (tmp_path / "state.npz").unlink()
    with pytest.raises(ValueError, match=r"holds members, such as member-.*, but no manifest.json"):
        fit(tmp_path, True)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after == {name: content for name, content in before.items() if name != "state.npz"}


@pytest.mark.parametrize("name", ["../other.npz", "/etc/passwd", "..", "", "folder/member.npz"])
def test_members_are_names_in_the_folder(tmp_path, name):
    fit(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["members"][0]["file"] = name
    head = {key: value for key, value in manifest.items() if key not in ("members", "checksum")}
    manifest["checksum"] = checksum_of_manifest(head, map(json.dumps, manifest["members"]))
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"manifest.json' is no manifest .* is not the name of a file in the folder"):
        keras_fge.Ensemble.load(tmp_path)


def test_a_member_is_put_into_words_once_however_many_there_are(tmp_path, monkeypatch):
    """The manifest is written for each snapshot: with thousands of members, their JSON would take most of the time."""
    made, own = [], StoredSnapshot.entry.fget

    def entry(self):
        made.append(self.step)
        return own(self)

    monkeypatch.setattr(StoredSnapshot, "entry", property(entry))
    fit(tmp_path)
    steps = [snapshot.step for snapshot in keras_fge.Ensemble.load(tmp_path).snapshots]
    assert len(steps) >= 2 and [step for step in made if step] == steps
    text = (tmp_path / "manifest.json").read_text()
    assert json.loads(json.dumps(json.loads(text), indent=4))["members"][1]["step"] == steps[1]
    (tmp_path / "manifest.json").write_text(json.dumps(json.loads(text), indent=4))  # As an editor would.
    assert len(keras_fge.Ensemble.load(tmp_path)) == len(steps)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[]", b"{}", b'{"format": 1}', b"null", b"[" * 100_000])
def test_damaged_manifests_name_the_file(tmp_path, content):
    fit(tmp_path)
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"manifest.json' is no manifest of an ensemble, or a damaged one"):
        keras_fge.Ensemble.load(tmp_path)


@pytest.mark.parametrize("counters", [None, "no JSON", "[]", "{}", '{"epoch": 3}'])
def test_damaged_states_name_the_file(tmp_path, counters):
    fit(tmp_path)
    path = tmp_path / "state.npz"
    arrays = read_npz(path, path)
    arrays.pop("counters")
    path.write_bytes(to_npz(arrays if counters is None else {**arrays, "counters": counters}))
    with pytest.raises(ValueError, match=r"state.npz' is no state of a training, or a damaged one"):
        fit(tmp_path, True, epochs=3)
    shutil.copy(tmp_path / "manifest.json", path)
    with pytest.raises(ValueError, match=r"state.npz' is no .npz file, or a damaged one"):
        fit(tmp_path, True, epochs=3)


@pytest.mark.parametrize("change", ["network", "manifest"])
def test_what_was_changed_is_loaded_on_purpose_only(tmp_path, change):
    fge = fit(tmp_path)
    members = [snapshot.weights for snapshot in fge.snapshots]
    if change == "network":  # With another activation, say.
        other = keras.Sequential([keras.Input((6, 6, 2)), keras.layers.Flatten(), keras.layers.Dense(3)])
        other.save(tmp_path / "network.keras")
        message = r"give `network`, or load what is there with `verify=False`. .*network.keras' is damaged"
    else:
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        manifest["members"] = [*manifest["members"], manifest["members"][0]]  # One of them twice.
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        message = (
            r"manifest.json' is no manifest .* It was changed: it does not have its checksum. `verify=False` would"
        )
    with pytest.raises(ValueError, match=message):
        keras_fge.Ensemble.load(tmp_path)
    if change == "network":
        assert len(keras_fge.Ensemble.load(tmp_path, network=batch_norm_network())) == len(members)
        with pytest.raises(ValueError, match=r"`snapshots\[0\]` does not fit network"):
            keras_fge.Ensemble.load(tmp_path, verify=False)
    else:
        assert len(keras_fge.Ensemble.load(tmp_path, verify=False)) == len(members) + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": [1.0]}, "It has 1 weights for 2 members"),
        ({"weights": [1.0, 0.0]}, r"Expected `float` > 0.0 - at `\$.weights\[1\]`"),
        ({"weights": {"0": 1}}, r"Expected `array | null`, got `object` - at `\$.weights`"),
        ({"network": "x"}, r"Expected `object | null`, got `str` - at `\$.network`"),
    ],
)
def test_a_manifest_with_entries_of_another_kind_is_one_error(change, message, tmp_path):
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    keras_fge.Ensemble(network, [network.get_weights()] * 2, from_logits=None).save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(ValueError, match=rf"manifest.json.*{message}"):
        keras_fge.Ensemble.load(tmp_path, verify=False)
