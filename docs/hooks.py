"""For `make docs`: files of the project that pages point at, such as records, become part of the site."""

import pathlib
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parent.parent
OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\((?:\.\./)+([^)#]+)\)|(!\[[^\]]*\]\()(?:\.\./)+([^)]+)(\))")
INCLUDED = {"changes.md": "CHANGELOG.md", "inside.md": "CONTRIBUTING.md"}  # Pages that are a file of the project.


def on_files(files, config):
    """Adds each file that a page names by a path which leads out of docs/."""
    names = set()
    for path in (ROOT / "docs").glob("*.md"):
        names |= {match[2] or match[4] for match in OUTSIDE.finditer(path.read_text())}
    for name in sorted(names):
        if (ROOT / name).is_file():
            files.append(File.generated(config, f"files/{name}", abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown, page, **_):
    """Points at those files in the site. Folders have no page there: their names stay as text."""
    if name := INCLUDED.get(page.file.src_uri):
        markdown += (ROOT / name).read_text()

    def link(match):
        name, target = match[1], match[2]
        if match[3]:
            return f"{match[3]}files/{match[4]}{match[5]}"
        return f"[{name}](files/{target})" if (ROOT / target).is_file() else name

    return OUTSIDE.sub(link, markdown)
