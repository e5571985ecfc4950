"""Brokers under attack, on a small scale: what is promised holds, and what does not hold is named."""

from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner

from portask_lab import siege
from portask_lab.cli import lab
from portask_lab.loadgen.besieger import Report
from portask_lab.loadgen.guarded import Line

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc and uses epoll")

# no more than ten failures of a kind: what is beyond is counted for 10 s, for which no test should wait
SMALL = siege.Scale(slow=3, half_open=20, guesses=20, garbage=10, oversized=20)
SMALL_TLS = siege.Scale(slow=2, half_open=3, guesses=20, garbage=10, oversized=20)
PATIENT = 60.0


@pytest.fixture(scope="module")
def found() -> siege.Findings:
    return siege.drill(server="epoll", seconds=0.3, patience=PATIENT, scale=SMALL)


def test_every_promise_holds(found: siege.Findings) -> None:
    assert found.faults() == []
    assert [each.assault for each in found.rounds] == [each.title for each in SMALL.assaults(encrypted=False)]
    for each in found.rounds:
        assert each.attempts > 0
        assert each.due == each.told > 0
        assert each.bound > 0


def test_offenders_were_stopped_and_not_only_endured(found: siege.Findings) -> None:
    said = {each.assault: " ".join(each.said) for each in found.rounds}
    for assault, part in {
        "slow HELLO": "no HELLO within 2 s",
        "half-open": "no HELLO within 2 s",
        "bombs": "the batch unfolds to 67,108,865 bytes, above the limit",
        "subscriptions": "2,000 subscriptions on this connection",
        "wrong token": "show a valid token",
        "oversized": "is above the limit of 8,192",
    }.items():
        assert part in said[assault]


def test_with_tls() -> None:
    with siege._Siege("asyncio-protocol", 1, encrypted=True) as besieged:
        rounds = [besieged.make(each, 0.3) for each in SMALL_TLS.assaults(encrypted=True)]
        besieged.audit()
    assert [fault for each in rounds for fault in each.faults(PATIENT)] == []
    assert rounds[-1].due == rounds[-1].told == sum(each.attempts for each in rounds) > 0


def test_with_workers() -> None:
    with siege._Siege("epoll", 2, encrypted=False) as besieged:
        rounds = [
            besieged.make(each, 0.3)
            for each in SMALL.assaults(encrypted=False)
            if each.name in {"bombs", "subscriptions", "oversized"}
        ]
        besieged.audit()
    assert [fault for each in rounds for fault in each.faults(PATIENT)] == []
    (bombs,) = (each for each in rounds if each.assault == "bombs")
    assert 0 < sum(bombs.said.values()) < bombs.attempts, "some are refused, and some are in there"


def test_broken_promises_are_named() -> None:
    broken = siege.Round(
        assault="half-open",
        seconds=1.0,
        attempts=10,
        left=1,
        answered=1,
        worst=2.0,
        bound=100,
        growth=101,
        allowed=10,
        rest=11,
        changed="the broker's processes are [2], they were [1]",
        lost="a message did not get through: TimeoutError",
        due=10,
        told=9,
        twice=2,
        bare=3,
    )
    faults = broken.faults(1.0)
    assert len(faults) == 9
    parts = [
        *("waited 2.00 s", "grew by 101", "11 bytes", "1 connections", "are [2]", "a message"),
        *("9 offenders", "2 offenders are in the log more than once", "3 lines"),
    ]
    for fault, part in zip(faults, parts, strict=True):
        assert fault.startswith("half-open: ")
        assert part in fault
    silent = siege.Round(assault="x", seconds=1.0, attempts=1, unanswered="a connection broke")
    assert silent.faults(1.0) == ["x: the bystander: a connection broke"]
    idle = siege.Round(assault="x", seconds=1.0, attempts=0)
    assert idle.faults(1.0) == [
        "x: the bystander had no answer at all",
        "x: nobody attacked, so nothing was proven",
    ]


def test_each_offender_is_looked_up_in_the_log() -> None:
    lines = [Line(peer=peer, reason=reason) for peer, reason in [("a:1", "r"), ("a:2", "r"), ("a:2", "")]]
    found = siege.Round(assault="x", seconds=1.0, attempts=3)
    siege._by_peer(found, ["a:1", "a:2", "a:3"], lines)
    assert (found.due, found.told, found.twice, found.bare, found.lines) == (3, 2, 1, 1, 3)
    siege._by_peer(found, ["a:1", "a:2", "a:2"], lines)  # it came again from the same port
    assert (found.due, found.told, found.twice) == (3, 3, 0)


def test_counted_failures_are_added_to_those_that_were_told_one_by_one() -> None:
    lines = [
        Line(peer="127.1.0.1:5", reason="r"),
        Line(address="127.1.0.1", count=2),
        Line(peer="127.2.0.1:6"),
    ]
    found = siege.Round(assault="x", seconds=1.0, attempts=3)
    siege._by_address(found, Report(refused=["127.1.0.1:5", "127.1.0.1:6", "127.1.0.1:7"]), lines)
    assert (found.due, found.told, found.twice, found.bare, found.lines) == (3, 3, 0, 0, 2)


def test_the_command_shows_a_table_and_fails_when_a_promise_was_broken(
    found: siege.Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(siege, "drill", lambda **_options: found)
    done = CliRunner().invoke(lab, ["siege"])
    assert done.exit_code == 0, done.output
    assert "✓ epoll: answered, within memory" in done.output
    impatient = siege.Findings(server="epoll", workers=2, patience=0.0, rounds=found.rounds)
    monkeypatch.setattr(siege, "drill", lambda **_options: impatient)
    done = CliRunner().invoke(lab, ["siege", "--json"])
    assert done.exit_code == 1, done.output
    assert '"faults": [' in done.output
    assert "for an answer, 0 s is its patience" in done.output
