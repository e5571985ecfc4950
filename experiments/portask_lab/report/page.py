"""The report as one HTML file: styles and pictures inside, no script, no request, light and dark, wide and narrow."""

from __future__ import annotations

import base64
from html import escape
from importlib.resources import files
from itertools import groupby

from portask_lab.report import colours
from portask_lab.report.document import (
    Cell,
    Document,
    Heading,
    Items,
    Listing,
    Part,
    Picture,
    Prose,
    Section,
    Table,
)

_LONG = 36
"""Characters from which a cell is a sentence: on a narrow screen the table scrolls before such a cell gets thin."""

_SHORT = 18
"""Characters up to which a cell stays on one line."""

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
:root{{{light}}}
@media (prefers-color-scheme: dark){{:root{{{dark}}}}}
{style}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the report</a>
<header>
<h1>{heading}</h1>
<p>{subtitle}</p>
</header>
"""


def render(document: Document) -> str:
    """The whole page."""
    swatches = document.swatches
    parts = [
        _HEAD.format(
            title=escape(f"{document.title}: {document.subtitle}"),
            heading=escape(document.title),
            subtitle=escape(document.subtitle),
            light=colours.variables(False),
            dark=colours.variables(True),
            style=files("portask_lab.report").joinpath("style.css").read_text("utf-8"),
        )
    ]
    parts += [
        f'<p class="warning" role="note"><strong>Warning.</strong> {escape(text)}</p>\n'
        for text in document.warnings
    ]
    links = "".join(
        f'<li><a href="#{escape(s.anchor)}">{escape(s.title)}</a></li>' for s in document.sections
    )
    parts.append(f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n<main id="main">\n')
    parts += [_section(section, swatches) for section in document.sections]
    parts.append("</main>\n</body>\n</html>\n")
    return "".join(parts)


def _section(section: Section, swatches: dict[str, str]) -> str:
    anchor = escape(section.anchor)
    lines = [f'<section aria-labelledby="{anchor}">\n<h2 id="{anchor}">{escape(section.title)}</h2>\n']
    for group, members in groupby(section.parts, key=_fold):
        inside = "".join(_part(part, swatches) for part in members)
        lines.append(
            f"<details><summary>{escape(group)}</summary>\n{inside}</details>\n" if group else inside
        )
    lines.append("</section>\n")
    return "".join(lines)


def _fold(part: Part) -> str:
    if isinstance(part, Items):
        return part.group
    return part.group or part.caption if isinstance(part, Table) and part.folded else ""


def _part(part: Part, swatches: dict[str, str]) -> str:
    match part:
        case Table():
            return _table(part, swatches)
        case Picture():
            return _picture(part)
        case Prose():
            kind = ' class="warning"' if part.warning else ""
            return f"<p{kind}>{escape(part.text)}</p>\n"
        case Listing():
            return f'<pre tabindex="0"><code>{escape(part.text)}</code></pre>\n'
        case Items():
            return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in part.lines) + "</ul>\n"
        case Heading():
            return f"<h3>{escape(part.text)}</h3>\n"


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.svg.encode()).decode()
    name, alt = escape(picture.name), escape(picture.alt)
    return (
        f'<figure id="figure-{name}"><div class="scroll" tabindex="0" role="region" aria-label="{name}">'
        f'<img alt="{alt}" width="{picture.width}" height="{picture.height}" src="data:image/svg+xml;base64,{data}">'
        f"</div><figcaption>{escape(picture.caption)}</figcaption></figure>\n"
    )


def _table(table: Table, swatches: dict[str, str]) -> str:
    heads = "".join(
        f'<th scope="col"{_number(column.number)}>{escape(column.name)}</th>' for column in table.columns
    )
    rows = []
    for row in table.rows:
        cells = "".join(
            f"<td{_class(cell, column.number)}>{_text(cell, swatches)}</td>"
            for cell, column in zip(row, table.columns, strict=True)
        )
        rows.append(f"<tr>{cells}</tr>\n")
    caption = escape(table.caption)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table><caption>{caption}</caption>'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{''.join(rows)}</tbody></table></div>\n"
    )


def _number(number: bool) -> str:
    return ' class="n"' if number else ""


def _class(cell: Cell, number: bool) -> str:
    names = " ".join(
        name
        for name in (
            "n" if number else "",
            f"t-{cell.tone}" if cell.tone else "",
            "wide" if len(cell.text) > _LONG else "short" if len(cell.text) < _SHORT else "",
        )
        if name
    )
    return f' class="{names}"' if names else ""


def _text(cell: Cell, swatches: dict[str, str]) -> str:
    text = escape(cell.text)
    if not cell.code:
        return text
    colour = swatches.get(cell.swatch)
    dot = f'<i class="swatch" style="background:var(--{colour})"></i>' if colour else ""
    return f'<span class="name">{dot}<code>{text}</code></span>'
