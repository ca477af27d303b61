"""The rooms of the benchmark: who may import from whom, and what of the library, read off the files themselves."""

import ast
import graphlib
import pathlib

import pytest

import curves
import keras_fge

pytestmark = pytest.mark.once

FOLDER = pathlib.Path(__file__).parent.parent / "benchmarks"
ROOMS = ("inputs", "study", "speed", "report", "evidence")  # Each may import from those before it.
COMMANDS = ("cifar", "speed")  # These stand on all rooms.
FILES = {".".join(path.relative_to(FOLDER).with_suffix("").parts): path for path in FOLDER.rglob("*.py")}
# The command speed.py has the name of its room, which is what `import speed` finds.
FILES |= {f"{name}.py": FILES.pop(name) for name in COMMANDS}
PUBLIC = {"curves", "keras_fge"}
PUBLIC |= {f"{package.__name__}.{name}" for package in (curves, keras_fge) for name in package.__all__}


def imports(path):
    """All modules that a file imports, anywhere in it; of `from a import b` also "a.b", be it a module or not."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def test_all_files_are_in_rooms_that_say_what_they_are_for():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(COMMANDS)
    assert {name.partition(".")[0] for name in FILES if not name.endswith(".py")} == set(ROOMS)
    for room in ROOMS:
        assert len(ast.get_docstring(ast.parse((FOLDER / room / "__init__.py").read_text()))) > 80
    for path in FILES.values():
        assert ast.get_docstring(ast.parse(path.read_text())), path


@pytest.mark.parametrize("name", FILES)
def test_rooms_import_one_way(name):
    room = name.partition(".")[0]
    below = ROOMS if name.endswith(".py") else ROOMS[: ROOMS.index(room) + 1]
    ours = {other for other in imports(FILES[name]) if other.partition(".")[0] in (*ROOMS, *COMMANDS)}
    for other in ours:
        assert other.partition(".")[0] in below, f"{name} imports {other}"


def test_no_files_import_in_a_circle():
    known = set(FILES)
    graph = {name: imports(path) & known for name, path in FILES.items()}
    # The experiments, which `setup` imports by their names.
    graph["study.setup"] |= {"study.connectivity", "study.ensembles"}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # A CycleError names the circle.
    assert order.index("inputs.data") < order.index("study.units") < order.index("study.engines")


@pytest.mark.parametrize("name", FILES)
def test_of_the_library_only_public_names_and_its_core(name):
    for other in imports(FILES[name]):
        if other.partition(".")[0] in ("curves", "keras_fge"):
            assert other in PUBLIC or other.startswith("keras_fge.core"), f"{name} imports {other}, which is not public"
    assert "keras.src" not in FILES[name].read_text(), name


def test_no_private_names_of_keras():
    """An attribute `x._name` is a method or attribute that the benchmark itself defines, or it is the library's."""
    trees = {name: list(ast.walk(ast.parse(path.read_text()))) for name, path in FILES.items()}
    nodes = [node for tree in trees.values() for node in tree]
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    stores = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)]
    own |= {node.attr for node in stores if isinstance(node.value, ast.Name) and node.value.id == "self"}
    for name, tree in trees.items():
        for node in tree:
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__"):
                assert node.attr in own, f"{name}: {node.attr}"
            assert getattr(node, "attr", None) != "train_function", name
