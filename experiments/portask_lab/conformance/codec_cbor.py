"""Wire id 1, byte by byte: the reference's output, the examples of RFC 8949, and what other encoders may write."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from portask import registry
from portask.messages import Message
from portask.registry import Entry
from portask_lab.conformance.codec_support import (
    BASE,
    SLACK,
    decoded,
    expected,
    made_for_cbor,
    make,
    peak_memory,
    require_refusal,
    shapes,
)
from portask_lab.conformance.suite import Check, Violation, check, require

SUITE: list[Check] = []

INTEGERS = {0: "00", 1: "01", 10: "0a", 23: "17", 24: "1818", 25: "1819", 100: "1864", 1000: "1903e8",
            1000000: "1a000f4240", 1000000000000: "1b000000e8d4a51000", 18446744073709551615: "1bffffffffffffffff",
            -18446744073709551616: "3b" + 8 * "ff", -1: "20", -10: "29", -100: "3863", -1000: "3903e7"}  # fmt: skip
"""RFC 8949 Appendix A, integers."""
BYTE_STRINGS = {b"": "40", b"\x01\x02\x03\x04": "4401020304"}
"""RFC 8949 Appendix A, byte strings."""
TEXT_STRINGS = {"": "60", "a": "6161", "IETF": "6449455446", '"\\': "62225c", "\u00fc": "62c3bc", "\u6c34": "63e6b0b4",
                "\U00010151": "64f0908591"}  # fmt: skip
"""RFC 8949 Appendix A, text strings."""
INDEFINITE = {b"\x01\x02\x03\x04\x05": "5f42010243030405ff", "streaming": "7f657374726561646d696e67ff"}
"""RFC 8949 Appendix A, indefinite-length strings."""
LETTERS = ({"a": "A", "b": "B", "c": "C", "d": "D", "e": "E"}, "a56161614161626142616361436164614461656145")
"""RFC 8949 Appendix A, a map of text to text."""
NOT_CARRIED = (
    "f4", "f5", "f7", "f0", "f8ff", "f90000", "f93c00", "f97e00", "fa47c35000", "fb3ff199999999999a",
    "c249010000000000000000", "c349010000000000000000", "c11a514b67b0", "d74401020304", "d818456449455446",
    "c074323031332d30332d32315432303a30343a30305a", "d82076687474703a2f2f7777772e6578616d706c652e636f6d",
    "80", "83010203", "8301820203820405", "a201020304", "a26161016162820203", "826161a161626163",
    "9fff", "9f018202039f0405ffff", "bf61610161629f0203ffff",
)  # fmt: skip
"""RFC 8949 Appendix A, items of types that no place in a record holds."""


def record_of(delta: str = "00", key: str = "f6", headers: str = "f6", payload: str = "40") -> bytes:
    """A record whose items are given in hexadecimal; the smallest one unless told."""
    return bytes.fromhex("84" + delta + key + headers + payload)


@check(SUITE)
def encodes_like_the_reference(entry: Entry) -> None:
    """Wire id 1: the bytes are the reference's, for every shape and size."""
    codec = made_for_cbor(entry)
    name = registry.REFERENCE_NAMES["codec"]
    reference = make(registry.get("codec", name))
    sized = [
        Message(bytes(size), timestamp=BASE + 40 * size)
        for size in (*range(300), 4_095, 4_096, 65_535, 65_536)
    ]
    negative = [Message(b"", bytes(n), {"k" * n: "v" * n}, timestamp=BASE - n * n * n) for n in range(300)]
    for messages in (shapes(), sized, negative):
        want, got = bytes(reference.encode(messages, BASE)), bytes(codec.encode(messages, BASE))
        if want != got:
            at = next(
                i for i, pair in enumerate(zip(want + b"\0", got + b"\0", strict=False)) if pair[0] != pair[1]
            )
            raise Violation(
                f"at byte {at}: {got[at : at + 20].hex()}, and {name} writes {want[at : at + 20].hex()}"
            )


@check(SUITE)
def rfc_8949_appendix_a(entry: Entry) -> None:
    """Wire id 1: the examples of RFC 8949 Appendix A, in every place of a record that holds their type."""
    codec = made_for_cbor(entry)
    cases: list[tuple[Message, bytes]] = []
    for number, item in INTEGERS.items():
        cases.append((Message(b"", timestamp=BASE + number), record_of(delta=item)))
    for data, item in BYTE_STRINGS.items():
        cases.append((Message(data, data, {"a": data}), record_of("00", item, "a16161" + item, item)))
    for text, item in TEXT_STRINGS.items():
        cases.append((Message(b"", headers={text: text}), record_of(headers="a1" + item + item)))
    cases.append((Message(b"", headers=LETTERS[0]), record_of(headers=LETTERS[1])))
    for message, record in cases:
        got = bytes(codec.encode([message], BASE))
        require(got == record, f"{message!r} is {got.hex()}, not {record.hex()}")
        require(
            decoded(codec, record, 1) == [expected(message)], f"{record.hex()} is not read as {message!r}"
        )
    for item in NOT_CARRIED:
        for place in ("delta", "key", "payload", "headers"):
            require_refusal(codec, record_of(**{place: item}), 1, f"{item} as {place}")
        require_refusal(codec, record_of(headers="a16161" + item), 1, f"{item} as a header's value")
        require_refusal(codec, record_of(headers="a1" + item + "6161"), 1, f"{item} as a header's name")
        require_refusal(codec, bytes.fromhex(item), 1, f"{item} in place of a record")


@check(SUITE)
def accepts_longer_and_indefinite_forms(entry: Entry) -> None:
    """Wire id 1: what a streaming or a careless encoder writes is read: long heads, indefinite lengths, empty map."""
    codec = made_for_cbor(entry)
    plain = Message(b"ab", b"k", {"n": "v"}, BASE + 5)
    heads: dict[str, Sequence[str]] = {
        "delta": ("05", "1805", "190005", "1a00000005", "1b0000000000000005"),
        "key": ("416b", "58016b", "5900016b", "5a000000016b", "5b00000000000000016b", "5f416bff", "5f40416b40ff"),
        "headers": ("a1616e6176", "b801616e6176", "b90001616e6176", "ba00000001616e6176", "bb0000000000000001616e6176",
                    "bf616e6176ff", "a17801" + "6e7a0000000176", "a17f616eff7f60617660ff",
                    "a2616e41ff616e6176"),
        "payload": ("426162", "58026162", "5900026162", "5a000000026162", "5b00000000000000026162", "5f426162ff",
                    "5f4161404162ff", "5f58016159000162ff"),
    }  # fmt: skip
    shortest = {place: forms[0] for place, forms in heads.items()}
    for place, forms in heads.items():
        for form in forms:
            record = record_of(**{**shortest, place: form})
            require(
                decoded(codec, record, 1) == [plain],
                f"{record.hex()}, with {form} as {place}, is read differently",
            )
            longer = b"\x9f" + record[1:] + b"\xff"
            require(
                decoded(codec, longer, 1) == [plain],
                f"{longer.hex()}, an indefinite array, is read differently",
            )
            for head in ("9804", "990004", "9a00000004", "9b0000000000000004"):
                require(
                    decoded(codec, bytes.fromhex(head) + record[1:], 1) == [plain],
                    f"the array head {head} is not read",
                )
            mixed = record_of() + record + record_of(payload="5818" + "61" * 24) + longer
            require(decoded(codec, mixed, 4)[1] == plain, f"{form} as {place} is lost among other records")
    for empty in ("a0", "b800", "bfff"):
        require(
            decoded(codec, record_of(headers=empty), 1)[0].headers is None,
            f"the empty map {empty} is not None",
        )


@check(SUITE)
def refuses_malformed_cbor(entry: Entry) -> None:
    """Wire id 1: reserved heads, strings cut inside a character, lost breaks and other shapes are CodecErrors."""
    codec = made_for_cbor(entry)
    for item in ("1c", "1d", "1e", "1f", "3c", "3f", "5c", "5d", "5e", "ff", "fc", "f815"):
        for place in ("delta", "key", "headers", "payload"):
            require_refusal(codec, record_of(**{place: item}) + bytes(24), 1, f"{item} as {place}")
    for text in (
        "62c328",
        "61ff",
        "63eda080",
        "7f61c361bcff",
        "7f6261ffff",
        "7f4161ff",
        "7f7f6161ffff",
        "64f4908080",
    ):
        require_refusal(codec, record_of(headers="a1" + text + "6161"), 1, f"{text} as a header's name")
        require_refusal(codec, record_of(headers="a16161" + text), 1, f"{text} as a header's value")
    for data in ("5f6161ff", "5f5f4161ffff", "5f00ff", "5f4161", "6161", "5f4161f6ff"):
        require_refusal(codec, record_of(payload=data), 1, f"{data} as the payload")
        require_refusal(codec, record_of(key=data), 1, f"{data} as the key")
    for whole in ("8300f6f6", "8500f6f64000", "8400f6f6", "9f00f6f6ff", "9f00f6f64000ff", "9f00f6f640", "a0", "40",
                  "00", "f6", "a400f6f6f6f6f640f6", "84f600f640", "8400f6bf6161ff40", "d9d9f78400f6f640"):  # fmt: skip
        require_refusal(codec, bytes.fromhex(whole), 1, f"{whole} in place of a record")


@check(SUITE)
def refuses_announced_giants(entry: Entry) -> None:
    """Wire id 1: lengths that are not there, and bottomless nesting, cost neither memory nor the stack."""
    codec = made_for_cbor(entry)
    bodies: list[bytes] = []
    for info, size in ((26, "7fffffff"), (27, "0000010000000000"), (27, "ff" * 8)):
        byte_string, text, array, pairs = (f"{major << 5 | info:02x}{size}" for major in (2, 3, 4, 5))
        bodies += (
            record_of(key=byte_string),
            record_of(payload=byte_string),
            record_of(payload="5f" + byte_string),
        )
        bodies += (record_of(headers="a1" + text), record_of(headers=pairs), bytes.fromhex(array))
    bodies = [body + bytes(100) for body in bodies]
    for opening in (b"\x81", b"\x9f", b"\xa1", b"\xbf", b"\xc1", b"\x5f", b"\x7f", b"\xd9\xd9\xf7", b"\x84"):
        bodies += (before + opening * 50_000 for before in (b"", b"\x84\x00\xf6", b"\x84\x00\xf6\xa1\x61a"))
    for body in bodies:
        taken = peak_memory(partial(require_refusal, codec, body, 1, body[:16].hex()))
        require(
            taken < SLACK + 4 * len(body), f"{body[:16].hex()}… took {taken} bytes of memory for {len(body)}"
        )
