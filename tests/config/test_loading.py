"""Three layers, one result, and the source of every value."""

import tomllib
from pathlib import Path

import pytest

from portask.config import DEFAULT_PORT, Choice, Settings, load, resolve
from portask.config.settings import Retention, TopicOverride
from portask.core.topics import check_name
from portask.errors import ConfigError, InvalidTopic
from portask.registry import REFERENCE_NAMES


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "portask.toml"


def test_nothing_given_gives_the_reference_variants_a_log_and_the_documented_defaults() -> None:
    settings = load()
    assert settings == Settings()
    chosen = {family: settings.choice(family).variant for family in REFERENCE_NAMES}
    assert chosen == REFERENCE_NAMES | {"storage": "segment-log"}
    assert settings.storage.options == {"path": "portask-data", "mode": "os"}
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", DEFAULT_PORT)
    assert settings.limits.max_frame_bytes == 8 * 1024 * 1024
    assert settings.limits.hello_timeout_s == 5
    assert settings.topics.auto_create
    assert settings.topics.default_partitions == 1


def test_every_section_of_a_file_arrives(path: Path) -> None:
    path.write_text("""
        [server]
        variant = "asyncio-protocol"
        port = 0
        options.grace = 1.5
        [codec]
        variant = "struct"
        [limits]
        max_connections = 7
        idle_timeout_s = 30
        [topics]
        auto_create = false
        [topics.retention]
        bytes = 1000
        [topics."orders.eu"]
        partitions = 4
        retention.age_s = 60
        [topics.bare]
        [memory]
        max_bytes = 10_000_000
        [logging]
        level = "debug"
        format = "json"
        [receipt]
        run = "2031"
        [receipt.machine]
        cores = 2
    """)
    settings = load(path)
    assert settings.choice("server") == Choice("asyncio-protocol", {"grace": 1.5})
    assert settings.server.port == 0
    assert settings.codec.variant == "struct"
    assert settings.limits.max_connections == 7
    assert settings.limits.idle_timeout_s == 30.0
    assert not settings.topics.auto_create
    assert settings.topics.named == {
        "orders.eu": TopicOverride(4, Retention(bytes=1000, age_s=60.0)),
        "bare": TopicOverride(1, Retention(bytes=1000)),
    }
    assert settings.topics.of("orders.eu").partitions == 4
    assert settings.topics.of("other") == TopicOverride(1, Retention(bytes=1000))
    assert settings.memory.max_bytes == 10_000_000
    assert (settings.logging.level, settings.logging.format) == ("debug", "json")
    assert settings.receipt == {"run": "2031", "machine": {"cores": 2}}


def test_the_environment_goes_over_the_file_and_the_command_line_over_both(path: Path) -> None:
    path.write_text('[server]\nport = 1001\nhost = "127.0.0.1"\n[limits]\nmax_unacked_bytes = 70000\n')
    environ = {"PORTASK_SERVER_PORT": "1002", "PORTASK_SERVER_HOST": "127.0.0.2", "HOME": "/root"}
    loaded = resolve(path, environ, {"server.port": 1003})
    assert loaded.settings.server.port == 1003
    assert loaded.settings.server.host == "127.0.0.2"
    assert loaded.settings.limits.max_unacked_bytes == 70000
    assert loaded.sources["server.port"] == "command line"
    assert loaded.sources["server.host"] == "environment variable PORTASK_SERVER_HOST"
    assert loaded.sources["limits.max_unacked_bytes"] == str(path)
    assert loaded.sources["limits.max_channels"] == "default"


def test_every_value_has_a_source(path: Path) -> None:
    path.write_text(
        '[topics]\ndefault_partitions = 2\n[topics."a.b"]\nretention.count = 9\n[storage.options]\nmax_bytes = 5\n'
    )
    loaded = resolve(path)
    assert loaded.sources.keys() == loaded.settings.flat().keys()
    assert loaded.settings.topics.named["a.b"].partitions == 2
    assert loaded.sources['topics."a.b".partitions'] == str(path)  # by way of topics.default_partitions
    assert loaded.sources['topics."a.b".retention.count'] == str(path)
    assert loaded.sources['topics."a.b".retention.bytes'] == "default"


def test_environment_text_becomes_the_type_of_the_setting() -> None:
    settings = load(
        None,
        {
            "PORTASK_SERVER_VARIANT": "epoll",
            "PORTASK_TOPICS_AUTO_CREATE": "false",
            "PORTASK_TOPICS_RETENTION_AGE_S": "1.5",
            "PORTASK_LIMITS_HELLO_TIMEOUT_S": "2",
            "PORTASK_STORAGE_OPTIONS_MAX_BYTES": "4096",
        },
    )
    assert settings.server.variant == "epoll"
    assert settings.topics.auto_create is False
    assert settings.topics.retention.age_s == 1.5
    assert settings.limits.hello_timeout_s == 2.0
    assert settings.storage.options == {"path": "portask-data", "mode": "os", "max_bytes": 4096}


def test_other_programs_may_have_variables_of_that_prefix() -> None:
    environ = {
        "PORTASK_TRACEBACK": "1",
        "PORTASK_URL": "x",
        "PORTASK_LAB_RUNS": "z",
        "PORTASK_SERVICE_HOST": "y",
    }
    assert load(None, environ) == Settings()


def test_the_environment_may_name_the_file(path: Path) -> None:
    path.write_text("[server]\nport = 1004\n")
    assert load(None, {"PORTASK_CONFIG": str(path)}).server.port == 1004
    assert load(None, {"PORTASK_CONFIG": ""}) == Settings()


def test_another_variant_leaves_the_options_of_the_first_behind_and_says_so(path: Path) -> None:
    path.write_text('[server]\nvariant = "epoll"\noptions.grace = 2.0\n')
    loaded = resolve(path, {}, {"server.variant": "asyncio-streams"})
    assert loaded.settings.server.options == {}
    (note,) = loaded.notes
    assert note.startswith(f"server.options.grace from {path} is not used: command line chose another server")


def test_naming_the_same_variant_again_keeps_its_options(path: Path) -> None:
    path.write_text('[server]\nvariant = "asyncio-streams"\noptions.grace = 2.0\n')
    loaded = resolve(
        path, {"PORTASK_SERVER_VARIANT": "asyncio-streams"}, {"server.variant": "asyncio-streams"}
    )
    assert loaded.settings.server.options == {"grace": 2.0}
    assert loaded.notes == ()


@pytest.mark.parametrize(
    "name", ["a", "a.b", "A-b_9.c", "", ".", "a.", "a..b", "a b", "ä", "a*", ">", "x" * 255, "x" * 256]
)
def test_topic_tables_take_exactly_the_topic_names_of_the_core(path: Path, name: str) -> None:
    path.write_text(f'[topics."{name}"]\n')
    try:
        check_name(name)
    except InvalidTopic:
        with pytest.raises(ConfigError, match=r"is not a topic name|is a filter"):
            load(path)
    else:
        assert list(load(path).topics.named) == [name]


def test_dotted_keys_of_flat_are_toml_keys(path: Path) -> None:
    path.write_text('[topics."a.b"]\npartitions = 3\n')
    flat = load(path).flat()
    assert flat['topics."a.b".partitions'] == 3
    for key in flat:
        tomllib.loads(f"{key} = 1")


def test_options_of_the_default_variant_are_kept_one_by_one_and_belong_to_it_alone(path: Path) -> None:
    path.write_text('[storage]\noptions.mode = "synced"\n')
    loaded = resolve(path)
    assert loaded.settings.storage == Choice("segment-log", {"path": "portask-data", "mode": "synced"})
    assert loaded.sources["storage.options.path"] == "default"
    assert loaded.sources["storage.options.mode"] == str(path)
    assert load(None, {}, {"storage.variant": "memory"}).storage == Choice("memory")
    assert "storage.options.path" not in resolve(None, {}, {"storage.variant": "memory"}).sources
