"""Every complaint names the place, the key, the value and the fix."""

from pathlib import Path

import pytest

from portask import registry
from portask.config import load, make
from portask.config.settings import Choice
from portask.errors import ConfigError, UnknownVariant
from portask.registry import Entry


def complaint(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "portask.toml"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[server]\nprot = 1", ["server.prot = 1: ", "no such setting; did you mean server.port?"]),
        ("[serverr]\nport = 1", ["serverr: ", "did you mean server?"]),
        ("port = 7", ["port = 7: ", "no such setting"]),
        (
            "[server]\nzzz = 1",
            ["server.zzz = 1: ", "there are: variant, host, port, insecure, workers, options"],
        ),
        ("[codec]\nhost = 1", ["codec.host = 1: ", "there are: variant, options"]),
        ("[server]\nport = 70000", ["server.port = 70000: ", "must be a TCP port, 0 to 65535"]),
        ("[server]\nport = -1", ["server.port = -1: ", "must be a TCP port, 0 to 65535"]),
        ("[server]\nport = true", ["server.port = true: ", "must be a TCP port"]),
        (
            '[server]\nport = "80"',
            ['server.port = "80": ', "must be a TCP port", "without quotes: port = 80"],
        ),
        ("[server]\nhost = 3", ["server.host = 3: ", "must be an address of this machine"]),
        ('[server]\nhost = ""', ['server.host = "": ', "must be an address of this machine"]),
        ("server = 3", ["server = 3: ", "must be a table: write [server] above its keys"]),
        ("receipt = 3", ["receipt = 3: ", "must be a table: write [receipt] above its keys"]),
        ("[storage]\noptions = 3", ["storage.options = 3: ", "write [storage.options] above its keys"]),
        (
            "[limits]\nhello_timeout_s = nan",
            ["limits.hello_timeout_s = nan: ", "seconds above 0, at most 3600"],
        ),
        ("[limits]\nhello_timeout_s = 0", ["limits.hello_timeout_s = 0: ", "seconds above 0, at most 3600"]),
        ("[limits]\nidle_timeout_s = inf", ["limits.idle_timeout_s = inf: ", "at most 86400"]),
        ("[limits]\nmax_frame_bytes = 1", ["limits.max_frame_bytes = 1: ", "65536 to 4294967295"]),
        ("[limits]\nmax_frame_bytes = 1.5", ["limits.max_frame_bytes = 1.5: ", "65536 to 4294967295"]),
        ("[limits]\nmax_connections = 0", ["limits.max_connections = 0: ", "1 to 10000000"]),
        ("[logging]\nlevel = 'loud'", ['logging.level = "loud": ', "debug, info, warning, error, critical"]),
        ("[logging]\nformat = 'xml'", ['logging.format = "xml": ', "auto, console, json"]),
        ("[topics]\nauto_create = 'yes'", ['topics.auto_create = "yes": ', "must be true or false"]),
        ("[topics]\nauto_creat = true", ["topics.auto_creat = true: ", "did you mean topics.auto_create?"]),
        ("[topics]\nretention = 3", ["topics.retention = 3: ", "write [topics.retention] above its keys"]),
        (
            "[topics.retention]\nage = 3",
            ["topics.retention.age = 3: ", "did you mean topics.retention.age_s?"],
        ),
        (
            "[topics.retention]\nbytes = -3",
            ["topics.retention.bytes = -3: ", "number of bytes, 0 for no limit"],
        ),
        (
            "[topics.retentoin]\nbytes = 3",
            ["topics.retentoin.bytes = 3: ", "did you mean [topics.retention]?"],
        ),
        ('[topics."a.b"]\nsize = 3', ['topics."a.b".size = 3: ', "takes partitions, retention"]),
        ('[topics."a.b"]\npartitions = 0', ['topics."a.b".partitions = 0: ', "partitions, 1 to 65536"]),
        (
            '[topics."a.b"]\nretention.x = 0',
            ['topics."a.b".retention.x = 0: ', "there are: bytes, age_s, count"],
        ),
        ('[topics."a.*"]', ['topics."a.*": ', "is a filter", "write its whole name"]),
        ('[topics."a b"]', ['topics."a b": ', "is not a topic name", "A-Z a-z 0-9 _ - joined by dots"]),
        (
            "[memory]\nmax_bytes = 2000000",
            ["memory.max_bytes = 2000000: ", "limits.max_frame_bytes, 8388608"],
        ),
        (
            "[limits]\nmax_raw_bytes = 70000",
            ["limits.max_raw_bytes = 70000: ", "limits.max_frame_bytes, 8388608"],
        ),
        (
            "[ring]\nvariant = 'dequ'",
            ['ring.variant = "dequ": ', "no ring named 'dequ'", "deque, ", "did you mean deque?"],
        ),
        ("[codec]\nvariant = 7", ["codec.variant = 7: ", "must be a variant's name"]),
        (
            "[storage]\nvariant = 'memory'\noptions.max_byte = 5",
            ["storage.options.max_byte = 5: ", "storage/memory has no such option; did you mean max_bytes?"],
        ),
        (
            "[storage]\nvariant = 'memory'\noptions.zzz = 5",
            ["storage.options.zzz = 5: ", "has no such option; it has: max_bytes: int = ", "coalesce_bytes"],
        ),
        (
            "[storage.options]\nmax_bytes = 'much'",
            ['storage.options.max_bytes = "much": ', "does not fit the option max_bytes: int = "],
        ),
        (
            "[codec.options]\nfast = true",
            ["codec.options.fast = true: ", "codec/cbor2 takes no options: remove it"],
        ),
    ],
)
def test_a_wrong_setting_is_named_with_its_fix(path: Path, text: str, parts: list[str]) -> None:
    said = complaint(path, text)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    for part in parts:
        assert part in said


def test_all_problems_are_told_at_once(path: Path) -> None:
    lines = complaint(path, "[server]\nprot = 1\nport = 70000\n[codec]\nvariant = 'x'\n").splitlines()
    assert [line.removeprefix(f"{path}: ").partition(" = ")[0] for line in lines] == [
        "server.prot",
        "server.port",
        "codec.variant",
    ]


@pytest.mark.parametrize(
    ("variable", "text", "parts"),
    [
        ("PORTASK_SERVER_PORT", "80x", ['server.port = "80x"', "must be a TCP port"]),
        ("PORTASK_SERVER_PROT", "80", ['server.prot = "80"', "did you mean PORTASK_SERVER_PORT?"]),
        ("PORTASK_SEVER_PORT", "80", ["no such section", "did you mean PORTASK_SERVER_PORT?"]),
        ("PORTASK_LIMITS_ZZZ", "1", ["limits.zzz", "there are: PORTASK_LIMITS_MAX_FRAME_BYTES, "]),
        ("PORTASK_CODEC_ZZZ", "1", ["codec.zzz", "PORTASK_CODEC_OPTIONS_<NAME>"]),
        ("PORTASK_TOPICS_RETENTION_AGE", "1", ["topics.retention_age", "PORTASK_TOPICS_RETENTION_AGE_S?"]),
        ("PORTASK_TOPICS_AUTO_CREATE", "maybe", ["topics.auto_create", "must be true or false"]),
        ("PORTASK_STORAGE_VARIANT", "diskette", ["storage.variant", "there is no storage named 'diskette'"]),
        ("PORTASK_STORAGE_OPTIONS_MAX_BYTES", "4x", ["storage.options.max_bytes", "max_bytes: int"]),
        ("PORTASK_STORAGE_OPTIONS_", "4", ["storage.options_", "no such setting"]),
        ("PORTASK_RECEIPT_RUN", "x", ["receipt", "stands in the file only"]),
        ("PORTASK_SERVER_SERVICE_HOST", "10.0.0.1", ["server.service_host", "enableServiceLinks"]),
    ],
)
def test_a_wrong_variable_is_named_with_its_fix(variable: str, text: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {variable: text})
    said = str(caught.value)
    assert said.startswith(f"environment variable {variable}: ")
    for part in parts:
        assert part in said


@pytest.mark.parametrize(
    ("key", "value", "parts"),
    [
        ("server.prot", 1, ["server.prot = 1", "did you mean server.port?"]),
        ("server.port", 70000, ["server.port = 70000", "must be a TCP port"]),
        ("srver.port", 1, ["srver.port = 1"]),
        ("receipt.x", 1, ["receipt.x = 1"]),
    ],
)
def test_a_wrong_override_is_named_with_its_fix(key: str, value: object, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {}, {key: value})
    said = str(caught.value)
    assert said.startswith("command line: ")
    for part in parts:
        assert part in said


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"a = '\xff'")
    broken = tmp_path / "broken"
    broken.write_text("[server\nport = 1")
    deep = tmp_path / "deep"
    deep.write_text("a = " + "[" * 100_000)
    for path, part in [
        (tmp_path / "missing", "no such file; give a TOML file, or none for the defaults"),
        (tmp_path, "cannot be read: Is a directory"),
        (binary, "byte 5 is not UTF-8"),
        (broken, "not TOML: "),
        (deep, "not a settings file: "),
        (Path("nul\0"), "cannot be read: "),
    ]:
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert part in str(caught.value)


def test_secrets_are_not_repeated(path: Path) -> None:
    said = complaint(path, '[server]\npasswort = "hunter2"\n[storage]\nurl = "redis://me:hunter2@host/0"\n')
    assert "hunter2" not in said
    assert "redis://…@host/0" in said


def test_long_values_are_shortened(path: Path) -> None:
    assert len(complaint(path, f'[server]\nhots = "{"x" * 10_000}"\n')) < 300


class Strange:
    """A variant as strangers write them."""

    def __init__(self, size: "int | Nonsense" = 4, *, notify: object = None, **others: object) -> None:  # type: ignore[name-defined]  # noqa: F821
        if others.get("size_class") == "huge":
            raise ValueError("huge is too much")
        self.given = (size, notify, others)


class Needy:
    def __init__(self, notify: object) -> None:
        raise TypeError("a bug of its own")


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    added = {
        ("pool", "strange"): Entry("pool", "strange", f"{__name__}:Strange", "takes anything"),
        ("pool", "needy"): Entry("pool", "needy", f"{__name__}:Needy", "fails"),
        ("pool", "absent"): Entry(
            "pool", "absent", "nowhere:X", "cannot be had", needs=("no_such_lib=no-such-lib",)
        ),
    }
    found, problems = registry._discover()
    monkeypatch.setattr(registry, "_discover", lambda: (found | added, problems))


@pytest.mark.usefixtures("strangers")
def test_a_variant_whose_library_is_missing_brings_the_pip_line(path: Path) -> None:
    said = complaint(path, '[pool]\nvariant = "absent"\noptions.x = 1\n')
    assert (
        said
        == f'{path}: pool.variant = "absent": cannot run here: needs no-such-lib: pip install no-such-lib'
    )


@pytest.mark.usefixtures("strangers")
def test_a_variant_that_takes_any_option_gets_them(path: Path) -> None:
    path.write_text('[pool]\nvariant = "strange"\noptions = {size = "?", other = [1, 2]}\n')
    chosen = load(path).pool
    assert chosen == Choice(
        "strange", {"size": "?", "other": [1, 2]}
    )  # its types do not resolve: names are checked
    made = make("pool", chosen, notify=print, wake=None)
    assert made.given == ("?", print, {"other": [1, 2]})


@pytest.mark.usefixtures("strangers")
def test_what_a_variant_refuses_is_the_settings_error_that_names_it() -> None:
    with pytest.raises(
        ConfigError, match=r'pool\.options: pool/strange refuses size_class = "huge": huge is too much'
    ):
        make("pool", Choice("strange", {"size_class": "huge"}))


@pytest.mark.usefixtures("strangers")
def test_a_bug_of_a_variant_is_not_blamed_on_the_settings() -> None:
    with pytest.raises(TypeError, match="a bug of its own"):
        make("pool", Choice("needy"), notify=None)
    with pytest.raises(UnknownVariant):
        make("pool", Choice("nobody"))


def test_where_the_default_storage_cannot_run_the_one_that_can_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("portask.storage.why_not", lambda: "needs a POSIX system")
    with pytest.raises(ConfigError) as caught:
        load()
    assert str(caught.value) == (
        'default: storage.variant = "segment-log": cannot run here: needs a POSIX system; '
        "or choose `--storage memory`, which keeps nothing"
    )
    assert load(None, {}, {"storage.variant": "memory"}).storage == Choice("memory")
