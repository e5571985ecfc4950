"""The report as Markdown: the same sections as the page, pictures as files beside it."""

from __future__ import annotations

import re

from portask_lab.report.document import Cell, Document, Heading, Items, Listing, Part, Picture, Prose, Table

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~])")


def escape(text: str) -> str:
    """Text that Markdown prints as it stands, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def render(document: Document) -> str:
    """The whole file."""
    lines = [f"# {escape(document.title)}", "", escape(document.subtitle), ""]
    for warning in document.warnings:
        lines += [f"> **Warning.** {escape(warning)}", ""]
    for section in document.sections:
        lines += [f"## {escape(section.title)}", ""]
        for part in section.parts:
            lines += [*_part(part), ""]
    return "\n".join(lines).rstrip() + "\n"


def _part(part: Part) -> list[str]:
    match part:
        case Table():
            return _table(part)
        case Picture():
            return [f"![{escape(part.alt)}](figures/{part.name}.svg)", "", f"*{escape(part.caption)}*"]
        case Prose():
            return [f"> **Warning.** {escape(part.text)}" if part.warning else escape(part.text)]
        case Listing():
            return ["```sh", *part.text.replace("```", "` ` `").splitlines(), "```"]
        case Items():
            head = [f"**{escape(part.group)}**", ""] if part.group else []
            return [*head, *(f"- {escape(line)}" for line in part.lines)]
        case Heading():
            return [f"### {escape(part.text)}"]


def _table(table: Table) -> list[str]:
    heads = " | ".join(escape(column.name) or " " for column in table.columns)
    rules = " | ".join("--:" if column.number else ":--" for column in table.columns)
    rows = [f"| {' | '.join(map(_cell, row))} |" for row in table.rows]
    return [f"**{escape(table.caption)}**", "", f"| {heads} |", f"| {rules} |", *rows]


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    return f"**{text}**" if text and cell.tone in {"fail", "strong"} else text
