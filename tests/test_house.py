"""The shape of the library, by rules about packages: who may import whom, from which door, and what from outside."""

import ast
import pathlib
import sys

import pytest

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).parent.parent
FILES = sorted(path for part in ("curves", "keras_fge") for path in (ROOT / part).rglob("*.py"))
FLOORS = ["keras_fge.core", "keras_fge.run", "keras_fge.ensemble"]  # Each stands on those before it.
OPTIONAL = {
    "IPython",
    "h5py",
    "matplotlib",
    "pandas",
    "plotly",
    "scipy",
    "sklearn",
}  # Loaded where something is drawn, shown or solved.
BACKENDS = {"jax", "tensorflow", "torch"}
# They have a way for each.
OF_BACKENDS = {f"keras_fge.core.{name}" for name in ("keras_internals", "derivatives", "processes")}
LONG = {
    "keras_fge/ensemble/ensemble.py",  # All that one does with an ensemble: more than half are its docstrings.
    "keras_fge/cyclic.py",  # All hooks of a run, in their order, and the text of all their options.
    "keras_fge/core/keras_internals.py",  # Every private name of Keras stands there, by the rule below.
}


def name_of(path):
    """The dotted name of a module or package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}
PACKAGES = {name for name, path in MODULES.items() if path.name == "__init__.py"}


def exported(package):
    """The names at the door of a package of ours."""
    for node in ast.parse(MODULES[package].read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def imports(path):
    """(module, whether that runs when the file is loaded, and not for types or in a function) of each import."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = whole in MODULES and not (node.module in PACKAGES and alias.name in exported(node.module))
                yield whole if is_module else node.module, node in tree.body
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node in tree.body) for alias in node.names)


def ours(path):
    """The modules and packages of ours that a file imports when it is loaded, and those for types."""
    return {name for name, _ in imports(path) if name in MODULES}


def room(module):
    """The package that a module stands in."""
    return module if module in PACKAGES else module.rpartition(".")[0]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way_and_through_the_doors(module):
    for imported in ours(MODULES[module]) - {module}:
        if imported.startswith("keras_fge.core"):
            continue  # The floor, which all may stand on, file by file.
        assert not module.startswith("keras_fge.core"), f"{module} imports {imported}"
        if room(imported) == room(module) and imported not in PACKAGES:
            continue  # A neighbour; that they make no circle is tested below.
        assert imported in PACKAGES or room(imported) in ("keras_fge", "curves"), (
            f"{module} imports {imported}: import from the package"
        )
        assert not (imported.startswith("curves") and module.startswith("keras_fge")), f"{module} imports {imported}"
        if module.startswith("curves") and imported.startswith("keras_fge"):
            assert imported == "keras_fge", f"{module} imports {imported}, which is not public"
        for lower, floor in enumerate(FLOORS):
            if module.startswith(floor):
                assert any(imported.startswith(below) for below in FLOORS[:lower]), f"{module} imports {imported}"


def test_no_circle_of_imports():
    graph = {module: ours(path) - {module} for module, path in MODULES.items()}
    while leaves := {module for module, needs in graph.items() if not needs & graph.keys()}:
        graph = {module: needs for module, needs in graph.items() if module not in leaves}
    # A package and its own files are one room; whoever loads a file loads its package first.
    rest = {m: {n for n in needs & graph.keys() if not m.startswith(f"{n}.")} for m, needs in graph.items()}
    while leaves := {module for module, needs in rest.items() if not needs & rest.keys()}:
        rest = {module: needs for module, needs in rest.items() if module not in leaves}
    assert not rest, rest


@pytest.mark.parametrize("module", MODULES)
def test_light_imports(module):
    path = MODULES[module]
    assert "keras.src" not in path.read_text() or module == "keras_fge.core.keras_internals"
    for name, is_loaded in imports(path):
        package = name.split(".")[0]
        if package in sys.stdlib_module_names or package in {"curves", "keras_fge", "keras", "numpy", "msgspec"}:
            continue
        assert not is_loaded and package in OPTIONAL | BACKENDS, f"{module} imports {name}"
        assert package in OPTIONAL or module in OF_BACKENDS, f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_a_file_has_one_idea(module):
    path = MODULES[module]
    assert ast.get_docstring(ast.parse(path.read_text())), f"The first line of {module} names its idea"
    lines = path.read_text().count("\n")
    assert lines <= 320 or str(path.relative_to(ROOT)) in LONG, f"{module} has {lines} lines"


def test_private_names_of_keras_stand_in_one_file():
    """An attribute `x._name` is a method or attribute that this project itself defines, or it is Keras'."""
    files = [path for path in FILES if path.stem != "keras_internals"]
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text()))]
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    stores = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)]
    own |= {node.attr for node in stores if isinstance(node.value, ast.Name) and node.value.id == "self"}
    assert own and not own & {"_initial_epoch", "_learning_rate", "_iterations", "_flatten_layers"}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                name = node.attr
                assert name != "train_function" and (not name.startswith("_") or name.endswith("__") or name in own), (
                    f"{path}: {name}"
                )


def test_no_hidden_channels():
    """Nothing but arguments and attributes carries a value from one place to another."""
    for module, path in MODULES.items():
        text = path.read_text()
        assert "threading.local" not in text and "contextvars" not in text, module
        reads_frames = any(word in text for word in ("currentframe", "_getframe", "f_back", "f_locals"))
        assert not reads_frames or module == "keras_fge.core.keras_internals", module
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and node.attr == "params":  # Shared by all callbacks of a `fit`.
                assert isinstance(node.ctx, ast.Load), module
        assert "params.setdefault" not in text and "params[" not in text.replace('params["epochs"]', ""), module
