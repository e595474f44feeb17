"""The machine of ``test_machines.py`` is worth what it finds: bugs that are planted, and steps that bring them out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cellnet.protocol.events import Message, Replied
from cellnet.protocol.frames import Frame, Kind
from tests.protocol import planted
from tests.protocol.conftest import Net, encode_frame
from tests.protocol.test_machines import CellsMachine

Steps = list[tuple[Callable[..., None], dict[str, Any]]]
Plant = Callable[[pytest.MonkeyPatch], None]

M = CellsMachine
A, X = 0, 4
"""By which the machine's steps know these cells, of all but the server."""

FOUND: list[tuple[Plant, Steps, str]] = [
    (
        planted.presence_is_not_announced,
        [(M.cut, {"pick": A, "again": True})],
        "server does not know who is below it",
    ),
    (
        planted.labels_are_not_released,
        [
            (M.ask_all, {"pick": A, "topic": "hold", "once": False}),
            (M.run, {}),
            (M.cut, {"pick": X, "again": False}),
        ],
        "a label is held for a route that ended",
    ),
    (
        planted.an_older_epoch_is_accepted,
        [(M.restart, {"pick": A, "clock": "back", "quietly": False})],
        "at server, epoch 8 of the child A came after 2000",
    ),
    (
        planted.an_answer_to_a_probe_is_ignored,
        [(M.start_twin, {"pick": A, "clock": "right"}), (M.wait, {"seconds": 2.5})],
        "A lives, and lost its name",
    ),
    (
        planted.a_request_that_came_before_runs_again,
        [
            (M.ask, {"pick": 0, "to": 0, "topic": "hold", "once": True, "key": "", "seconds": 5}),
            (M.wait, {"seconds": 0.6}),
            (M.cut, {"pick": A, "again": True}),
            (M.wait, {"seconds": 2.5}),
        ],
        "ran twice",
    ),
    (
        planted.drained_does_not_name_what_ran,
        [
            (M.ask_all, {"pick": 0, "topic": "hold", "once": True}),
            (M.wait, {"seconds": 0.6}),
            (M.drain_and_restart, {"pick": A, "seconds": 0, "finishes": False}),
        ],
        "ran twice",
    ),
    (
        planted.drained_does_not_name_what_ran,
        [
            (M.ask_all, {"pick": 0, "topic": "hold", "once": False}),
            (M.wait, {"seconds": 0.6}),
            (M.drain_and_restart, {"pick": A, "seconds": 0, "finishes": False}),
        ],
        "is said to be not executed, and ran",
    ),
]


def play(steps: Steps) -> None:
    machine = CellsMachine()
    for step, arguments in steps:
        step(machine, **arguments)
        machine.laws_hold()
    machine.come_to_rest()


@pytest.mark.parametrize(("plant", "steps", "verdict"), FOUND)
def test_steps_that_bring_out_a_bug_are_right_without_it_and_wrong_with_it(
    plant: Plant, steps: Steps, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(steps)
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=verdict):
        play(steps)


def play_an_old_open_again() -> None:
    """Record an OPEN, let its session be followed by another, and send the record."""
    net = Net.tree("A")
    kept: list[Frame] = []

    def encode(frame: Frame) -> bytes:
        kept.append(frame)
        return encode_frame(
            frame.kind, frame.header, frame.body, label=frame.label, hop=frame.hop, remaining_ms=frame.remaining_ms
        )

    net.links["A"].tamper = encode
    net.request("server", "A", payload=b"0")
    net.run()
    (recorded,) = [encode(frame) for frame in list(kept) if frame.kind is Kind.OPEN]
    net.cut("A")
    link = net.connect("A")
    net.run()
    for payload in (b"1", b"2", b"3"):
        net.request("server", "A", payload=payload)
        net.run()
        net["A"].receive(link.connecting, recorded, net.now)
        net.run()
    assert link.sent(Kind.CLOSED) == 0, "the session in use was ended"
    replies = [outcome.payload for outcome in net.outcomes("server") if isinstance(outcome, Replied)]
    assert replies == [b"0", b"1", b"2", b"3"]
    assert len(net.received("A", Message)) == 4


def test_an_open_that_was_recorded_in_an_earlier_session_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    play_an_old_open_again()
    planted.a_recorded_open_ends_the_session_in_use(monkeypatch)
    with pytest.raises(AssertionError, match="the session in use was ended"):
        play_an_old_open_again()
