"""The polling adapter: when the window opens and closes, and that it keeps what pyfuse3 expects of trio."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pyfuse3
import pytest
import trio

from ghostfs.fs.polling import PollingTrio, Window, install

US = 1000
LONGEST = 30 * US


def opened() -> Window:
    window = Window(LONGEST)
    for _ in range(2):
        window.slept(50 * US)
    assert window.ns == LONGEST
    return window


def test_it_opens_after_short_sleeps_only() -> None:
    window = Window(LONGEST)
    for _ in range(10):
        window.slept(50 * US)
        window.slept(5000 * US)
        assert window.ns == 0
    window.slept(50 * US)
    window.slept(50 * US)
    assert window.ns == LONGEST


def test_an_idle_mount_stops_polling_at_once() -> None:
    window = opened()
    spun = 0
    for _ in range(1000):
        if window.ns:
            spun += 1
            window.missed()
        window.slept(1_000_000 * US)
    assert spun == 3


def test_hits_keep_it_open_and_forgive_misses() -> None:
    window = opened()
    for _ in range(100):
        window.missed()
        window.missed()
        window.hit(10 * US)
    assert window.ns == LONGEST


def test_it_backs_off_further_each_time_it_was_wrong() -> None:
    window = Window(LONGEST)
    spun = 0
    for _ in range(10_000):  # a client that is just too slow: sleeps look short, polls miss
        if window.ns:
            spun += 1
            window.missed()
        window.slept(80 * US)
    assert spun < 200


def test_losing_the_core_counts_as_a_miss() -> None:
    window = opened()
    for _ in range(3):
        window.hit(1000 * US)
    assert window.ns == 0


@pytest.fixture
def adapter() -> PollingTrio:
    return PollingTrio(1000)


def test_polling_in_vain_closes_the_window(adapter: PollingTrio) -> None:
    async def main() -> None:
        reading, writing = os.pipe()
        adapter.window.ns = adapter.window.longest_ns
        for expected in (True, True, False):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(adapter.wait_readable, reading)
                await trio.testing.wait_all_tasks_blocked()
                assert bool(adapter.window.ns) == expected
                os.write(writing, b"x")
            os.read(reading, 1)
        adapter.notify_closing(reading)
        os.close(reading)
        os.close(writing)

    trio.run(main)


def test_waiting_ends_with_data_whether_it_polls_or_sleeps(adapter: PollingTrio) -> None:
    async def main() -> None:
        reading, writing = os.pipe()
        for _ in range(300):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(adapter.lowlevel.wait_readable, reading)
                await trio.testing.wait_all_tasks_blocked()
                os.write(writing, b"x")
            assert os.read(reading, 10) == b"x"
            os.write(writing, b"y")
            await adapter.lowlevel.wait_readable(reading)
            assert os.read(reading, 10) == b"y"
        adapter.notify_closing(reading)
        os.close(reading)
        os.close(writing)

    trio.run(main)
    assert adapter.polls_hit >= 300


def test_other_tasks_live_while_requests_never_stop(adapter: PollingTrio) -> None:
    async def main() -> int:
        reading, writing = os.pipe()
        os.write(writing, b"always readable")
        served = 0

        async def serve() -> None:
            nonlocal served
            while True:
                await adapter.wait_readable(reading)
                served += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            for _ in range(50):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        os.close(reading)
        os.close(writing)
        return served

    assert 0 < trio.run(main) <= 60 * 128


def test_it_does_not_poll_while_somebody_waits_for_a_thread(adapter: PollingTrio) -> None:
    """The thread's result would be seen only when the window has passed."""
    adapter.window.ns = adapter.window.longest_ns = 10**10

    async def main() -> None:
        reading, writing = os.pipe()

        async def wait() -> None:
            await adapter.wait_readable(reading)

        async with trio.open_nursery() as nursery:
            adapter.elsewhere = 1
            nursery.start_soon(wait)
            with trio.fail_after(5):
                await trio.testing.wait_all_tasks_blocked()
            os.write(writing, b"x")
        os.close(reading)
        os.close(writing)

    trio.run(main)


def test_closing_wakes_the_sleeper(adapter: PollingTrio) -> None:
    async def main() -> None:
        reading, writing = os.pipe()

        async def wait() -> None:
            with pytest.raises(adapter.ClosedResourceError):
                await adapter.wait_readable(reading)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            adapter.notify_closing(reading)
        os.close(reading)
        os.close(writing)

    trio.run(main)


def test_the_lock_lets_one_in_at_a_time_and_nobody_starve(adapter: PollingTrio) -> None:
    async def main() -> list[int]:
        lock = adapter.Lock()
        inside = 0
        turns: list[int] = []

        async def work(number: int) -> None:
            nonlocal inside
            for _ in range(20):
                async with lock:
                    inside += 1
                    assert inside == 1
                    await trio.lowlevel.checkpoint()
                    turns.append(number)
                    inside -= 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(work, number)
        return turns

    turns = trio.run(main)
    assert sorted(turns) == sorted(list(range(5)) * 20)


def test_a_waiter_of_the_lock_can_be_cancelled(adapter: PollingTrio) -> None:
    async def main() -> None:
        lock = adapter.Lock()
        async with lock:
            with trio.CancelScope() as scope:
                scope.cancel()
                async with lock:
                    raise AssertionError("two inside")
            assert scope.cancelled_caught
        async with lock:
            pass

    trio.run(main)


def test_it_is_off_at_0_and_with_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyfuse3, "trio", None)
    assert install(0).window.longest_ns == 0
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert install(30).window.longest_ns == 0
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    made = install(30)
    assert made.window.longest_ns == 30_000
    assert pyfuse3.trio is made


def test_what_may_not_poll_never_does() -> None:
    window = Window(0)
    for _ in range(100):
        window.slept(US)
        assert window.ns == 0


def test_it_has_all_that_pyfuse3_asks_of_trio(adapter: PollingTrio) -> None:
    """Fails when another version of pyfuse3 begins to use more of trio than the adapter has."""
    folder = Path(pyfuse3.__file__).parent
    sources = [*folder.glob("*.pyx"), *folder.glob("*.pxi")]
    assert sources
    text = "".join(source.read_text() for source in sources)
    used = set(re.findall(r"(?<![\w`.])trio\.([a-zA-Z_.]+)(?=\(|:|\)|$)", text))
    names = {name for name in used if not name.startswith(("run_sync_in_worker", "from_thread.run"))}
    assert {"Lock", "open_nursery", "lowlevel.wait_readable", "ClosedResourceError"} <= names
    for name in names:
        at: object = adapter
        for part in name.split("."):
            at = getattr(at, part)
