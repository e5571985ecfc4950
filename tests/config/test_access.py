"""[auth] and [tls]: what can be said, what cannot be said together, and what is never shown."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portask import registry
from portask.config import changes, load, resolve, tokens
from portask.config.access import ACTIONS, IdentityLimits, Rule, is_loopback
from portask.config.live import live
from portask.config.schema import redact, show
from portask.core.topics import check_filter
from portask.errors import ConfigError, InvalidTopic
from portask.registry import Entry

HASH = tokens.hash_line(tokens.mint("orders"))
OTHER = tokens.hash_line(tokens.mint("orders"))
TLS = '[tls]\ncertificate = "c.pem"\nclient_ca = "ca.pem"\n'

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(text: str) -> Path:
        path = tmp_path / "portask.toml"
        path.write_text(text)
        return path

    return to_file


def complaint(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return str(caught.value)


def test_a_file_with_everything(write: Write) -> None:
    settings = load(
        write(f"""
        [server]
        host = "0.0.0.0"
        [tls]
        certificate = "broker.pem"
        key = "broker.key"
        client_ca = "ca.pem"
        require_client_certificate = true
        minimum_version = "1.3"
        [limits]
        max_published_per_s = 1000
        max_published_bytes_per_s = 1_000_000
        [auth.limits]
        max_connections = 10
        max_unacked_bytes = 1_000_000
        [auth.identities.orders]
        token_hash = ["{HASH}", "{OTHER}"]
        certificate = ["CN:orders", "DNS:orders.example", "URI:spiffe://example/orders", "EMAIL:o@example.org"]
        allow = [
            {{action = ["publish", "create"], filter = "orders.>"}},
            {{action = "*", filter = "orders.*.retry"}},
        ]
        limits.max_connections = 2
        [auth.identities.nobody]
        """)
    )
    assert settings.tls.on
    assert (settings.tls.client_ca, settings.tls.minimum_version) == ("ca.pem", "1.3")
    assert settings.limits.max_published_per_s == 1000
    assert settings.auth.required
    orders, nobody = settings.auth.identities["orders"], settings.auth.identities["nobody"]
    assert orders.token_hash == (HASH, OTHER)
    assert orders.certificate[2] == "URI:spiffe://example/orders"
    assert orders.allow[0] == Rule(["publish", "create"], "orders.>")
    assert orders.allow[1].actions == ACTIONS
    assert orders.limits == IdentityLimits(max_connections=2, max_unacked_bytes=1_000_000)
    assert nobody.allow == ()
    assert nobody.limits == IdentityLimits(max_connections=10, max_unacked_bytes=1_000_000)


def test_who_says_nothing_about_it_asks_nobody_and_listens_here() -> None:
    settings = load()
    assert not settings.auth.on
    assert not settings.tls.on
    assert is_loopback(settings.server.host)


@pytest.mark.parametrize("text", ["[auth]", "[auth.identities]", "[auth.limits]\nmax_connections = 1"])
def test_an_auth_table_asks_everybody_whatever_is_in_it(write: Write, text: str) -> None:
    assert load(write(text)).auth.required


def test_every_value_has_a_source(write: Write) -> None:
    path = write(
        "[auth.limits]\nmax_connections = 1\n[auth.identities.a]\nallow = []\nlimits.max_subscriptions = 2\n"
    )
    loaded = resolve(path, {"PORTASK_AUTH_LIMITS_MAX_UNACKED_BYTES": "5"})
    assert loaded.sources.keys() == loaded.settings.flat().keys()
    assert loaded.sources["auth.required"] == str(path)
    assert loaded.sources["auth.identities.a.limits.max_connections"] == str(path)
    assert loaded.sources["auth.identities.a.limits.max_published_per_s"] == "default"
    assert loaded.sources["auth.identities.a.limits.max_unacked_bytes"].startswith("environment variable")
    assert loaded.settings.auth.identities["a"].limits == IdentityLimits(
        max_connections=1, max_subscriptions=2, max_unacked_bytes=5
    )


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[auth]\nrequire = true", ["auth.require = true: ", "did you mean auth.required?"]),
        ("auth = 3", ["auth = 3: ", "write [auth] above its keys"]),
        ("[auth]\nidentities = 3", ["auth.identities = 3: ", "write [auth.identities] above its keys"]),
        (
            "[auth.identities]\na = 3",
            ["auth.identities.a = 3: ", "write [auth.identities.a] above its keys"],
        ),
        ("[auth]\nlimits = 3", ["auth.limits = 3: ", "write [auth.limits] above its keys"]),
        (
            "[auth.limits]\nmax_connection = 3",
            ["auth.limits.max_connection = 3: ", "auth.limits.max_connections?"],
        ),
        ("[auth.limits]\nmax_connections = -3", ["auth.limits.max_connections = -3: ", "0 for no limit"]),
        ('[auth.identities."a b"]', ['auth.identities."a b": ', "1 to 64 of A-Z a-z 0-9 _ -"]),
        ("[auth.identities.anonymous]", ["auth.identities.anonymous: ", "set auth.anonymous"]),
        ("[auth.identities.a]\nallows = []", ["auth.identities.a.allows = []: ", "auth.identities.a.allow?"]),
        ("[auth.identities.a]\nallow = 3", ["auth.identities.a.allow = 3: ", "a list of rules like {action"]),
        (
            "[auth.identities.a]\nallow = [{action = 'fly', filter = 'a'}]",
            ['allow = [{action = "fly", ', "publish, create, subscribe, describe, group, drop_group, and *"],
        ),
        (
            "[auth.identities.a]\nallow = [{action = 'publish', filter = 'a..b'}]",
            ["auth.identities.a.allow", "> for the rest"],
        ),
        ("[auth.identities.a]\nallow = [{action = 'publish'}]", ["a list of rules like"]),
        (
            "[auth.identities.a]\nallow = [{action = 'publish', filter = 'a', deny = true}]",
            ["a list of rules like"],
        ),
        ("[auth.identities.a]\ncertificate = ['orders']", ["CN:…, DNS:…, URI:… or EMAIL:…"]),
        ("[auth.identities.a]\ncertificate = ['CN:a']", ["auth.identities.a.certificate", "tls.client_ca"]),
        ("[auth.identities.a]\nlimits.x = 1", ["auth.identities.a.limits.x = 1: ", "there are: max_conn"]),
        (
            "[auth]\nrequired = true\nanonymous = [{action = 'subscribe', filter = 'a'}]",
            ["auth.anonymous = [", "remove it, or say auth.required = false"],
        ),
        (
            "[auth]\nrequired = false\n[auth.identities.a]",
            ["auth.required = false: ", "say in auth.anonymous what those may do"],
        ),
        ("[tls]\nkey = 'k.pem'", ['tls.key = "k.pem": ', "without tls.certificate"]),
        ("[tls]\nminimum_version = '1.1'", ['tls.minimum_version = "1.1": ', '"1.2" or "1.3"']),
        (
            "[tls]\ncertificate = 'c.pem'\nrequire_client_certificate = true",
            ["tls.require_client_certificate = true: ", "needs tls.client_ca"],
        ),
        ("[server]\ninsecure = 'yes'", ['server.insecure = "yes": ', '"no encryption" or "anyone may conn']),
    ],
)
def test_a_wrong_setting_is_named_with_its_fix(write: Write, text: str, parts: list[str]) -> None:
    said = complaint(write(text))
    assert "\n" not in said
    for part in parts:
        assert part in said


@pytest.mark.parametrize("name", ["token_hash", "certificate"])
def test_what_lets_one_in_lets_in_no_other(write: Write, name: str) -> None:
    shown = f'["{HASH}"]' if name == "token_hash" else '["DNS:A.example"]'
    again = shown.replace("A.", "a.")
    said = complaint(
        write(f"{TLS}[auth.identities.a]\n{name} = {shown}\n[auth.identities.b]\n{name} = {again}")
    )
    assert f"auth.identities.b.{name} = " in said
    assert "also that of a: one identity each" in said
    assert HASH not in said


# ── beyond loopback ───────────────────────────────────────────────────────────────────────────────────────────────────

AUTH = "[auth.identities.a]\n"
OPEN = "[auth]\nrequired = false\nanonymous = [{action = 'subscribe', filter = 'public.>'}]\n"
CERTIFIED = f"{TLS}require_client_certificate = true\n"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost", "LOCALHOST."])
def test_on_loopback_nothing_is_asked_for(write: Write, host: str) -> None:
    assert load(write(f"[server]\nhost = '{host}'")).server.host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "broker.example", "localhost.example", "::2"])
@pytest.mark.parametrize(
    ("insecure", "rest", "missing"),
    [
        ("", "", "anyone may connect"),
        ("", "[tls]\ncertificate = 'c.pem'\n", "anyone may connect"),
        ("no encryption", "", "anyone may connect"),
        ("", AUTH, "no encryption"),
        ("", OPEN, "no encryption"),
    ],
)
def test_beyond_loopback_what_is_missing_has_to_be_said_in_words(
    write: Write, host: str, insecure: str, rest: str, missing: str
) -> None:
    said = complaint(write(f"[server]\nhost = '{host}'\ninsecure = '{insecure}'\n{rest}"))
    assert f'server.host = "{host}": ' in said
    assert f'or say server.insecure = "{missing}"' in said
    assert load(write(f"[server]\nhost = '{host}'\ninsecure = '{missing}'\n{rest}")).server.host == host


@pytest.mark.parametrize("rest", [TLS + AUTH, TLS + OPEN, CERTIFIED])
def test_who_asks_and_encrypts_may_listen_anywhere(write: Write, rest: str) -> None:
    assert load(write(f"[server]\nhost = '0.0.0.0'\n{rest}")).tls.on


def test_a_server_without_tls_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Entry(
        "server", "plain", "portask.server.asyncio_streams:StreamsServer", "the reference without TLS"
    )
    entry, known = registry.get, registry.entries
    monkeypatch.setattr(
        registry, "get", lambda family, name: plain if name == "plain" else entry(family, name)
    )
    said = complaint(write(f"[server]\nvariant = 'plain'\n{TLS}"))
    able = [each.name for each in known("server") if "tls" in each.capabilities]
    assert (
        f'server.variant = "plain": the server plain has no TLS: choose one that has, {", ".join(able)}'
        in said
    )
    assert load(write("[server]\nvariant = 'plain'")).server.variant == "plain"


# ── reading again ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_identities_and_certificates_are_taken_over_and_turning_tls_on_is_not(write: Write) -> None:
    old = load(write(f'{TLS}[auth.identities.a]\ntoken_hash = ["{HASH}"]'))
    new = load(write(f'{TLS}key = "k.pem"\n[auth.identities.b]\ntoken_hash = ["{HASH}"]'))
    applied, needs_restart = changes(old, new)
    assert needs_restart == []
    assert {"tls.key", "auth.identities.a.token_hash", "auth.identities.b.token_hash"} <= {
        change.key for change in applied
    }
    assert not any(HASH in str(change) for change in applied)
    plain = load(write("[auth.identities.b]"))
    assert "tls.certificate" in {change.key for change in changes(new, plain)[1]}
    assert live(new, plain).tls == new.tls
    assert live(plain, new).tls == plain.tls


# ── secrets ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_token_says_whose_it_is_and_nothing_else_has_its_form() -> None:
    token = tokens.mint("a_b-c")
    assert tokens.identity_of(token) == "a_b-c"
    assert tokens.parse_hash(tokens.hash_line(token)) == tokens.digest(token)
    assert tokens.mint("a") != tokens.mint("a")
    for wrong in ("", "hunter2", token[:-1], token + "\n", token.replace("portask", "Portask"), "é" * 60):
        assert tokens.identity_of(wrong) is None


@given(st.from_regex(tokens.IDENTITY, fullmatch=True), st.text(max_size=5), st.text(max_size=5))
def test_a_token_is_hidden_wherever_it_stands(name: str, before: str, after: str) -> None:
    token = tokens.mint(name)
    for text in (f"{before}{token}{after}", f"{token}{token}", f"{name}{token}_{name}"):
        assert token[-40:] not in tokens.hide(text)
        assert token[-40:] not in show("server.host", text, whole=True)
        assert token[-40:] not in str(redact({"a": [{"b": text}]}))
    assert tokens.hide(f"{before}portask_variants{after}") == f"{before}portask_variants{after}"


@pytest.mark.parametrize(
    "text",
    [
        '[auth.identities.a]\ntoken = "{}"',
        '[auth.identities.a]\ntoken_hash = "{}"',
        '[auth.identities.a]\ntoken_hash = ["{}"]',
        '[auth.identities.a]\ncertificate = ["{}"]',
        '[auth]\nx = "{}"',
        "[auth.identities]\n{} = 3",
        "[auth.identities.{}]\nx = 3",
        "[{}]\nx = 3",
        '[server]\nhost = "{}"',
    ],
)
def test_a_token_in_the_wrong_place_is_not_repeated(write: Write, text: str) -> None:
    token = tokens.mint("orders")
    assert token[-40:] not in complaint(write(text.replace("{}", token)))


def test_the_pattern_of_a_filter_is_the_one_of_topics() -> None:
    for text in ("a", "a.*", ">", "a.>", "*.*", "a.b-c_D.0", "_inbox.>", "a" * 255):
        assert check_filter(text)
        assert rule(text).filter == text
    for text in ("", ".", "a.", ">.a", "a b", "a.b>", "**", "ä", "a\n", "a" * 256):
        with pytest.raises(InvalidTopic):
            check_filter(text)
        with pytest.raises(msgspec.ValidationError):
            rule(text)


def rule(text: str) -> Rule:
    return msgspec.convert({"action": "publish", "filter": text}, Rule)
