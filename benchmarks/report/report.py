"""The report on a folder: tables on the screen, figures as files, and one page with everything."""

import html
import io
import os
import pathlib

import matplotlib
import plotly.offline  # noqa: F401 - the explorer needs it: what is missing is to be known before any work

import curves
from keras_fge.core.files import write_atomically
from report.figures import FIGURES, draw_paths, results
from report.sentences import sentences
from report.tables import (
    comparison_tables,
    curve_tables,
    ensemble_tables,
    failure_tables,
    price_tables,
    time_tables,
)
from study.look import save
from study.progress import console
from study.records import Records


def write_report(folder):
    """Prints the tables, and writes the figures (.png) and one page with everything (report.html).

    Raises:
        ValueError: if there are no records, or damaged ones.
    """
    records = Records(folder)
    makers = (failure_tables, curve_tables, price_tables, ensemble_tables, comparison_tables, time_tables)
    tables = [table for make in makers for table in make(records)]
    for table in tables:
        console.print(table.to_rich())
        console.print(table.note + "\n")
    figures = {}
    for name, title, draw in FIGURES:
        if figure := draw(records, folder):
            save(figure, os.path.join(folder, name))
            figures[title] = _as_svg(figure)
    explorer = write_explorer(records, folder, os.path.join(folder, "explorer.html"))
    page = os.path.join(folder, "report.html")
    write_atomically(page, to_html(records, tables, figures, explorer).encode())
    for sentence in sentences(records):
        console.print(f"[bold]{sentence}[/bold]")
    console.print(
        f"Records, arrays and figures are in {folder}, and all of it, to look at in a browser, in {url(folder)}"
    )


def url(folder, name="report.html"):
    """Where a file of a folder is, or will be, as a browser takes it; by default the page with everything."""
    return pathlib.Path(folder, name).absolute().as_uri()


def draw_first_picture(folder, unit):
    """Draws the paths as soon as `unit` has measured the first curve, and says where; nothing after other units."""
    name = "paths.png"
    if unit.experiment == "path" and unit.key[0] != "line" and not os.path.exists(os.path.join(folder, name)):
        save(draw_paths(Records(folder), folder), os.path.join(folder, name))
        console.print(f"The first picture: {url(folder, name)}")


def write_explorer(records, folder, path):
    """Writes the page on which one looks at all paths and planes of the folder; its name, or None if there is none."""
    paths = results(records, folder, "path", curves.PathResult)
    planes = results(records, folder, "plane", curves.PlaneResult)
    shown = {**paths, **{f"plane of the {name}".replace("the three", "three"): p for name, p in planes.items()}}
    if not shown:
        return None
    curves.explore(shown, path, title_of(records))
    return os.path.basename(path)


def title_of(records):
    return f"{records.configuration['network']} on {records.configuration['data']['name']}"


def questions_of(records):
    """What the study asks, in words."""
    asked = (("path", "Are two networks connected?"), ("fge", "Is one run worth an ensemble?"))
    return " ".join(question for experiment, question in asked if records.of(experiment)) or title_of(records)


def folded(title, content):
    """A part of the page that a click opens."""
    return f"<details><summary>{html.escape(title)}</summary>{content}</details>"


def _as_svg(figure):
    """The figure as an element of a page: sharp at any size, also printed."""
    content = io.StringIO()
    # The same names in it whenever it is made, and text as text.
    with matplotlib.rc_context({"svg.hashsalt": "report", "svg.fonttype": "none"}):
        figure.savefig(content, format="svg", metadata={"Date": None})
    text = content.getvalue()
    return text[text.index("<svg") :]


STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --soft: #59636e; --line: #d5dae0; --accent: #0072b2 }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 1.5rem auto; padding: 0 1rem; color: var(--ink);
       background: white }
.first { font-size: 1.15rem; max-width: 50rem }
.table { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .8rem; border-bottom: 1px solid var(--line); text-align: right }
th:first-child, td:first-child { text-align: left }
th button { all: unset; cursor: pointer } th button::after { content: " ↕"; color: var(--soft); font-weight: 400 }
th button:focus-visible { outline: 3px solid var(--accent) }
details { border-bottom: 1px solid var(--line); padding: .6rem 0 } summary { font-weight: 600; cursor: pointer }
summary:focus-visible { outline: 3px solid var(--accent) }
figure { margin: 1.5rem 0 } figcaption { font-weight: 600 } figure { overflow-x: auto }
figure svg { width: 100%; min-width: 44rem; height: auto }
code, pre { font-size: .85em; white-space: pre-wrap }
@media print { body { max-width: none; font-size: 10pt } th button::after { content: "" }
  figure, tr { break-inside: avoid } }
"""
SCRIPT = """
// A click on the name of a column sorts the rows by it: by the first number in each cell, else by the text.
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const head = button.closest("tr"), column = [...head.children].indexOf(button.parentNode);
  const down = button.dataset.order !== "up";
  for (const other of head.querySelectorAll("button")) delete other.dataset.order;
  button.dataset.order = down ? "up" : "down";
  const key = (row) => {
    const text = row.children[column].textContent, number = parseFloat(text.replace(/^at (least|most) /, ""));
    return Number.isNaN(number) ? text : number;
  };
  const compare = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
  const rows = [...head.parentNode.children].slice(1);
  rows.sort((a, b) => (down ? 1 : -1) * compare(key(a), key(b)));
  head.parentNode.append(...rows);
});
addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details")) part.open = true; });
document.body.dataset.ready = "yes";
"""


def to_html(records, tables, figures, explorer):
    """One page with sentences, figures, tables and settings, which needs no other file.

    Args:
        records, tables: What to show.
        figures: SVG by caption.
        explorer: Name of the page with the paths and planes, beside this one; None: there is none.
    """
    settings = dict(records.configuration)
    data = settings.pop("data")
    title, questions = html.escape(title_of(records)), html.escape(questions_of(records))
    parts = [f"<h1>{questions}</h1><p>{title}</p>"]
    parts += [f'<p class="first">{html.escape(said)}</p>' for said in sentences(records)]
    if explorer:
        parts.append(
            f'<p><a href="{explorer}">Look at the paths and planes: move along them, turn them, read values</a></p>'
        )
    parts += [f"<figure><figcaption>{html.escape(name)}</figcaption>{svg}</figure>" for name, svg in figures.items()]
    parts += [folded(table.title, table.to_html()) for table in tables]
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
        parts.append(folded(caption, f"<pre>{html.escape(text)}</pre>"))
    body = "\n".join(parts)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f'<title>{title}</title><link rel="icon" href="data:,"><style>{STYLE}</style>'
    script = f"<script>{SCRIPT}</script>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n{script}</body></html>\n'
