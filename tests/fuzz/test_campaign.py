"""What is planted into a decoder is found by the mutations: a wrong error, a slow input, and memory that stays."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec

from cellnet import placement
from cellnet.protocol.frames import unpack
from cellnet.signing import verify
from tests.fuzz import __main__ as command
from tests.fuzz.campaign import run
from tests.fuzz.plan import PLAN
from tests.fuzz.target import Target

if TYPE_CHECKING:
    from typing import Any

    from tests.fuzz.campaign import Row, Wrong

SEED = 5


def give(name: str, mutations: int, **how: Any) -> Row:
    (row,) = run({name: PLAN[name]}, mutations, SEED, **how)
    return row


def only(row: Row) -> Wrong:
    (wrong,) = row.wrong
    return wrong


def point(data: bytes) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), data)


PLANTED: dict[str, tuple[str, object, str]] = {
    # Behind the signatures of the job and of its site.
    "signed introductions": ("cellnet.protocol.claim.load_public_key", point, "ValueError"),
    # Behind a seal.
    "sealed frames": (
        "cellnet.protocol.answering.unpack_ranges",
        lambda body, sets=1: unpack(body, *[list] * sets),
        "Error",
    ),
    # Behind a handshake and the prefix.
    "frames": ("cellnet.protocol.presence._check", lambda entry: entry, "Error"),
    # Behind a manifest's signature.
    "kits": ("cellnet.kit.ValidationError", KeyError, "ValidationError"),
    "payloads": ("cellnet.payload._no_extension", lambda code, data: {}[code, data], "KeyError"),
    "job messages": ("cellnet.jobs.host._job", lambda request: {}[request.payload], "Error"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_an_error_that_is_not_documented_is_found_and_shown_again(name: str) -> None:
    where, planted, error = PLANTED[name]
    with patch(where, planted):
        found = only(give(name, 6000))
        assert error in found.reason.partition(":")[0]
        again = only(give(name, found.number - found.first + 1, first=found.first))
    assert (again.number, again.data, again.reason) == (found.number, found.data, found.reason)
    healed = give(name, found.number - found.first + 1, first=found.first)
    assert not healed.wrong


def test_a_slow_input_is_found() -> None:
    def slow(text: str) -> bool:
        end = time.thread_time() + (0.15 if "\x00" in text else 0.0)
        while time.thread_time() < end:
            pass
        return text == ""

    with patch("cellnet.credentials.unquote", slow):
        found = only(give("names", 6000))
    assert "ms of processor time" in found.reason


def test_an_input_that_comes_to_no_end_is_stopped_and_shown() -> None:
    def spin(data: bytes) -> None:
        while data[0] == 9:
            pass

    plan = {"spin": (1, lambda _lab: Target(lambda rng: rng.randbytes(2), spin))}
    with patch("tests.fuzz.campaign.STUCK_SECONDS", 0.4):
        (row,) = run(plan, 5000, SEED, limit_ms=1e6)
    found = only(row)
    assert found.reason.startswith("Stuck: it was not done")
    assert found.data[0] == 9


def test_memory_that_stays_is_found() -> None:
    kept: list[bytearray] = []

    def keep(*what: Any, **how: Any) -> None:
        kept.append(bytearray(b"x" * 40_000))
        verify(*what, **how)

    with patch.object(placement, "verify", keep):
        found = only(give("signed words", 4000))
    assert "enlarged the process" in found.reason


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process its largest size since a moment")
def test_memory_that_one_input_takes_and_gives_back_is_found() -> None:
    def take(data: bytes) -> None:
        if data[0] == 9:
            bytearray(b"x" * (40 << 20))

    plan = {"spike": (1, lambda _lab: Target(lambda rng: rng.randbytes(2), take))}
    (row,) = run(plan, 2000, SEED, limit_ms=1e6)
    assert "enlarged the process" in only(row).reason


def test_what_an_input_breaks_beside_its_own_link_is_found() -> None:
    with patch("cellnet.protocol.endpoint.Endpoint._refuse", lambda self, *_: self.connections.clear()):
        assert "afterwards, " in only(give("frames", 2000)).reason


def test_a_seed_means_the_same_inputs_in_every_run() -> None:
    names = ("handshakes", "signed introductions", "sealed frames", "certificates", "frames")
    plan = {name: PLAN[name] for name in names}
    first, second = run(plan, 2000, SEED), run(plan, 2000, SEED)
    assert [(row.inputs, row.refused) for row in first] == [(row.inputs, row.refused) for row in second]


def test_the_command_prints_a_table_and_fails_with_the_input_and_a_command_that_shows_it() -> None:
    runner = CliRunner()
    good = runner.invoke(command.main, ["--only", "names,payloads", "--mutations", "300", "--seed", "5"])
    assert (good.exit_code, "names" in good.output, "seed 5" in good.output) == (0, True, True)
    with patch("cellnet.payload._no_extension", lambda code, _data: {}[code]):
        bad = runner.invoke(command.main, ["--only", "payloads", "--mutations", "6000", "--seed", "5"])
        assert bad.exit_code == 1
        again = bad.output.rpartition("again: python -m tests.fuzz ")[2].split()
        shown = runner.invoke(command.main, [one.strip("'") for one in again])
    assert shown.exit_code == 1
    assert bad.output.splitlines()[-2] == shown.output.splitlines()[-2]
    assert runner.invoke(command.main, ["--only", "nothing"]).exit_code == 2
