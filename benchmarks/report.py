"""The report on a folder: tables on the screen, figures as files, and one page with everything."""

import base64
import html
import os
import pathlib

from figures import FIGURES
from keras_fge.core.files import write_atomically
from progress import console
from records import Records
from tables import comparison_tables, curve_tables, ensemble_tables, search_tables, time_tables


def write_report(folder):
    """Prints the tables, and writes the figures (.png) and one page with everything (report.html).

    Raises:
        ValueError: if there are no records, or damaged ones.
    """
    records = Records(folder)
    makers = (curve_tables, ensemble_tables, comparison_tables, search_tables, time_tables)
    tables = [table for make in makers for table in make(records)]
    for table in tables:
        console.print(table.to_rich())
        console.print(table.note + "\n")
    figures = {}
    for name, title, draw in FIGURES:
        if figure := draw(records, folder):
            path = os.path.join(folder, name)
            figure.savefig(path, dpi=120)
            figures[title] = path
    page = os.path.join(folder, "report.html")
    write_atomically(page, to_html(records, tables, figures).encode())
    console.print(f"Records, arrays and figures are in [bold]{folder}[/bold], all of it in [bold]{page}[/bold].")


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: right } th:first-child, td:first-child
{ text-align: left } img { max-width: 100% } code, pre { font-size: .85em; white-space: pre-wrap }
"""


def to_html(records, tables, figures):
    """One page with tables, figures and settings, which needs no other file."""
    settings = dict(records.configuration)
    data = settings.pop("data")
    title = f"{settings['network']} on {data['name']}"
    parts = [f"<h1>{html.escape(title)}</h1>", *(table.to_html() for table in tables)]
    for caption, path in figures.items():
        image = base64.b64encode(pathlib.Path(path).read_bytes()).decode()
        parts.append(
            f'<h2>{html.escape(caption)}</h2><img alt="{html.escape(caption)}" src="data:image/png;base64,{image}">'
        )
    commands = dict.fromkeys(record["command"] for record in records.units.values())
    versions = dict.fromkeys(
        ", ".join(f"{name} {version}" for name, version in record["packages"].items())
        for record in records.units.values()
    )
    for caption, text in (
        ("Commands", "\n".join(commands)),
        ("Data", ", ".join(f"{name}: {value}" for name, value in data.items())),
        ("Versions", "\n".join(versions)),
        ("Settings", "\n".join(f"{name}={value}" for name, value in settings.items())),
    ):
        parts.append(f"<h2>{caption}</h2><pre>{html.escape(text)}</pre>")
    body = "\n".join(parts)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'
