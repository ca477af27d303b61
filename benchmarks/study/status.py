"""How far a study is: what is done, who does what, what failed, and how long the rest will take."""

import html
import os
import time

from rich.table import Table

from keras_fge.core.files import write_atomically
from study.progress import console
from study.units import in_order, seconds_left

SECONDS = 10  # After which the page reloads itself.
MINUTE = 60


def status(study, units):
    """Rows (kind of unit, done, running, waiting, failed), who does what, and the seconds that are left.

    Returns:
        {"kinds": rows, "running": [(unit, host and process, seconds)], "failed": {unit: message}, "seconds_left"}
    """
    study.records.read()
    ordered, failed = in_order(units), study.records.failures()
    kinds, running = {}, []
    for unit in ordered.values():
        row = kinds.setdefault(unit.experiment, dict.fromkeys(("done", "running", "waiting", "failed"), 0))
        holder = None if unit.name in study.records else study.holder(unit.name)
        if holder:
            running.append((unit.name, f"{holder['host']}, process {holder['process']}", time.time() - holder["since"]))
        state = "done" if unit.name in study.records else "running" if holder else "waiting"
        row["failed" if state == "waiting" and unit.name in failed else state] += 1
    left = seconds_left(study.records, ordered) / max(len(running), 1)
    failed = {name: error for name, error in failed.items() if name in ordered}
    return {"kinds": kinds, "running": running, "failed": failed, "seconds_left": left}


class Board:
    """Shows the status of a study: as a table, at most once a minute, and as status.html in its folder each time."""

    def __init__(self, study, units):
        self._study, self._units, self._printed = study, units, -MINUTE

    def look(self, is_last=False):
        now = status(self._study, self._units)
        lines = [f"{name}: {where}, for {seconds / 60:.1f} min" for name, where, seconds in now["running"]]
        lines += [f"{name} failed: {error}" for name, error in now["failed"].items()]
        if now["seconds_left"]:
            minutes = now["seconds_left"] / 60
            lines.append(f"about {minutes:.0f} min left" if minutes >= 1 else "less than a minute left")
        path = os.path.join(self._study.settings.output_dir, "status.html")
        write_atomically(path, _to_html(now, lines).encode())
        if is_last or time.monotonic() >= self._printed + MINUTE:
            self._printed = time.monotonic()
            self._print(now, lines)

    def _print(self, now, lines):
        table = Table(title=self._study.settings.output_dir)
        for column in ("units", "done", "running", "waiting", "failed"):
            table.add_column(column, justify="left" if column == "units" else "right")
        for kind, row in now["kinds"].items():
            table.add_row(kind, *map(str, row.values()))
        console.print(table)
        console.print("\n".join(lines), markup=False)


def _to_html(now, lines):
    head = "".join(f"<th>{name}</th>" for name in ("units", "done", "running", "waiting", "failed"))
    rows = "".join(
        f"<tr><td>{html.escape(kind)}</td>{''.join(f'<td>{count}</td>' for count in row.values())}</tr>"
        for kind, row in now["kinds"].items()
    )
    text = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    style = "body{font:16px system-ui;margin:2rem;color-scheme:light dark}td,th{padding:.2rem .8rem;text-align:right}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="{SECONDS}">'
        f'<meta name="viewport" content="width=device-width"><title>Status</title><style>{style}</style>'
        f"<table><tr>{head}</tr>{rows}</table><ul>{text}</ul><p>{time.strftime('%Y-%m-%d %H:%M:%S')}</p></html>"
    )
