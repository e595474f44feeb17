"""What is broken of contents is seen: each bug is planted in the plane, and found in a few seeds."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from cellnet import outgoing as outgoing_module
from cellnet.protocol import passage as passage_module
from cellnet.protocol import records as records_module
from cellnet.protocol.endpoint import Endpoint
from cellnet.protocol.fetch import Fetch
from cellnet.protocol.passage import Transit
from cellnet.protocol.plane import Plane
from cellnet.protocol.pull import Pull
from cellnet.protocol.records import Opener, seal_record
from cellnet.protocol.shared import Share
from cellnet.protocol.shelf import Shelf
from cellnet.protocol.want import Want
from cellnet.simulation import run as run_module
from cellnet.simulation import simulate

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from cellnet.protocol.frames import Buffer
    from cellnet.protocol.passage import Passage
    from cellnet.protocol.want import Neighbour
    from cellnet.simulation import Run

SEEDS = 20

# Few cells, so that faults are near the contents, and many of these.
faulty = partial(simulate, cells=8, faults=60, errands=400)
hostile = partial(faulty, hostile=True)


def what_passes_is_not_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Endpoint, "keep", lambda _self: None)


def data_is_taken_wherever_it_belongs(patch: pytest.MonkeyPatch) -> None:
    def take(_plane: Plane, neighbour: Neighbour, now: float, label: int, _offset: int, data: Buffer) -> None:
        want = neighbour.feed.wants.get(label)
        if want is not None:
            want.position += len(data)
            want.taker.take(data, now)

    patch.setattr(Plane, "data_received", take)


def what_was_wanted_is_not_wanted_again(patch: pytest.MonkeyPatch) -> None:
    begin = Fetch.begin

    def resume(self: Fetch, now: float) -> None:
        begin(self, now)
        if self.want is not None:
            wanted = max(getattr(self._sink, "wanted", 0), self.want.position)
            self._sink.wanted = self.want.upto  # type: ignore[attr-defined]  # the bug keeps its own place there
            if wanted > self.want.position:
                self.want.stop("lost")
                self.want = Want(self.want._neighbour, self.holder, self._content, wanted, self)
                self.want.say(wanted + self._window)

    patch.setattr(Fetch, "begin", resume)


def what_is_wanted_is_acknowledged(patch: pytest.MonkeyPatch) -> None:
    say = Want.say

    def acknowledge(self: Want, upto: int) -> None:
        self.acknowledged = upto
        say(self, upto)

    patch.setattr(Want, "say", acknowledge)


def what_was_promised_stays_promised(patch: pytest.MonkeyPatch) -> None:
    forget = Transit.forget

    def keep_promises(self: Transit, passage: Passage) -> None:
        if passage in self.passages:
            promised = passage.promised
            forget(self, passage)
            self.promised += promised

    patch.setattr(Transit, "forget", keep_promises)


def records_do_not_say_which_they_are(patch: pytest.MonkeyPatch) -> None:
    def sealed(sealer: AESGCM, _number: int, text: Buffer, *, is_last: bool) -> bytes:
        return seal_record(sealer, 0, text, is_last=is_last)

    def open_any(self: Opener, record: Buffer | bytearray) -> None:
        self._number = 0
        opened(self, record)

    opened = Opener._open
    patch.setattr(records_module, "seal_record", sealed)
    patch.setattr(outgoing_module, "seal_record", sealed)
    patch.setattr(Opener, "_open", open_any)


def what_was_read_is_not_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(outgoing_module.Outgoing, "acknowledged", lambda *_args: None)


def the_loss_of_a_link_is_not_told(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Plane, "connection_lost", lambda *_args: None)


def what_is_kept_has_no_limit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(passage_module, "TRANSIT_BYTES", 1 << 20)
    patch.setattr(Shelf, "shrink", lambda _self: None)


def what_the_foremost_has_read_stays_promised(patch: pytest.MonkeyPatch) -> None:
    passed = Pull.passed

    def keep_promises(self: Pull, offset: int) -> None:
        before = self.promised
        passed(self, offset)
        self._transit.promised += max(0, before - self.promised)

    patch.setattr(Pull, "passed", keep_promises)


def a_neighbour_that_stops_still_wants_its_share(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Share, "stopped", lambda *_args: None)


@pytest.mark.parametrize(
    ("bug", "run", "said"),
    [
        (what_is_kept_has_no_limit, faulty, "bytes are kept for others"),
        (what_the_foremost_has_read_stays_promised, faulty, "bytes that were promised"),
        (a_neighbour_that_stops_still_wants_its_share, faulty, "contents that pass"),
        (what_passes_is_not_kept, faulty, "differs from what was offered"),
        (data_is_taken_wherever_it_belongs, hostile, "differs from what was offered"),
        (what_was_wanted_is_not_wanted_again, faulty, "streams: "),
        (what_is_wanted_is_acknowledged, faulty, "for no reason: it is held"),
        (what_was_promised_stays_promised, faulty, "bytes that were promised"),
        (records_do_not_say_which_they_are, hostile, "differs from what was offered"),
        (what_was_read_is_not_forgotten, faulty, "streams: "),
        (the_loss_of_a_link_is_not_told, faulty, "contents that "),
    ],
)
def test_a_planted_bug_is_seen(
    monkeypatch: pytest.MonkeyPatch,
    bug: Callable[[pytest.MonkeyPatch], None],
    run: Callable[[int], Run],
    said: str,
) -> None:
    monkeypatch.setattr(run_module, "ERRANDS_FOR_CONTENT", 20)
    bug(monkeypatch)
    assert any(said in violation for seed in range(SEEDS) for violation in run(seed).violations())
