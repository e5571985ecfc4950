"""What a report consists of, before it is a page or a text: sections of tables, pictures and prose.

`markdown` and `page` render the same `Section`s; so both say the same, by construction.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Tone = Literal["", "pass", "fail", "doubt", "muted", "strong"]


class Cell(msgspec.Struct, frozen=True):
    """One value of a table.

    Attributes:
        text: As printed; never markup.
        tone: What it means, for colour and weight; the text alone must say it as well.
        code: A name or a command, to be set in a fixed-width face.
        swatch: Label of the variant whose colour stands before the text.
    """

    text: str
    tone: Tone = ""
    code: bool = False
    swatch: str = ""


class Column(msgspec.Struct, frozen=True):
    """A column's head; numbers are right-aligned."""

    name: str
    number: bool = False


class Table(msgspec.Struct, frozen=True):
    """Rows under named columns.

    Attributes:
        caption: What the rows are; screen readers announce it.
        columns: The heads.
        rows: Cells; as many each as there are columns.
        folded: On a page, closed until asked for.
        group: Folded tables with the same text share one fold.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    folded: bool = False
    group: str = ""


class Picture(msgspec.Struct, frozen=True):
    """A figure.

    Attributes:
        name: File name in ``figures/`` without its suffix.
        alt: What somebody who cannot see it must know: what is compared, and what it shows.
        caption: How to read it.
        svg: The picture.
        width: CSS pixels.
        height: CSS pixels.
    """

    name: str
    alt: str
    caption: str
    svg: str
    width: int
    height: int


class Prose(msgspec.Struct, frozen=True):
    """One paragraph. A ``warning`` is set apart."""

    text: str
    warning: bool = False


class Listing(msgspec.Struct, frozen=True):
    """Lines to be copied: commands."""

    text: str


class Items(msgspec.Struct, frozen=True):
    """A list of sentences.

    Attributes:
        lines: The sentences.
        group: On a page, closed under these words until asked for; empty for open.
    """

    lines: tuple[str, ...]
    group: str = ""


class Heading(msgspec.Struct, frozen=True):
    """A heading below the section's."""

    text: str


Part = Table | Picture | Prose | Listing | Items | Heading


class Section(msgspec.Struct, frozen=True):
    """A chapter with an anchor."""

    anchor: str
    title: str
    parts: tuple[Part, ...]


class Document(msgspec.Struct, frozen=True):
    """A whole report.

    Attributes:
        title: First line.
        subtitle: Second line: run, profile, when.
        warnings: What overshadows everything below: an unfinished run, lost messages.
        sections: The chapters.
        swatches: Label of a variant → name of its colour (`portask_lab.report.colours`).
    """

    title: str
    subtitle: str
    warnings: tuple[str, ...]
    sections: tuple[Section, ...]
    swatches: dict[str, str]
