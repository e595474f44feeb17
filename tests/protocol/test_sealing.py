"""Seals: what was sealed for one place opens there and nowhere else, and no counter is accepted twice."""

from __future__ import annotations

from hashlib import sha256

import msgpack
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from cellnet.errors import RemoteProtocolError
from cellnet.protocol.sealing import KEY_BYTES, OVERHEAD, WINDOW, BrokenSeal, Seal, Window, open_content, seal_content

FORWARD, BACKWARD = bytes(range(32)), bytes(range(32, 64))
ENDS = msgpack.packb(["R1.C1", 5, "server", 7])
ASKER, ANSWERER = Seal(FORWARD, BACKWARD, ENDS), Seal(BACKWARD, FORWARD, ENDS)
KIND, SESSION, COUNTER = 32, 2**64 - 1, 9
BIGGEST = 2**64 - 1
SEALED = ASKER.seal(KIND, SESSION, COUNTER, b"weights")

counters = st.integers(0, BIGGEST)


# Seals


@given(st.integers(0, 255), counters, counters, st.binary(max_size=200))
def test_what_one_end_seals_the_other_opens(kind: int, session: int, counter: int, plain: bytes) -> None:
    for here, there in ((ASKER, ANSWERER), (ANSWERER, ASKER)):
        sealed = here.seal(kind, session, counter, plain)
        assert len(sealed) == len(plain) + OVERHEAD
        assert there.open(kind, session, counter, sealed) == plain


def test_another_implementation_finds_the_same_bytes() -> None:
    place = b"\x20" + SESSION.to_bytes(8, "big") + ENDS
    assert AESGCM(BACKWARD).encrypt(bytes(11) + b"\x09", b"weights", place) == ANSWERER.seal(32, SESSION, 9, b"weights")
    assert AESGCM(FORWARD).encrypt(bytes(11) + b"\x09", b"weights", place) == SEALED


@pytest.mark.parametrize(
    ("kind", "session", "counter"),
    [(KIND + 1, SESSION, COUNTER), (KIND, SESSION - 1, COUNTER), (KIND, SESSION, COUNTER + 1)],
    ids=["kind", "session", "counter"],
)
def test_a_seal_opens_at_no_other_place(kind: int, session: int, counter: int) -> None:
    with pytest.raises(BrokenSeal, match="sealed for another place"):
        ANSWERER.open(kind, session, counter, SEALED)
    assert ANSWERER.open(KIND, SESSION, COUNTER, SEALED) == b"weights"


@pytest.mark.parametrize("ends", [["R1.C2", 5, "server", 7], ["R1.C1", 6, "server", 7], ["server", 7, "R1.C1", 5]])
def test_a_seal_opens_between_no_other_cells_and_in_none_of_their_other_lives(ends: list[object]) -> None:
    with pytest.raises(BrokenSeal):
        Seal(BACKWARD, FORWARD, msgpack.packb(ends)).open(KIND, SESSION, COUNTER, SEALED)


def test_what_a_cell_sealed_is_not_believed_when_it_is_sent_back_to_it() -> None:
    with pytest.raises(BrokenSeal):
        ASKER.open(KIND, SESSION, COUNTER, SEALED)


def test_no_bit_may_be_flipped() -> None:
    for bit in range(len(SEALED) * 8):
        changed = bytearray(SEALED)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BrokenSeal):
            ANSWERER.open(KIND, SESSION, COUNTER, bytes(changed))


def test_nothing_shorter_opens() -> None:
    for size in range(len(SEALED)):
        with pytest.raises(BrokenSeal):
            ANSWERER.open(KIND, SESSION, COUNTER, SEALED[:size])


@given(st.binary(max_size=64))
def test_what_anybody_makes_up_does_not_open(sealed: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        ANSWERER.open(KIND, SESSION, COUNTER, sealed)


# The window


class SlowWindow:
    """What a window does, at any cost."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def accept(self, counter: int) -> bool:
        if counter in self.seen or counter <= max(self.seen, default=0) - WINDOW:
            return False
        self.seen.add(counter)
        return True


steps = st.one_of(
    st.integers(-3, 3),
    st.integers(-2 * WINDOW, 2 * WINDOW),
    st.sampled_from([WINDOW - 1, WINDOW, WINDOW + 1, -WINDOW - 1, -WINDOW, -WINDOW + 1]),
    st.integers(0, 2**63),
)


@given(st.lists(steps, max_size=100))
def test_a_window_accepts_each_counter_once(walk: list[int]) -> None:
    window, model, counter = Window(), SlowWindow(), 0
    for step in walk:
        counter = min(BIGGEST, max(0, counter + step))
        assert window.accept(counter) == model.accept(counter), counter
        assert window._seen.bit_length() <= WINDOW


@given(st.permutations(range(60)))
def test_a_window_does_not_care_about_order(order: list[int]) -> None:
    window = Window()
    assert all(window.accept(counter) for counter in order)
    assert not any(window.accept(counter) for counter in order)


def test_a_counter_is_told_apart_as_long_as_it_is_within_the_last_4096() -> None:
    window = Window()
    assert window.accept(10_000 + 4096)
    assert window.accept(10_001)
    assert not window.accept(10_001)
    assert not window.accept(10_000)


def test_a_window_stays_small_whatever_a_peer_counts() -> None:
    window = Window()
    assert window.accept(1)
    assert window.accept(BIGGEST)
    assert window._seen == 1
    assert not window.accept(BIGGEST)
    assert not window.accept(1)


# Broadcasts


KEY = bytes(range(100, 132))


@given(st.binary(max_size=300))
def test_the_content_of_a_broadcast_opens_with_its_key_and_digest(content: bytes) -> None:
    sealed, digest = seal_content(content, KEY)
    assert digest == sha256(sealed).digest()
    assert open_content(sealed, KEY, digest) == content
    assert sealed == AESGCM(KEY).encrypt(bytes(12), content, None)


def test_a_receiver_cannot_seal_other_content_for_another_receiver() -> None:
    _, digest = seal_content(b"stop at 0.9", KEY)
    forged, _ = seal_content(b"never stop", KEY)
    with pytest.raises(BrokenSeal, match="not the one that its sender told of"):
        open_content(forged, KEY, digest)


@pytest.mark.parametrize("digest", [b"", bytes(32), sha256(b"").digest()])
def test_content_of_another_digest_is_refused_before_it_is_decrypted(
    digest: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed, _ = seal_content(b"stop", KEY)
    monkeypatch.delattr("cellnet.protocol.sealing.AESGCM")
    with pytest.raises(BrokenSeal, match="not the one"):
        open_content(sealed, KEY, digest)


@pytest.mark.parametrize("sealed", [b"", bytes(15), bytes(16), bytes(99)])
def test_content_that_the_key_does_not_open_is_refused_although_its_digest_is_right(sealed: bytes) -> None:
    with pytest.raises(BrokenSeal, match="does not open"):
        open_content(sealed, KEY, sha256(sealed).digest())


@pytest.mark.parametrize("size", [0, 16, 24, KEY_BYTES - 1, KEY_BYTES + 1])
def test_a_key_of_another_size_is_refused_also_if_the_cipher_knows_it(size: int) -> None:
    sealed, digest = seal_content(b"stop", KEY)
    with pytest.raises(RemoteProtocolError, match=f"has {size} bytes"):
        open_content(sealed, bytes(size), digest)
