"""Trained dictionaries: what they gain on real messages, and how a wrong or missing one is told."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import zstandard

from portask.errors import BatchCorrupt, ConfigError, UnknownCompression
from portask.messages import Buffer
from portask.wire.compression import Dictionaries, attributes_for, decompress
from portask_lab.corpora.load import load
from portask_variants.compression.always import Always
from portask_variants.compression.dictionary import MIN_SIZE, Dictionary, train

SAMPLES = [b'{"id":%d,"kind":"created","customer":"c-%d","ok":true}' % (i * 7919, i % 50) for i in range(500)]
BATCH = b'{"id":42,"kind":"created","customer":"c-9","ok":true}'


@pytest.fixture(scope="module")
def trained() -> Dictionary:
    return Dictionary(samples=SAMPLES, size=2048, id=7)


@pytest.mark.parametrize("corpus", ["flights", "weather", "webhooks"])
@pytest.mark.parametrize("records", [1, 3])
def test_small_batches_of_real_messages_gain(corpus: str, records: int) -> None:
    payloads = load(corpus, limit=2000).payloads
    half = len(payloads) // 2
    with_one = Dictionary(samples=payloads[:half])
    without = Always(level=3)
    rest = payloads[half:]
    raw = packed = plain = 0
    for start in range(0, min(len(rest), 300) - records, records):
        batch = b"".join(rest[start : start + records])
        raw += len(batch)
        for strategy in (with_one, without):
            result = strategy.pack(batch, 0.0)
            size = len(batch) if result is None else len(result.data)
            if strategy is with_one:
                packed += size
            else:
                plain += size
    assert packed < 0.9 * plain, f"ratio {raw / packed:.2f} with a dictionary, {raw / plain:.2f} without"


def test_readers_need_the_dictionary(trained: Dictionary) -> None:
    packed = trained.pack(BATCH, 0.0)
    assert packed is not None
    attributes = attributes_for(packed.algorithm, packed.dictionary)
    assert packed.dictionary == 7
    assert decompress(attributes, packed.data, len(BATCH), trained.dictionaries) == BATCH
    for none in (None, Dictionaries(), Dictionaries({8: trained.dictionaries[7]})):
        with pytest.raises(UnknownCompression, match=r"needs dictionary 7 .*\{7: path\}"):
            decompress(attributes, packed.data, len(BATCH), none)


def test_another_dictionary_under_the_same_id_is_told(trained: Dictionary) -> None:
    packed = trained.pack(BATCH, 0.0)
    assert packed is not None
    other = train([sample[::-1] for sample in SAMPLES], 2048, 7)
    assert other.own_number(7) != trained.dictionaries.own_number(7)
    with pytest.raises(UnknownCompression, match=f"{trained.dictionaries.own_number(7)}.*same id, different"):
        decompress(attributes_for(1, 7), packed.data, len(BATCH), other)


def test_a_frame_without_its_dictionary_is_told(trained: Dictionary) -> None:
    plain = zstandard.compress(BATCH * 3)
    with pytest.raises(UnknownCompression):
        decompress(attributes_for(1, 7), plain, 3 * len(BATCH), trained.dictionaries)


def test_damage_and_lies_are_corrupt(trained: Dictionary) -> None:
    packed = trained.pack(BATCH, 0.0)
    assert packed is not None
    attributes = attributes_for(1, 7)
    data = bytes(packed.data)
    for cut in range(len(data)):
        with pytest.raises(BatchCorrupt):
            decompress(attributes, data[:cut], len(BATCH), trained.dictionaries)
    for length in (1, len(BATCH) - 1, len(BATCH) + 1):
        with pytest.raises(BatchCorrupt):
            decompress(attributes, data, length, trained.dictionaries)
    with pytest.raises(BatchCorrupt):
        decompress(attributes, data + b"x", len(BATCH), trained.dictionaries)


def test_file_bytes_and_samples_make_the_same(tmp_path: Path) -> None:
    dictionaries = train(SAMPLES, 2048, 3)
    path = tmp_path / "events.dict"
    path.write_bytes(dictionaries[3])
    made = [
        Dictionary(path, id=3),
        Dictionary(str(path), id=3),
        Dictionary(dictionaries[3], id=3),
        Dictionary(samples=SAMPLES, size=2048, id=3),
    ]
    assert len({bytes(packed.data) for one in made if (packed := one.pack(BATCH, 0.0))}) == 1
    assert Dictionaries.from_files({3: path})[3] == dictionaries[3]


def test_training_is_deterministic_and_keeps_to_the_size() -> None:
    for size in (MIN_SIZE, 1000, 4096):
        first, second = train(SAMPLES, size), train(SAMPLES, size)
        assert first[1] == second[1]
        assert len(first[1]) <= size
        assert list(first) == [1]


def test_training_takes_a_share_of_many_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = zstandard.train_dictionary

    def spy(size: int, samples: list[Buffer]) -> zstandard.ZstdCompressionDict:
        seen.append(sum(map(len, samples)))
        return real(size, samples)

    monkeypatch.setattr("portask_variants.compression.dictionary.TRAINING_BYTES", 10_000)
    monkeypatch.setattr("zstandard.train_dictionary", spy)
    train(SAMPLES, 512)
    assert 5_000 <= seen[0] <= 10_000


def test_neither_or_both_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"needs `dictionary` .*zstd --train.* `samples`"):
        Dictionary()
    with pytest.raises(ConfigError, match="or else"):
        Dictionary(b"", samples=SAMPLES)


@pytest.mark.parametrize("samples", [[], [b"a"], [b""] * 100, [b"same"] * 7, SAMPLES[:3]])
def test_too_little_to_train_on(samples: list[bytes]) -> None:
    with pytest.raises(ConfigError, match=r"samples with [\d,]+ bytes"):
        train(samples, 16384)


def test_a_size_that_is_none() -> None:
    with pytest.raises(ConfigError, match="at least 256"):
        train(SAMPLES, 100)


@pytest.mark.parametrize("number", [0, 256, -1])
def test_ids_are_1_to_255(number: int, trained: Dictionary) -> None:
    with pytest.raises(ConfigError, match="ids are 1 to 255"):
        Dictionaries({number: trained.dictionaries[7]})


@pytest.mark.parametrize(
    "data", [b"", b"\x37\xa4\x30\xec", b"just some text, no dictionary at all", bytes(500)]
)
def test_bytes_that_are_no_dictionary(data: bytes) -> None:
    with pytest.raises(ConfigError, match=r"dictionary 1: .*`zstd --train`"):
        Dictionaries({1: data})


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dictionary 5: cannot read .*gone.dict: No such file"):
        Dictionaries.from_files({5: tmp_path / "gone.dict"})


def test_a_damaged_dictionary() -> None:
    damaged = struct.pack("<II", 0xEC30A437, 4711) + b"\xff" * 300
    with pytest.raises(ConfigError, match="damaged"):
        Dictionary(damaged)
    frame = Dictionary(samples=SAMPLES, size=1024).pack(BATCH, 0.0)
    assert frame is not None
    own = Dictionaries({1: damaged}).own_number(1)
    forged = bytearray(frame.data)
    forged[5:9] = struct.pack("<I", own)
    with pytest.raises(UnknownCompression, match=r"dictionary 1 .*damaged"):
        decompress(attributes_for(1, 1), forged, len(BATCH), Dictionaries({1: damaged}))
