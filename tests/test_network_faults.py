"""What users do to a network in a test: links that are cut and held, cells that crash and start again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from cellnet import FQCN, ConfigurationError, Indeterminate, StillUnreachable, Unreachable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cellnet import Request
    from cellnet.testing import Network

pytestmark = pytest.mark.anyio


class Site:
    """What the cells of a test did."""

    def __init__(self) -> None:
        self.ran: list[object] = []
        self.started, self.go_on = anyio.Event(), anyio.Event()

    async def work(self, request: Request) -> object:
        """Work until the test says so."""
        self.ran.append(request.payload)
        self.started.set()
        await self.go_on.wait()
        return request.payload

    async def note(self, request: Request) -> object:
        self.ran.append(request.payload)
        return request.payload

    async def resist(self, request: Request) -> object:
        """Answer with an error when it is ended."""
        self.started.set()
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("it was interrupted")

    @property
    def handlers(self) -> dict[str, Callable[[Request], Awaitable[object]]]:
        return {"work": self.work, "note": self.note, "resist": self.resist}


@pytest.fixture
def site() -> Site:
    return Site()


# Links.


async def test_a_request_survives_a_cut_link_and_runs_once(network: Network, site: Site) -> None:
    async with network.tree(relays=1, clients=1, handlers=site.handlers) as server:
        answers = []

        async def ask() -> None:
            answers.append(await server.request("R1.C1", "work", 1))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await site.started.wait()
                network.cut("R1.C1")
                network.cut("R1")
                site.go_on.set()
        assert (answers, site.ran) == ([1], [1])


async def test_a_cut_link_is_noticed_on_both_sides_at_once(network: Network) -> None:
    async with network.tree(relays=1, clients=1) as server:
        client = network["R1.C1"]
        network.cut("R1.C1")
        with anyio.fail_after(3):
            await client.wait_disconnected()
            with pytest.raises(Unreachable):
                await network["R1"].request("R1.C1", "any", once=False)
            await server.wait_present(["R1.C1"])


async def test_what_a_held_cell_sends_arrives_in_order_once_it_is_released(network: Network, site: Site) -> None:
    async with network.tree(relays=1, clients=1, handlers=site.handlers) as server:
        client = network["R1.C1"]
        await client.request("server", "note", "before")
        network.hold("R1.C1")
        for number in range(50):
            await client.send("server", "note", number, key="one after the other")
        await anyio.wait_all_tasks_blocked()
        assert site.ran == ["before"]
        with anyio.fail_after(5):
            assert await server.request("R1", "note", "by the way") == "by the way"
            network.release("R1.C1")
            await client.request("server", "note", "after", key="one after the other")
        assert site.ran == ["before", "by the way", *range(50), "after"]


async def test_a_handler_runs_while_its_cell_is_held_and_its_answer_comes_at_the_release(
    network: Network, site: Site
) -> None:
    site.go_on.set()
    async with network.tree(relays=1, clients=1, handlers=site.handlers) as server:
        answers = []

        async def ask() -> None:
            answers.append(await server.request("R1.C1", "work", 1))

        with anyio.fail_after(5):
            assert await server.request("R1.C1", "note", 0) == 0
            network.hold("R1.C1")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await site.started.wait()
                await anyio.wait_all_tasks_blocked()
                assert (answers, site.ran) == ([], [0, 1])
                network.release("R1.C1")
        assert answers == [1]


# Cells.


async def test_a_crash_stops_the_handlers_and_the_caller_learns_that_they_may_have_run(
    network: Network, site: Site
) -> None:
    async with network.tree(relays=1, clients=1, handlers=site.handlers) as server:
        errors = []

        async def ask() -> None:
            with pytest.raises(Indeterminate, match="restarted") as caught:
                await server.request("R1.C1", "work", 1)
            errors.append(caught.value)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await site.started.wait()
                await network.crash("R1.C1")
                assert FQCN("R1.C1") not in network.cells
                await network.restart("R1.C1")
            assert await server.request("R1.C1", "note", 2) == 2
        assert len(errors) == 1
        assert site.ran == [1, 2]


async def test_a_crashed_cell_says_nothing_more_whatever_its_handlers_do(network: Network, site: Site) -> None:
    async with network.tree(relays=1, clients=2, handlers=site.handlers) as server:

        async def ask() -> None:
            with pytest.raises(Indeterminate):  # and not RemoteError: nobody was there to say so
                await server.request("R1.C1", "resist", once=False)

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await site.started.wait()
                await network.crash("R1.C1")
            assert await server.request("R1.C2", "note", 1) == 1


async def test_nobody_reaches_a_crashed_cell_until_it_is_started_again(network: Network, site: Site) -> None:
    async with network.tree(relays=1, clients=1, handlers=site.handlers) as server:
        await network.crash("R1.C1")
        with anyio.move_on_after(0.5), pytest.raises(StillUnreachable):
            await server.request("R1.C1", "note", 1)
        await network.restart("R1.C1")
        with anyio.fail_after(5):
            assert await server.request("R1.C1", "note", 2) == 2
        assert site.ran == [2]


@pytest.mark.parametrize("name", ["R1", "server"])
async def test_those_below_a_crashed_cell_join_its_next_start_by_themselves(
    network: Network, site: Site, name: str
) -> None:
    async with network.tree(relays=2, clients=2, handlers=site.handlers):
        before = network[name]
        assert await network["R1.C1"].request("R2.C4", "note", 1) == 1
        await network.crash(name)
        with anyio.fail_after(10):
            await network.restart(name)
            assert network[name] is not before
            await network["server"].wait_present(["R1.C1", "R1.C2", "R2.C3", "R2.C4"])
            assert await network["R1.C1"].request("R2.C4", "note", 2) == 2
            assert await network["server"].request("R1.C2", "note", 3) == 3
        assert site.ran == [1, 2, 3]


async def test_a_network_ends_in_order_whatever_was_done_to_it(network: Network) -> None:
    with anyio.fail_after(5):
        async with network.tree(relays=2, clients=2):
            await network.crash("R1")
            network.partition("R2.C3")
            network.hold("R2.C4")
        assert network.cells == {}


async def test_every_cell_and_every_start_of_it_can_have_handlers_of_its_own(network: Network) -> None:
    starts: list[str] = []

    def handlers(name: FQCN) -> dict[str, Callable[[Request], Awaitable[object]]]:
        starts.append(str(name))
        number = starts.count(str(name))

        async def who(request: Request) -> object:
            return [str(name), number]

        return {"who": who}

    async with network.tree(relays=1, clients=1, handlers=handlers) as server:
        with anyio.fail_after(5):
            assert await server.request("R1.C1", "who") == ["R1.C1", 1]
            assert await server.request("R1", "who") == ["R1", 1]
            await network.crash("R1.C1")
            await network.restart("R1.C1")
            assert await server.request("R1.C1", "who") == ["R1.C1", 2]


async def test_what_cannot_be_done_to_a_network_is_said(network: Network) -> None:
    async with network.tree(relays=1, clients=1):
        for fault in (network.partition, network.hold, network.release, network.cut, network.repair):
            with pytest.raises(ConfigurationError, match=r"R1\.C2 is no cell of this network"):
                fault("R1.C2")
            with pytest.raises(ConfigurationError, match="the server has no link to a parent"):
                fault("server")
        with pytest.raises(ConfigurationError, match="R1 runs already"):
            await network.restart("R1")
        await network.crash("R1")
        with pytest.raises(ConfigurationError, match="R1 does not run"):
            await network.crash("R1")
        with pytest.raises(ConfigurationError, match="R2 is no cell"):
            await network.restart("R2")


async def test_a_handler_may_crash_its_own_cell(network: Network, site: Site) -> None:
    async def die(request: Request) -> None:
        await network.crash("R1.C1")

    async with network.tree(relays=1, clients=1, handlers={**site.handlers, "die": die}) as server:
        with anyio.fail_after(5):
            with pytest.raises(Indeterminate):
                await server.request("R1.C1", "die", once=False)
            await network.restart("R1.C1")
            assert await server.request("R1.C1", "note", 1) == 1


def test_the_example_of_the_readme_passes_as_it_stands(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (tmp_path / "test_example.py").write_text(
        readme.split("## What goes wrong, in a test")[1].split("```python\n")[1].split("```")[0]
    )
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert "1 passed" in found.stdout, found.stdout
