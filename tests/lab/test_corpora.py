"""Corpora: what a file says is checked against what it holds, and every complaint is one line with a fix."""

import csv
import gzip
import io
import json
import random
from pathlib import Path

import msgspec
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portask.errors import ConfigError, PortaskError
from portask_lab.corpora import CONTROLS, REAL, WANTED_DISTINCT, Corpus, CorpusError, read
from portask_lab.corpora.load import TINY_BYTES, load


def write(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize("name", REAL)
def test_built_in_corpora_fit_their_manifest(name: str) -> None:
    corpus = load(name)
    info = corpus.info()
    manifest = json.loads((Path(load.__code__.co_filename).parent / "data" / "manifest.json").read_text())[
        name
    ]
    # the manifest counts a newline with each record
    assert info.records == manifest["records"]
    assert info.sha256 == manifest["sha256"]
    assert info.largest in {manifest["max_record_bytes"], manifest["max_record_bytes"] - 1}
    assert all(payload.startswith(b"{") for payload in corpus.payloads)


def test_few_distinct_messages_are_said() -> None:
    assert any(str(WANTED_DISTINCT // 1000) in note for note in load("webhooks").info().notes)
    assert not load("flights", 2_000).info().notes


@pytest.mark.parametrize("name", CONTROLS)
def test_generated_corpora_depend_on_the_seed_alone(name: str) -> None:
    one, again, other = load(name, 500, 1), load(name, 500, 1), load(name, 500, 2)
    assert one == again
    assert one.payloads != other.payloads
    assert len(set(one.payloads)) == 500


def test_tiny_is_tiny_and_random_does_not_compress() -> None:
    assert {len(payload) for payload in load("tiny").payloads} == {TINY_BYTES}
    joined = b"".join(load("random", 1_000).payloads)
    assert len(zstandard.compress(joined)) >= len(joined)


def test_limit_takes_from_the_start() -> None:
    assert load("flights", 10).payloads == load("flights", 50).payloads[:10]


ROWS = [{"id": 1, "name": "ä b"}, {"id": 2, "name": 'quo"te'}, [1, 2], "text", 5]
LINES = b"\n".join(json.dumps(row, ensure_ascii=False).encode() for row in ROWS)


@pytest.mark.parametrize("suffix", [".ndjson", ".jsonl", ".ndjson.gz", ".ndjson.zst"])
def test_json_lines(tmp_path: Path, suffix: str) -> None:
    data = LINES + b"\r\n\n"
    packed = (
        gzip.compress(data)
        if suffix.endswith("gz")
        else zstandard.compress(data)
        if suffix.endswith("zst")
        else data
    )
    corpus = load(write(tmp_path / f"x{suffix}", packed))
    assert corpus.payloads == LINES.split(b"\n")


def test_several_zstd_frames_are_one_stream(tmp_path: Path) -> None:
    data = zstandard.compress(LINES[:20]) + zstandard.compress(LINES[20:])
    assert load(write(tmp_path / "x.ndjson.zst", data)).payloads == LINES.split(b"\n")


def test_json_array_keeps_elements_as_they_stand(tmp_path: Path) -> None:
    text = b'\xef\xbb\xbf [ {"a": 1.50} ,\n [ 1, 2 ], "x" ]\n'
    assert load(write(tmp_path / "x.json", text)).payloads == [b'{"a": 1.50}', b"[ 1, 2 ]", b'"x"']


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_tables_become_objects(tmp_path: Path, delimiter: str) -> None:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerows(
        [["id", "name", "", "name"], ["1", f'a "{delimiter}" b', "x", "y"], ["2", "two\nlines", "", "z"]]
    )
    corpus = load(write(tmp_path / ("x.tsv" if delimiter == "\t" else "x.csv"), "\ufeff" + out.getvalue()))
    assert [json.loads(payload) for payload in corpus.payloads] == [
        {"id": "1", "name": f'a "{delimiter}" b', "column3": "x", "name_4": "y"},
        {"id": "2", "name": "two\nlines", "column3": "", "name_4": "z"},
    ]


def test_one_column_table(tmp_path: Path) -> None:
    corpus = load(write(tmp_path / "x.csv", "city\nRome\nOslo\n"))
    assert corpus.payloads == [b'{"city":"Rome"}', b'{"city":"Oslo"}']


def test_raw_lines_take_any_bytes_but_nul(tmp_path: Path) -> None:
    assert load(write(tmp_path / "x.log", b"a\r\n\n\xff\xfe x\nlast")).payloads == [
        b"a",
        b"\xff\xfe x",
        b"last",
    ]


@pytest.mark.parametrize(
    ("data", "expected"), [(b'{"a":1}\n{"b":2}\n', 2), (b'[{"a":1},{"b":2},{"c":3}]', 3), (b"one\ntwo\n", 2)]
)
def test_unknown_suffix_is_sniffed_and_said(tmp_path: Path, data: bytes, expected: int) -> None:
    corpus = load(write(tmp_path / "x.data", data))
    assert len(corpus) == expected
    assert any("taken for" in note for note in corpus.info().notes)


BAD = {
    "empty.ndjson": (b"", "empty"),
    "blank.ndjson": (b"\n \n\n", "no message"),
    "header.csv": (b"a,b\n", "no message"),
    "blank.csv": (b"\n\n", "no message"),
    "empty.json": (b"[]", "no message"),
    "object.json": (b'{"a": 1}', "array"),
    "lines.json": (b'{"a":1}\n{"b":2}\n', ".ndjson"),
    "cut.json": (b'[1,\n2,\n{"a"', "array"),
    "garbage.json": (b"[1,\n2,\n\xff]", "array"),
    "array.ndjson": (b'[{"a":1},{"b":2}]', "name it .json"),
    "pretty.ndjson": (b'[\n {"a":1}\n]', "line 1"),
    "third.ndjson": (b'{"a":1}\n{"b":2}\n{nope}\n', "line 3"),
    "latin.ndjson": (b'{"a":1}\n{"b":"\xe9"}\n', "line 2"),
    "latin.csv": (b"a,b\n1,2\n\xe9,3\n", "line 3"),
    "ragged.csv": (b"a,b\n1,2\n1,2,3\n", "line 3"),
    "quote.csv": (b'a,b\n1,"2\n', "quot"),
    "binary.csv": (b"a,b\n\x00,1\n", "binary"),
    "binary.log": (b"abc\x00def\n", "binary"),
    "binary": (b"\x7fELF\x00\x00\x00\n", "binary"),
    "fake.ndjson.gz": (b"not gzip at all", "gzip"),
    "cut.ndjson.gz": (gzip.compress(LINES * 50)[:-9], "cut short"),
    "fake.ndjson.zst": (b"not zstd at all", "zstd"),
    "cut.ndjson.zst": (
        zstandard.compress(random.Random(1).randbytes(9_999).hex().encode())[:-900],
        "cut short",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_what_it_says_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    data, words = BAD[name]
    path = write(tmp_path / name, data)
    with pytest.raises(CorpusError) as caught:
        load(path)
    text = str(caught.value)
    assert words in text
    assert name in text
    assert "\n" not in text


def test_places_that_hold_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="directory"):
        load(tmp_path)
    with pytest.raises(ConfigError, match="flights"):
        load(tmp_path / "nowhere.csv")


def test_missing_zstandard_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(CorpusError, match="pip install zstandard"):
        load(write(tmp_path / "x.ndjson.zst", b"(\xb5/\xfd"))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    data=st.binary(max_size=200) | st.text(max_size=100).map(str.encode),
    suffix=st.sampled_from([".ndjson", ".json", ".csv", ".tsv", ".log", "", ".ndjson.gz", ".csv.zst"]),
)
def test_any_bytes_load_or_are_refused(tmp_path: Path, data: bytes, suffix: str) -> None:
    path = write(tmp_path / f"fuzz{suffix}", data)
    try:
        corpus = load(path)
    except CorpusError as error:
        complaint = str(error)
    else:
        complaint = ""
        assert corpus.payloads
        assert all(type(payload) is bytes and payload for payload in corpus.payloads)
    assert "\n" not in complaint


@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=30), st.integers(1, 40))
@settings(max_examples=50)
def test_batches_hold_every_message_and_are_equally_long(payloads: list[bytes], size: int) -> None:
    corpus = Corpus(name="x", payloads=payloads)
    batches = corpus.batches(size, keyed=True)
    assert {len(batch) for batch in batches} == {size}
    flat = [message.payload for batch in batches for message in batch]
    assert flat[: len(payloads)] == payloads
    stamps = [message.timestamp for message in corpus.messages()]
    assert stamps == sorted(set(stamps))


def test_a_corpus_travels_to_measuring_processes(tmp_path: Path) -> None:
    corpus = load("random", 100)
    corpus.write(tmp_path / "c")
    assert read(tmp_path / "c") == corpus


def test_errors_are_portask_errors() -> None:
    assert issubclass(CorpusError, PortaskError)
    assert msgspec.json.encode(load("tiny", 3).info())
