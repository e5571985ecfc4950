"""The report of a run: ``report.md``, a self-contained ``index.html``, and ``figures/``.

All of it is made from ``results.json``; the intervals of the winners' leads come from ``raw.ndjson``, and what
``portask lab select`` measured of the whole broker from ``confirmation/``.

`write` can be called again at any time, also on an unfinished run: it reads what is there and says what is not.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import structs

from portask_lab.results import CONFIRMATION, RESULTS, load

PAGE = "index.html"
TEXT = "report.md"
FIGURES = "figures"


def write(run_dir: Path | str) -> Path:
    """Writes the report of the run in ``run_dir`` beside its results; returns the page's path.

    Raises:
        ResultsError: there are no results, or they cannot be read.
        OSError: the directory cannot be written.
    """
    # drawing needs matplotlib; `portask lab --help` must not
    from portask_lab.leads import Leads  # noqa: PLC0415
    from portask_lab.report import chapters, markdown, page  # noqa: PLC0415
    from portask_lab.report.document import Picture  # noqa: PLC0415

    directory = Path(run_dir)
    run = load(directory)
    confirmation = directory / CONFIRMATION
    if (confirmation / RESULTS).exists():
        run = structs.replace(run, confirmation=load(confirmation).confirmation)
    document = chapters.build(run, Leads(run, directory).of_winners())
    folder = directory / FIGURES
    folder.mkdir(exist_ok=True)
    drawn = {
        f"{part.name}.svg": part.svg
        for s in document.sections
        for part in s.parts
        if isinstance(part, Picture)
    }
    for old in folder.glob("*.svg"):
        if old.name not in drawn:
            old.unlink()
    for name, svg in drawn.items():
        _replace(folder / name, svg)
    _replace(directory / TEXT, markdown.render(document))
    return _replace(directory / PAGE, page.render(document))


def _replace(path: Path, text: str) -> Path:
    """Whole or not at all: an interrupted rewrite leaves the previous report."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, "utf-8")
    partial.replace(path)
    return path
