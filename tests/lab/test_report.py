"""The report says what the results say: on the page, as text, for whole and for broken runs."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portask_lab import report, results, words
from portask_lab.leads import Leads
from portask_lab.report import (
    colours,
    compare,
    compression,
    latency,
    markdown,
    matrix,
    memory,
    numbers,
    page,
    tables,
    tickets,
    winners,
)
from portask_lab.report.document import Cell, Column, Document, Listing, Prose, Section, Table
from tests.lab.report_runs import full_run, machine

pytest.importorskip("matplotlib", reason="the report's pictures need matplotlib")


class _Page(HTMLParser):
    """What a browser would fetch, show and announce."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str]] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.tags: set[str] = set()
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.tags.add(tag)
        assert not [key for key in found if key.startswith("on")]
        if "id" in found:
            assert found["id"] not in self.ids, f"id {found['id']} comes twice"
            self.ids.add(found["id"])
        if tag == "img":
            self.images.append(found)
        if tag in {"a", "link"}:
            self.links.append(found["href"])
        if tag not in {"meta", "link", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def shown(written: Path) -> _Page:
    return _Page(written.read_text("utf-8"))


def test_page_needs_nothing_but_itself(written: Path, shown: _Page) -> None:
    assert not shown.open
    assert not shown.tags & {"script", "iframe", "object", "video", "audio", "base", "form"}
    assert all(link.startswith(("#", "data:")) for link in shown.links)
    assert {link[1:] for link in shown.links if link.startswith("#")} <= shown.ids
    assert all(image["src"].startswith("data:image/svg+xml;base64,") for image in shown.images)
    assert not re.search(r"url\(|@import", written.read_text("utf-8"))


def test_every_picture_is_described_and_is_also_a_file(written: Path, shown: _Page) -> None:
    files = sorted(path.stem for path in (written.parent / report.FIGURES).iterdir())
    assert len(files) == len(shown.images) >= 9
    assert all(len(image["alt"]) > 40 for image in shown.images)
    assert all(int(image["width"]) > 0 < int(image["height"]) for image in shown.images)
    text = (written.parent / report.TEXT).read_text("utf-8")
    assert sorted(re.findall(r"\]\(figures/([\w-]+)\.svg\)", text)) == files


def test_pictures_are_svg_with_both_palettes_and_the_readers_type(written: Path) -> None:
    for path in (written.parent / report.FIGURES).iterdir():
        svg = path.read_text("utf-8")
        assert ET.fromstring(svg).tag.endswith("svg")  # noqa: S314 - our own file
        assert "prefers-color-scheme:dark" in svg
        assert "var(--muted)" in svg
        assert "system-ui" in svg
        outside = re.sub(r"<style>:root.*?</style>", "", svg)
        assert not re.findall(r"#[0-9a-f]{6}\b(?!\")", outside), f"{path.name} has a colour of no palette"
        assert not re.search(r'(?:href|src)="(?!#)', outside), f"{path.name} refers to something outside"


def _facts(run: results.Run) -> list[str]:
    """Texts that every rendering must contain."""
    yes = [item.title for item in run.criteria] + [item.explanation for item in run.criteria]
    yes += [item.reason for item in run.winners] + [item.name for item in run.corpora]
    yes += [item.reason for item in run.unavailable] + [block.reason for block in run.blocks]
    yes += [run.command, run.machine.cpu, run.machine.id, run.machine.kernel, *run.notes]
    yes += [case.title for case in run.cases] + [item.detail for item in run.voids]
    yes += [item.variant for item in run.conformance]
    return sorted({text for text in yes if text})


def test_page_and_text_hold_the_same_facts(written: Path, shown: _Page) -> None:
    run = results.load(written.parent)
    text = (written.parent / report.TEXT).read_text("utf-8")
    for fact in _facts(run):
        assert fact in shown.text
        assert markdown.escape(fact) in text or fact in text
    for number in re.findall(r"\d[\d,.]+", shown.text):
        assert number.rstrip(".,") in text


def test_verdicts_come_first_and_missed_is_shown_as_missed(written: Path, shown: _Page) -> None:
    text = written.read_text("utf-8")
    order = (
        "verdicts",
        "winners",
        "ranking-codec",
        "latency",
        "conformance",
        "noise",
        "machine",
        "reproduce",
        "method",
    )
    places = [text.index(f'<h2 id="{anchor}">') for anchor in order]
    assert places == sorted(places)
    assert "✗ fail" in shown.text
    assert "? inconclusive" in shown.text
    assert "– not measured" in shown.text
    assert "✓ pass > 1 M msg/s 1.24 M msg/s [1.21, 1.28] codec/struct" in shown.text
    assert "1 of 12 blocks were voided" in shown.text


def test_strangers_text_is_text(written: Path, shown: _Page) -> None:
    assert "script" not in shown.tags
    assert "<script>alert(1)</script>" in shown.text
    text = (written.parent / report.TEXT).read_text("utf-8")
    assert r"record 5 of 10 came twice \<b\>\|\`x\`" in text


def test_markdown_tables_are_rectangular(written: Path) -> None:
    lines = (written.parent / report.TEXT).read_text("utf-8").splitlines()
    width = 0
    for line in lines:
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert cells in {0, width} or not width, line
        width = cells


def test_writing_again_gives_the_same_bytes_and_forgets_old_pictures(tmp_path: Path) -> None:
    run = full_run()
    results.save(msgspec.structs.replace(run, cases=[], summaries=[], curves=[], points=[]), tmp_path)
    written = report.write(tmp_path)
    before = written.read_bytes()
    (tmp_path / report.FIGURES / "of-before.svg").write_text("old")
    assert report.write(tmp_path) == written
    assert written.read_bytes() == before
    assert len(list((tmp_path / report.FIGURES).iterdir())) >= 3
    assert not (tmp_path / report.FIGURES / "of-before.svg").exists()
    assert not list(tmp_path.rglob("*.partial"))


def _empty() -> results.Run:
    return results.Run(
        id="r", started="2026-05-01T14:22:33Z", seconds=0, profile="quick", seed=7, command="portask lab run",
        suites=[], complete=False, machine=machine(),
    )  # fmt: skip


def test_a_run_that_just_began_renders(tmp_path: Path) -> None:
    results.save(_empty(), tmp_path)
    shown = _Page(report.write(tmp_path).read_text("utf-8"))
    assert "This run is not complete" in shown.text
    assert "No criterion was judged" in shown.text
    assert "portask lab run --seed 7" in shown.text
    assert not shown.images


FIELDS = (
    "corpora", "cases", "summaries", "noise_floors", "criteria", "winners", "conformance", "unavailable", "failures",
    "blocks", "curves", "traces", "points", "memory",
)  # fmt: skip


@pytest.mark.parametrize("missing", FIELDS)
def test_any_part_may_be_missing(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = full_run()
    run = msgspec.structs.replace(run, complete=False, **{missing: []})
    drawers: dict[str, tuple[Any, str, Any]] = {
        "summaries": (compare, "bars", None), "points": (compression, "pareto", None),
        "curves": (latency, "percentiles", []), "cases": (compare, "forests", []),
        "memory": (memory, "slopes", None), "traces": (compression, "traces", []),
        "criteria": (compare, "marks", None),
    }  # fmt: skip
    for what, (module, name, nothing) in drawers.items():
        if what != missing:  # the whole test above draws them all
            monkeypatch.setattr(module, name, lambda *_, nothing=nothing: nothing)
    results.save(run, tmp_path)
    shown = _Page(report.write(tmp_path).read_text("utf-8"))
    assert "not complete" in shown.text


def test_figures_without_intervals_are_drawn_and_printed(tmp_path: Path) -> None:
    run = full_run()
    for summary in run.summaries:
        summary.low = summary.high = summary.ratio_low = summary.ratio_high = None
        summary.verdict = "not compared"
    for point in run.points:
        point.x_low = point.x_high = None
    for item in run.criteria:
        item.low = item.high = None
    results.save(run, tmp_path)
    assert (
        "✓ pass > 1 M msg/s 1.24 M msg/s – codec/struct"
        in _Page(report.write(tmp_path).read_text("utf-8")).text
    )


def test_one_colour_a_variant_and_a_reference_for_all() -> None:
    run = full_run()
    chosen = colours.assign(run)
    codecs = [chosen[label] for label in chosen if label.startswith("codec/") and "#" not in label]
    assert len(set(codecs)) == len(codecs)
    assert chosen["codec/cbor2"] == chosen["server/asyncio-streams"] == "reference"
    assert set(chosen.values()) <= set(colours.COLOURS)
    lights = [light for light, _ in colours.COLOURS.values()]
    assert len(set(lights)) == len(lights)


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [0, 1])
@pytest.mark.parametrize(
    "name", [name for name in colours.COLOURS if name not in {"paper", "rule", "band", "faint"}]
)
def test_contrast_is_enough_to_read(name: str, dark: int) -> None:
    ground, ink = _luminance(colours.COLOURS["paper"][dark]), _luminance(colours.COLOURS[name][dark])
    contrast = (max(ground, ink) + 0.05) / (min(ground, ink) + 0.05)
    # WCAG 2.2: 4.5 for text, 3 for the parts of a picture
    assert contrast >= (4.5 if name in {"ink", "muted", "pass", "fail", "doubt"} else 2.7), contrast


@pytest.mark.parametrize(
    ("values", "unit", "texts"),
    [
        ([1_240_000, 930_000], "msg/s", ["1.240 M msg/s", "0.930 M msg/s"]),
        ([98.2, 104.4], "µs", ["98.2 µs", "104.4 µs"]),
        ([12_345.0], "µs", ["12.3 ms"]),
        ([7.41e6, 10e6], "B", ["7.41 MB", "10.00 MB"]),
        ([306.2], "B/msg", ["306 B/msg"]),
        ([5.0, 0.0], "%", ["5.00 %", "0.00 %"]),
        ([2_500_000_000.0], "B/s", ["2.50 GB/s"]),
        ([5200.0, 160.0], "MB/s", ["5,200 MB/s", "160 MB/s"]),
    ],
)
def test_numbers_share_a_scale(values: list[float], unit: str, texts: list[str]) -> None:
    scale = numbers.scale_for(values, unit)
    assert [scale.full(value) for value in values] == texts


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=4),
    st.sampled_from(["msg/s", "µs", "B", "%", "x", "MB/s"]),
)
@settings(max_examples=60, deadline=None)
def test_any_number_prints(values: list[float], unit: str) -> None:
    scale = numbers.scale_for(values, unit)
    for value in values:
        assert scale.text(value)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0312, "0.031×"), (1.344, "1.34×"), (12.34, "12.3×"), (512.3, "512×"), (None, "–")]
)
def test_ratios(value: float | None, text: str) -> None:
    assert numbers.ratio(value) == text


def test_durations_and_sizes() -> None:
    assert numbers.seconds(12.34) == "12.3 s"
    assert numbers.seconds(192) == "3 min 12 s"
    assert numbers.seconds(3700) == "1 h 01 min"
    assert numbers.binary_size(24 << 30) == "24.0 GiB"
    assert (
        words.params({"corpus": "tiny", "batch": 65536, "keyed": True, "x": None})
        == "corpus tiny, batch 65,536, keyed"
    )


anything = st.text(max_size=30)


@given(anything, anything, anything)
@settings(max_examples=60, deadline=None)
def test_no_text_can_break_either_rendering(first: str, second: str, third: str) -> None:
    table = Table(
        first, (Column(second), Column(third, number=True)), ((Cell(first, "fail", code=True), Cell(third)),)
    )
    document = Document(
        first,
        second,
        (third,),
        (Section("s", second, (table, Prose(first, warning=True), Listing(third))),),
        {},
    )
    shown = _Page(page.render(document))
    assert not shown.open
    assert not shown.tags & {"script", "img"}
    text = re.sub(r"^```.*?^```$", "", markdown.render(document), flags=re.DOTALL | re.MULTILINE)
    rows = [line for line in text.split("\n") if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows}) <= 1


def test_a_winners_lead_has_an_interval_from_the_blocks(tmp_path: Path) -> None:
    """The objective per block: 1.5 times the runner-up's in each, whatever the blocks have in common."""
    run = full_run()
    case = next(c for c in run.cases if c.workload == "codec.roundtrip" and c.params["batch"] == 100)
    run.cases, run.summaries = [case], [s for s in run.summaries if s.case == case.id]
    lines = [
        results.RawSample(
            case=case.id, variant=label, arm=label, block=block, process=block, values=[speed * drift] * 3,
            voided=block == 4,
        )
        for block, drift in enumerate((1.0, 0.7, 1.3, 0.9, 50.0))
        for label, speed in (("codec/struct", 1.5 + 0.01 * block), ("codec/cbor2", 1.0))
    ]  # fmt: skip
    assert Leads(run, tmp_path).of_winners() == {}
    results.append_raw(tmp_path / results.RAW, lines)
    found = Leads(run, tmp_path).of_winners()
    assert set(found) == {"codec"}
    assert found["codec"].blocks == 4
    assert 1.48 < found["codec"].low < 1.515 < found["codec"].high < 1.55
    cell = winners.winners(run, found).rows[0][5].text
    assert cell == "1.51× [1.50, 1.53]"
    with (tmp_path / results.RAW).open("ab") as file:
        file.write(b"{cut sho")
    assert Leads(run, tmp_path).of_winners() == found


def test_void_is_told_apart_from_failed_everywhere(written: Path, shown: _Page) -> None:
    run = full_run()
    failed, void = tickets.warnings(run)
    assert failed == "1 measuring job failed (1 gave wrong results): ring/broken."
    assert void.startswith("1 measurement is void")
    assert "server/asyncio-streams" in void
    text = (written.parent / report.TEXT).read_text("utf-8")
    for phrase in ("Jobs that failed", "gave wrong results", "Void measurements"):
        assert phrase in shown.text
        assert phrase in text
    assert [row[0].text for row in tickets.faults(run).rows] == ["ring/broken"]
    assert [row[0].text for row in tickets.voids(run).rows] == ["server/asyncio-streams"]
    only_void = msgspec.structs.replace(run, failures=run.voids)
    assert not [line for line in tickets.warnings(only_void) if "failed" in line]
    assert tickets.warnings(msgspec.structs.replace(run, failures=[])) == []


def test_a_void_load_stands_in_the_latency_table_without_figures() -> None:
    table = latency.distributions(full_run())
    assert table is not None
    rows = [[cell.text for cell in row] for row in table.rows]
    (void,) = [row for row in rows if row[-1] == "void"]
    assert void[1:] == ["server/asyncio-streams", "–", "–", "–", "–", "–", "void"]
    assert [row[0] for row in rows if row[0]] == [
        f"end to end, {rate} msg/s, poisson" for rate in ("1,000", "10,000", "50,000")
    ]


def test_two_ways_of_driving_are_not_mixed() -> None:
    run = full_run()
    case = next(case for case in run.cases if case.workload == "network.latency")
    other = msgspec.structs.replace(case, id="other", workload="network.client_latency", title="by clients")
    run.cases.append(other)
    mine = next(curve for curve in run.curves if curve.case == case.id and curve.variant == "server/epoll")
    run.curves.append(msgspec.structs.replace(mine, case="other"))
    table = latency.distributions(run)
    assert table is not None
    heads = [row[0].text for row in table.rows if row[0].text]
    assert "by clients, 1,000 msg/s, poisson" in heads
    (picture,) = latency.percentiles(run, colours.assign(run), None)
    assert "in 4 panels" in picture.alt
    assert "by clients" in picture.svg


def test_where_queued_messages_lie_stands_beside_their_memory(shown: _Page) -> None:
    assert "7.41 MB, held in RAM" in shown.text
    assert "apart: held in files ✓ pass < 10 MB 2.41 MB, held in files" in shown.text
    table = memory.table(full_run())
    assert table is not None
    by_variant = {row[0].text: [cell.text for cell in row] for row in table.rows}
    assert by_variant["storage/files"][2] == "in files"
    assert by_variant["storage/files"][5] == "–", "what lies in files has no overhead in memory"
    assert by_variant["storage/memory"][2] == "in RAM"


def test_what_was_confirmed_stands_below_the_winners(tmp_path: Path) -> None:
    run = full_run()
    run.cases, run.summaries, run.points, run.curves = [], [], [], []
    results.save(run, tmp_path)
    assert "The whole broker" not in _Page(report.write(tmp_path).read_text("utf-8")).text
    figure = results.ConfirmedFigure(
        name="cpu", words="CPU at 50,000 msg/s", unit="%", better="lower", winners=5.0, reference=10.0, ratio=0.5,
        low=0.4, high=0.6, floor=0.02, verdict="better",
    )  # fmt: skip
    run.confirmation = results.Confirmation(
        outcome="not confirmed", reason="So it is.", rounds=4, figures=[figure], notes=["Mind this."]
    )
    results.save(run, tmp_path / results.CONFIRMATION)
    shown = _Page(report.write(tmp_path).read_text("utf-8")).text
    assert "The whole broker Not confirmed, in 4 rounds of their own: So it is. Mind this." in shown
    assert "CPU at 50,000 msg/s 5.00 % 10.00 % 0.50× [0.40, 0.60] ±2.0% better" in shown


def test_an_interval_that_says_nothing_says_just_that() -> None:
    scale = numbers.scale_for([854.0], "µs")
    assert scale.interval(1e-3, 171_000.0) == "[over 1,000× wide]"
    assert scale.interval(500.0, 1_500.0) == "[500, 1,500]"
    assert scale.interval(-1.0, 1_500.0) == "[-1, 1,500]"


def test_a_suite_at_a_glance_has_a_row_a_variant_and_a_column_a_figure() -> None:
    run = full_run()
    doubtful = next(s for s in run.summaries if "network.latency" in s.case and s.variant == "server/epoll")
    for summary in run.summaries:
        summary.notes = []
    doubtful.notes = ["1 of 6 processes failed; the others are shown"]
    (table,) = matrix.matrix(run, "latency")
    assert [column.name for column in table.columns] == ["Case", "Variant", "p99"]
    cases = [row[0].text for row in table.rows if row[0].text]
    assert cases == ["rate 1,000", "rate 10,000", "rate 50,000"]
    assert "schedule poisson" in table.caption
    assert "* beside a figure" in table.caption
    assert [row[2].text.endswith(" *") for row in table.rows].count(True) == 1
    (single,) = matrix.matrix(run, "cpu")
    assert [column.name for column in single.columns] == ["Variant", "cpu"]
    assert single.rows[0][0].text == "server/epoll", "the best on top"


def test_the_control_is_named_as_such() -> None:
    assert tables.variant("codec/cbor2" + results.CONTROL_SUFFIX).text == "codec/cbor2 (again: A/A)"
