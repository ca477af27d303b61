"""`show`: a page in the cell of a notebook, or in the browser."""

import html
import os
import pathlib
import sys
import tempfile
import webbrowser
from collections.abc import Callable


def show(write: Callable[[str], None], name: str) -> None:
    """Shows the page that `write(path)` writes: in the cell of a notebook, or else in a browser.

    For a browser, the page stays in the folder for temporary files, whose path is printed.
    """
    if _is_notebook():
        from IPython.display import HTML, display

        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, f"{name}.html")
            write(path)
            page = html.escape(pathlib.Path(path).read_text(encoding="utf-8"))
        display(HTML(f'<iframe srcdoc="{page}" width="100%" height="800" style="border: 0"></iframe>'))
        return
    path = os.path.join(tempfile.mkdtemp(prefix="keras_fge-"), f"{name}.html")
    write(path)
    print(path)
    webbrowser.open(pathlib.Path(path).as_uri())


def _is_notebook():
    """Whether the program runs in a kernel that can show HTML; a terminal with IPython cannot."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and hasattr(shell, "kernel")
