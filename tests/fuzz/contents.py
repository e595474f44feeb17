"""Targets: what a message says of a payload that is elsewhere, and the records that it comes as."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cellnet.contents import Reference
from cellnet.errors import RemoteProtocolError
from cellnet.protocol.frames import FRAME_BYTES, pack
from cellnet.protocol.records import TEXT_BYTES, Opener, seal_record
from cellnet.protocol.sealing import OVERHEAD
from tests.fuzz.mutation import vary_packed
from tests.fuzz.target import Target
from tests.protocol.test_fuzz import mutate

if TYPE_CHECKING:
    import random

    from tests.fuzz.target import Lab

__all__ = ["records", "references", "sealed_records"]

KEY = bytes(range(32))
TEXTS = (b"a text", bytes(300), b"")


def references(_lab: Lab) -> Target:
    valid = pack(3, 1 << 40, bytes(16), KEY), pack(1, 65537, bytes(range(16)), b"")

    def make(rng: random.Random) -> bytes:
        return vary_packed(rng, rng.choice(valid))

    return Target(make, Reference.unpack, (RemoteProtocolError,))


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
