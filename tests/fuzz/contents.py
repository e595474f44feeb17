"""Targets: what a message says of a payload that is elsewhere, and the records that it comes as."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cellnet.contents import Reference
from cellnet.errors import RemoteProtocolError
from cellnet.protocol.chunks import MIN_CHUNK_BYTES, Listing, Verifier
from cellnet.protocol.frames import FRAME_BYTES, pack
from cellnet.protocol.offer import Held
from cellnet.protocol.records import TEXT_BYTES, Opener, seal_record
from cellnet.protocol.sealing import OVERHEAD
from tests.fuzz.mutation import vary_packed
from tests.fuzz.target import Target
from tests.protocol.test_fuzz import mutate

if TYPE_CHECKING:
    import random

    from tests.fuzz.target import Lab

__all__ = ["lists", "objects", "records", "references", "sealed_records"]

KEY = bytes(range(32))
TEXTS = (b"a text", bytes(300), b"")


def references(_lab: Lab) -> Target:
    valid = pack(3, 1 << 40, bytes(16), KEY), pack(1, 65537, bytes(range(16)), b""), pack(1, 70_000, KEY, KEY)

    def make(rng: random.Random) -> bytes:
        return vary_packed(rng, rng.choice(valid))

    return Target(make, Reference.unpack, (RemoteProtocolError,))


def objects(_lab: Lab) -> Target:
    """Change an object, or its list, on its way to who checks it."""
    whole = bytes(range(256)) * 600
    listing = Listing(Held([whole]), len(whole))
    listing.go_on()
    listed = listing.finish()
    travels = bytes(listed.read(0, 1 << 20)) + whole

    def make(rng: random.Random) -> bytes:
        lot = rng.random()
        if lot < 0.6:  # the head, the digests, and the first bytes of the first chunk
            return mutate(rng, travels[:150]) + travels[150:]
        return mutate(rng, travels) if lot < 0.7 else mutate(rng, travels[: rng.randrange(200)])

    def take(data: bytes) -> None:
        came: list[bytes] = []
        verifier = Verifier(listed.content, None, 0, lambda _index, piece: came.append(piece))
        try:
            for start in range(0, len(data), 50_000):
                verifier.write(data[start : start + 50_000])
        finally:
            assert travels.startswith(b"".join(came)), "what was changed was taken"

    return Target(make, take, (RemoteProtocolError,))


def lists(_lab: Lab) -> Target:
    """Say of an object what no holder would, and name it rightly."""

    def make(rng: random.Random) -> bytes:
        total = rng.choice((0, 1, 65_536, 65_537, 1 << 35, (1 << 35) + 1, (1 << 64) - 1, rng.randrange(1 << 20)))
        if rng.random() < 0.3:  # one that is right, of nothing but zeros
            total = rng.randrange(1, 70_000)
            parts = [bytes(min(MIN_CHUNK_BYTES, total - start)) for start in range(0, total, MIN_CHUNK_BYTES)]
            return total.to_bytes(8, "big") + b"\x10" + b"".join(blake3(part).digest() for part in parts)
        head = total.to_bytes(8, "big") + bytes([rng.choice((0, 15, 16, 16, 16, 17, 20, 21, 63, 255))])
        return head + rng.randbytes(32 * rng.randrange(20))

    def take(data: bytes) -> bool:
        verifier = Verifier(blake3(data).digest(), None, 0, lambda _index, _piece: None)
        verifier.write(data)
        missing = 0 if verifier.list is None else verifier.list.length - len(data)
        verifier.write(bytes(min(missing, 70_000)))
        return verifier.is_whole

    return Target(make, take, (RemoteProtocolError,), is_signed=True)


def records(_lab: Lab) -> Target:
    """Change records as one can who does not have the key."""
    sealer = AESGCM(KEY)
    sealed = [seal_record(sealer, at, text, is_last=at == len(TEXTS) - 1) for at, text in enumerate(TEXTS)]

    def make(rng: random.Random) -> bytes:
        lot = rng.random()
        if lot < 0.7:
            return mutate(rng, b"".join(sealed))
        picked = rng.choices(sealed, k=rng.randrange(6)) if lot < 0.9 else sealed
        return b"".join(picked)

    def take(data: bytes) -> None:
        texts = _opened(data, len(data) % 7)
        assert texts == list(TEXTS[: len(texts)]), "what was changed was opened"

    return Target(make, take, (RemoteProtocolError,))


def sealed_records(_lab: Lab) -> Target:
    """Seal what no holder would, with the right key."""
    sealer = AESGCM(KEY)

    def make(rng: random.Random) -> bytes:
        data = b""
        for number in range(rng.randrange(1, 5)):
            size = rng.choice((0, 1, 100, 100, TEXT_BYTES - 1, TEXT_BYTES, TEXT_BYTES + 1, FRAME_BYTES, 100_000))
            text = bytes(size)
            said = size if rng.random() < 0.7 else rng.choice((0, size + 1, FRAME_BYTES, (1 << 31) - 1))
            head = (said | (rng.random() < 0.3) << 31).to_bytes(4, "big")
            at = number if rng.random() < 0.9 else rng.randrange(2**32)
            data += head + sealer.encrypt(at.to_bytes(12, "big"), text, head)
        return data if rng.random() < 0.7 else data[: rng.randrange(len(data))]

    def take(data: bytes) -> bool:
        return sum(map(len, _opened(data, 5))) + OVERHEAD < len(data)

    return Target(make, take, (RemoteProtocolError,), is_signed=True)


def _opened(data: bytes, pieces: int) -> list[bytes]:
    """Open what comes in several pieces."""
    texts: list[bytes] = []
    opener = Opener(KEY, texts.append)
    step = len(data) // (pieces + 1) + 1
    for start in range(0, len(data), step):
        opener.write(memoryview(data)[start : start + step])
        assert len(opener._part) <= FRAME_BYTES
    return texts
