"""Runs the examples of README.md with the installed package only: `python readme_examples.py README.md`."""

import os
import pathlib
import re
import sys
import tempfile

examples = re.findall(r"```python\n(.*?)```", pathlib.Path(sys.argv[1]).read_text(), flags=re.DOTALL)
assert len(examples) >= 2
assert "KERAS_BACKEND" not in os.environ, "The point is what Keras takes by itself."
os.chdir(tempfile.mkdtemp())
for example in examples:
    exec(compile(example, "README", "exec"), {})
assert "site-packages" in sys.modules["keras_fge"].__file__
