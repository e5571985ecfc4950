"""Any file gives `Settings` or `ConfigError`, nothing else."""

import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from portask.config import Settings, load, resolve
from portask.config.live import changes, live
from portask.config.schema import SECTIONS, fields, section_type, toml
from portask.config.settings import quote
from portask.errors import ConfigError

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NAMES = sorted(
    {name for section in SECTIONS[:-1] for name in fields(section_type(section))}
    | {"options", "retention", "bytes"}
)
words = st.sampled_from(NAMES) | st.sampled_from(["a.b", "max_bytes", "x"]) | st.text(max_size=4)
scalars = (
    st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["epoll", "memory", "struct", "debug", "json", "deque", 1, 5, 100, 10**7, 1.5])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=3),
    max_leaves=4,
)
tables = st.dictionaries(
    st.sampled_from(SECTIONS) | st.text(max_size=4),
    st.dictionaries(words, values, max_size=3) | scalars,
    max_size=4,
)


def read(path: Path, table: dict[str, Any], environ: dict[str, str] | None = None) -> Settings | None:
    path.write_text(
        "\n".join(f"{quote(name)} = {toml(value)}" for name, value in table.items()), encoding="utf-8"
    )
    try:
        loaded = resolve(path, environ)
    except ConfigError as error:
        lines = str(error).splitlines()
        assert lines
        assert all(": " in line and len(line) < 1000 for line in lines)
        return None
    assert loaded.sources.keys() == loaded.settings.flat().keys()
    return loaded.settings


@QUICK
@given(table=tables)
@example({"topics": {"a.b": {"retention": 3}}})
@example({"storage": {"options": {"a.b": {"c": 1}}}})
@example({"auth": {"identities": {"a": {"limits": 3}, "b": 3, "c d": {}, "e": {"allow": [{}]}}}})
@example({"auth": {"identities": {"a": {"zzz": {}}}, "limits": {"zzz": 1}}})
def test_any_table(tmp_path: Path, table: dict[str, Any]) -> None:
    read(tmp_path / "any.toml", table)


@QUICK
@given(data=st.binary(max_size=60))
@example(b"[topics.a]\n\x00")
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "any.toml"
    path.write_bytes(data)
    with suppress(ConfigError):
        assert isinstance(load(path), Settings)


@QUICK
@given(table=st.dictionaries(words, values, max_size=3))
def test_values_are_written_as_toml(table: dict[str, Any]) -> None:
    read_back = tomllib.loads(f"value = {toml(table)}")["value"]
    assert repr(read_back) == repr(table)  # NaN is not equal to itself; its repr is


VARIABLES = st.builds(
    lambda section, name: f"PORTASK_{section}_{name}".upper(),
    st.sampled_from([*SECTIONS, "svc"]),
    st.sampled_from([*NAMES, "options_max_bytes", "retention_bytes", "retention_", "x", ""]),
)


@QUICK
@given(
    environ=st.dictionaries(
        VARIABLES, st.text(max_size=6) | st.sampled_from(["1", "true", "[", "1e999", "memory"]), max_size=4
    )
)
@example({"PORTASK_SERVER_ANONYMOUS": "\x85\u2028\x9b"})
def test_any_environment(tmp_path: Path, environ: dict[str, str]) -> None:
    read(tmp_path / "any.toml", {}, environ)


good = st.fixed_dictionaries(
    {},
    optional={
        "server": st.fixed_dictionaries(
            {}, optional={"port": st.integers(0, 9), "host": st.sampled_from(["::1", "localhost"])}
        ),
        "limits": st.fixed_dictionaries(
            {}, optional={"max_unacked_bytes": st.integers(65536, 65540), "idle_timeout_s": st.integers(0, 3)}
        ),
        "topics": st.fixed_dictionaries(
            {},
            optional={
                "retention": st.fixed_dictionaries({}, optional={"bytes": st.integers(0, 3)}),
                "a.b": st.fixed_dictionaries({}, optional={"partitions": st.integers(1, 3)}),
                "c": st.fixed_dictionaries({}, optional={"retention": st.just({"count": 3})}),
            },
        ),
        "auth": st.fixed_dictionaries(
            {},
            optional={
                "limits": st.fixed_dictionaries({}, optional={"max_connections": st.integers(0, 2)}),
                "identities": st.dictionaries(
                    st.sampled_from(["a", "b-c"]),
                    st.fixed_dictionaries(
                        {},
                        optional={
                            "allow": st.just([{"action": ["publish", "create"], "filter": "a.>"}]),
                            "limits": st.just({"max_connections": 3}),
                        },
                    ),
                    max_size=2,
                ),
            },
        ),
        "logging": st.fixed_dictionaries({}, optional={"level": st.sampled_from(["debug", "error"])}),
    },
)


@QUICK
@given(first=good, second=good)
def test_what_is_applied_and_what_needs_a_restart_make_the_whole_difference(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any]
) -> None:
    old, new = read(tmp_path / "a.toml", first), read(tmp_path / "b.toml", second)
    assert old is not None
    assert new is not None
    applied, needs_restart = changes(old, new)
    before, after, running = old.flat(), new.flat(), live(old, new).flat()
    different = {key for key in before.keys() | after.keys() if before.get(key, ...) != after.get(key, ...)}
    assert different <= {change.key for change in applied + needs_restart}
    for change in applied:
        assert running.get(change.key, ...) == (change.new if change.key in running else ...)
    assert changes(live(old, new), new)[0] == []
    assert changes(new, new) == ([], [])
