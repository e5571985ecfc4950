"""results.json: written whole, read back equal, and refused with one clear line when it is not ours."""

from pathlib import Path

import msgspec
import pytest

from portask.errors import PortaskError
from portask_lab import results


def a_run(**changes: object) -> results.Run:
    machine = results.Machine(
        id="0" * 12,
        commit="abc",
        python="CPython 3.11",
        libraries={},
        kernel="Linux",
        cpu="x",
        cores=2,
        memory=1,
        gc="off",
        limits={},
        clock="tsc",
    )
    run = results.Run(
        id="r1",
        started="2026-01-01T00:00:00Z",
        seconds=1.0,
        profile="quick",
        seed=1,
        command="c",
        suites=["serialization"],
        complete=True,
        machine=machine,
    )
    return msgspec.structs.replace(run, **changes)


def test_round_trip_keeps_everything(tmp_path: Path) -> None:
    case = results.Case(
        id="s/w/p=1/m",
        suite="s",
        family="codec",
        workload="w",
        params={"p": 1, "corpus": "tiny", "f": 0.5, "n": None},
        metric="m",
        unit="msg/s",
        better="higher",
    )
    summary = results.Summary(
        case=case.id,
        variant="codec/cbor2",
        role="reference",
        median=1.0,
        low=0.9,
        high=1.1,
        processes=3,
        samples=9,
    )
    run = a_run(cases=[case], summaries=[summary], notes=["ä note"])
    path = results.save(run, tmp_path / "run")
    assert results.load(path) == run
    assert results.load(tmp_path / "run") == run
    assert not list((tmp_path / "run").glob("*.partial"))


@pytest.mark.parametrize(("schema", "word"), [(results.SCHEMA + 1, "newer"), (0, "older")])
def test_other_schema_is_named(tmp_path: Path, schema: int, word: str) -> None:
    # only the head may be trusted: another version's body need not fit this one's structs
    (tmp_path / results.RESULTS).write_bytes(msgspec.json.encode({"schema": schema, "id": 7}))
    with pytest.raises(results.ResultsError, match=word):
        results.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": 1}', b"\xff", b'{"schema": "x"}'])
def test_damaged_files_are_one_clear_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / results.RESULTS).write_bytes(content)
    with pytest.raises(PortaskError) as caught:
        results.load(tmp_path)
    assert "\n" not in str(caught.value)
    assert results.RESULTS in str(caught.value)


def test_missing_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(results.ResultsError, match="portask lab run"):
        results.load(tmp_path / "nowhere")


def test_unknown_fields_are_ignored(tmp_path: Path) -> None:
    path = results.save(a_run(), tmp_path)
    document = msgspec.json.decode(path.read_bytes())
    document["later"] = {"x": 1}
    path.write_bytes(msgspec.json.encode(document))
    assert results.load(path) == a_run()


def test_raw_lines(tmp_path: Path) -> None:
    path = tmp_path / results.RAW
    lines = [
        results.RawSample(
            case="c", variant="ring/deque", arm="ring/deque", block=n, process=n, values=[1.0, 2.0]
        )
        for n in range(3)
    ]
    results.append_raw(path, lines[:2])
    results.append_raw(path, lines[2:])
    assert list(results.read_raw(tmp_path)) == lines
    with path.open("ab") as file:
        file.write(b"{nonsense\n")
    with pytest.raises(results.ResultsError, match="line 4"):
        list(results.read_raw(path))


def test_case_ids_are_stable() -> None:
    assert results.case_id("s", "w", {"a": 1, "b": None, "c": "x"}, "m") == "s/w/a=1,c=x/m"
    assert results.case_id("s", "w", {}, "m") == "s/w/m"
