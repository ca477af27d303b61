"""For `make docs`: the site gets the files that pages point at, pages to explore the records, and drawn formulas."""

import os
import pathlib
import re
import sys
import tempfile

import latex2mathml.converter
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parent.parent
OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\((?:\.\./)+([^)#]+)\)|(!\[[^\]]*\]\()(?:\.\./)+([^)]+)(\))")
EXPLORED = {"fashion_subset": "Fashion-MNIST (subset)", "cifar10_jpeg": "CIFAR-10 (JPEG)"}
INCLUDED = {"changes.md": "CHANGELOG.md", "inside.md": "CONTRIBUTING.md"}  # Pages that are a file of the project.
# Code comes first: a dollar sign in it is no formula.
CODE_OR_FORMULA = re.compile(
    r"^```.*?^```|^ {4}[^\n]*|(?<!`)`[^`\n]+`(?!`)|\$\$(?P<display>.+?)\$\$|(?<![\w$])\$(?P<inline>\S[^$\n]*)\$(?!\w)",
    flags=re.DOTALL | re.MULTILINE,
)
PLACE = "FORMULA{}OFTHISPAGE"
BAR = re.compile("<mo>(&#x02016;|&#x0007C;)</mo>")  # Of a norm, of an absolute value.


def on_files(files, config):
    """Adds each file that a page names by a path which leads out of docs/."""
    names = set()
    for path in (ROOT / "docs").glob("*.md"):
        names |= {match[2] or match[4] for match in OUTSIDE.finditer(path.read_text())}
    for name in sorted(names):
        if (ROOT / name).is_file():
            files.append(File.generated(config, f"files/{name}", abs_src_path=str(ROOT / name)))
    for folder in EXPLORED:
        content = explorer_of(ROOT / "benchmarks/results" / folder)
        files.append(File.generated(config, f"explorer_{folder}.html", content=content))
    return files


def explorer_of(folder):
    """The page on which one looks at the paths and planes of a folder of records."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from report.report import write_explorer
    from study.records import Records

    with tempfile.TemporaryDirectory() as place:
        page = pathlib.Path(place, "explorer.html")
        write_explorer(Records(folder), folder, page)
        return page.read_text()


def on_page_markdown(markdown, page, **_):
    """Points at those files in the site. Folders have no page there: their names stay as text."""
    if name := INCLUDED.get(page.file.src_uri):
        markdown += (ROOT / name).read_text().replace("](docs/", "](")  # Their links lead from the project's root.

    if page.file.src_uri == "results.md":
        links = ", ".join(f"[{name}](explorer_{folder}.html)" for folder, name in EXPLORED.items())
        markdown += (
            f"\n## To look at\n\nPaths and planes of the records, with a slider, contours and surfaces: {links}.\n"
        )

    def link(match):
        name, target = match[1], match[2]
        if match[3]:
            return f"{match[3]}files/{match[4]}{match[5]}"
        return f"[{name}](files/{target})" if (ROOT / target).is_file() else name

    return without_formulas(OUTSIDE.sub(link, markdown), page)


def without_formulas(markdown, page):
    """The text with a placeholder for each formula, which Markdown cannot take for emphasis or a link."""
    page.formulas = []

    def placeholder(match):
        display = match["display"]
        latex = display or match["inline"]
        if latex is None:
            return match[0]
        kind = "block" if display else "inline"
        formula = latex2mathml.converter.convert(latex.strip(), display=kind)
        page.formulas.append(BAR.sub(r'<mo stretchy="false">\1</mo>', formula))  # Else it grows with an exponent.
        return PLACE.format(len(page.formulas) - 1)

    return CODE_OR_FORMULA.sub(placeholder, markdown)


def on_page_content(html, page, **_):
    """Puts each formula in its place. Browsers draw MathML themselves, so that no other server is asked."""
    for index, formula in enumerate(getattr(page, "formulas", ())):
        html = html.replace(PLACE.format(index), formula)
    return html
