"""A hostile hop does each of its deeds, as often as it counts."""

from __future__ import annotations

import random

import pytest

from cellnet.protocol.frames import OFFSET, Frame, FrameDecoder, Kind
from tests.faults.hostility import Hostility, Mangler, encode


def routed(count: int) -> list[bytes]:
    """Return frames that follow a route, each with its number as the body."""
    mangler = Mangler(random.Random(0))
    return [mangler.feed(_frame(number), None) for number in range(count)]


def _frame(number: int) -> bytes:
    return encode(Frame(Kind.REQUEST, 9, 0, 1000, b"header", b"body %d" % number))


@pytest.mark.parametrize("deed", ["flip", "truncate", "duplicate", "reorder", "replay"])
def test_each_deed_does_what_it_says(deed: str) -> None:
    frames = routed(20)
    mangler = Mangler(random.Random(1))
    hostility = Hostility()
    setattr(hostility, deed, 0.3)
    out = list(FrameDecoder().feed(b"".join(mangler.feed(frame, hostility) for frame in frames)))
    sent, came = [next(iter(FrameDecoder().feed(frame))) for frame in frames], len(out)
    done = hostility.counts[deed]
    assert done > 0
    assert set(hostility.counts.elements()) == {deed}
    if deed in ("flip", "truncate"):
        changed = [(a, b) for a, b in zip(sent, out, strict=True) if a != b]
        assert len(changed) == done
        wrong = [len(a.header + a.body) - len(b.header + b.body) for a, b in changed]
        assert all(one == 0 if deed == "flip" else one > 0 for one in wrong)
    elif deed == "reorder":
        assert came >= len(sent) - 1, "one may still be held"
        assert out != sent[:came]
        assert {frame.body for frame in out} <= {frame.body for frame in sent}
    else:
        assert came == len(sent) + done
        assert {frame.body for frame in out} == {frame.body for frame in sent}


def data(number: int) -> bytes:
    return encode(Frame(Kind.DATA, 0, 9, 0, OFFSET.pack(100 * number), b"body %d" % number))


def test_what_is_hostile_to_contents_harms_their_bodies_only_and_nothing_but_them() -> None:
    mangler, hostility = Mangler(random.Random(2)), Hostility(contents=True, flip=0.3, truncate=0.3, splice=0.5)
    assert mangler.feed(_frame(1), hostility) == _frame(1)
    out = list(FrameDecoder().feed(b"".join(mangler.feed(data(number), hostility) for number in range(40))))
    assert [frame.header for frame in out] == [OFFSET.pack(100 * number) for number in range(40)]
    assert all(hostility.counts[deed] > 0 for deed in ("flip", "truncate", "splice"))
    changed = [number for number, frame in enumerate(out) if bytes(frame.body) != b"body %d" % number]
    # A body of its own may take the place of one; and an exchange for itself changes nothing.
    assert hostility.counts["flip"] + hostility.counts["truncate"] <= len(changed) <= hostility.counts.total()


def test_frames_about_the_link_pass_unharmed_and_before_nothing_that_is_held() -> None:
    mangler = Mangler(random.Random(0))
    everything = Hostility(flip=1.0, truncate=1.0, duplicate=1.0, reorder=1.0, replay=1.0)
    ping = encode(Frame(Kind.PING, 0, 0, 0, b"\x90", b""))
    assert mangler.feed(ping, everything) == ping
    assert mangler.feed(_frame(1), everything) == b""
    assert mangler.feed(ping, everything) == _frame(1) + ping
