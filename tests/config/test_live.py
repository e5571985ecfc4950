"""What a running broker takes over, and what it does not."""

from pathlib import Path

from portask.config import Settings, changes, load
from portask.config.live import live


def read(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "portask.toml"
    path.write_text(text)
    return load(path)


def texts(old: Settings, new: Settings) -> tuple[list[str], list[str]]:
    applied, needs_restart = changes(old, new)
    return [str(change) for change in applied], [str(change) for change in needs_restart]


def test_limits_retention_and_the_log_level_are_taken_over(tmp_path: Path) -> None:
    new = read(
        tmp_path,
        "[limits]\nmax_connections = 5\n"
        '[topics.retention]\nage_s = 60\n[logging]\nlevel = "error"\n[topics.a]\npartitions = 2\n',
    )
    applied, needs_restart = texts(Settings(), new)
    assert needs_restart == []
    assert applied == [
        "limits.max_connections: 100000 → 5",
        'logging.level: "info" → "error"',
        "topics.a.partitions: not set → 2",
        "topics.a.retention.age_s: not set → 60.0",
        "topics.a.retention.bytes: not set → 0",
        "topics.a.retention.count: not set → 0",
        "topics.retention.age_s: 0.0 → 60.0",
    ]
    assert live(Settings(), new) == new


def test_what_is_built_in_or_agreed_with_clients_needs_a_restart(tmp_path: Path) -> None:
    new = read(
        tmp_path,
        """
        [server]
        variant = "epoll"
        port = 1
        [storage.options]
        max_bytes = 99_000_000
        [limits]
        max_frame_bytes = 100_000
        idle_timeout_s = 1
        [memory]
        max_bytes = 99_000_000
        [logging]
        format = "json"
        """,
    )
    applied, needs_restart = texts(Settings(), new)
    assert applied == []
    assert needs_restart == [
        "limits.idle_timeout_s: 90.0 → 1.0",
        "limits.max_frame_bytes: 8388608 → 100000",
        'logging.format: "auto" → "json"',
        "memory.max_bytes: 1073741824 → 99000000",
        "server.port: 7711 → 1",
        'server.variant: "asyncio-streams" → "epoll"',
        "storage.options.max_bytes: not set → 99000000",
    ]
    assert live(Settings(), new) == Settings()


def test_partitions_of_a_topic_that_is_there_already_wait(tmp_path: Path) -> None:
    old = read(tmp_path, "[topics.a]\npartitions = 2\n[topics.b]\n")
    new = read(tmp_path, "[topics.a]\npartitions = 3\nretention.count = 7\n")
    applied, needs_restart = texts(old, new)
    assert needs_restart == ["topics.a.partitions: 2 → 3"]
    assert "topics.a.retention.count: 0 → 7" in applied
    assert "topics.b.partitions: 1 → not set" in applied
    running = live(old, new).topics.named
    assert running["a"].partitions == 2
    assert running["a"].retention.count == 7


def test_the_receipt_is_no_setting(tmp_path: Path) -> None:
    new = read(tmp_path, "[receipt]\nrun = 1\n")
    assert texts(Settings(), new) == ([], [])
    assert live(Settings(), new).receipt == {"run": 1}
