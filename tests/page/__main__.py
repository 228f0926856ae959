"""The status page in a headless Chromium: ``python -m tests.page --screenshots FOLDER``.

Two workers project what producers emit while the page is looked at: as wide as a desk, as narrow as a phone,
in the dark, with streams that are far behind, and after PostgreSQL was killed. The page must say what is so,
without an error in the browser's console. The pictures are for people to look at. Needs the program chromium,
Debian's for example.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from redis.asyncio import Redis

from tests.acceptance.commands import running, worker_environment
from tests.own_servers import own_postgresql, own_redis
from tests.waiting import block_until
from worker import Keys, emit
from worker.migrate import migrate

ADDRESS = "127.0.0.1:9465"
KEYS = Keys("page:")
_EMIT_SECONDS = 30.0
_LOOK_MS = 4_000
_BROWSER_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Look:
    """How the page is looked at, and what it must say then."""

    name: str
    says: tuple[str, ...]
    size: str = "1200,1300"
    options: tuple[str, ...] = ()


WELL = ("All is well", "strategies, version 1", "Who does the work", "undecodable")
WIDE = Look("wide", WELL)
PHONE = Look("phone", WELL, size="500,1900")
DARK = Look("dark", WELL, options=("--blink-settings=preferredColorScheme=0",))
SLOW = Look(
    "slow", ("Something is wrong", "Furthest behind", ">diverged<", "status --slowest 10"), size="1200,1500"
)
SLOW_PHONE = Look("slow-phone", SLOW.says, size="500,2100")
WRONG = Look("wrong", ("Something is wrong", "PostgreSQL tells nothing", ">unknown<"))


def see(look: Look, folder: Path) -> None:
    """Take a picture, and see that the page says what it must."""
    picture = f"--screenshot={folder / look.name}.png"
    told = _browse(look, "--dump-dom", picture)
    missing = [words for words in look.says if words not in told.stdout]
    if missing:
        raise AssertionError(f"the page does not say {missing} when it is looked at {look.name}")
    if "CONSOLE" in told.stderr:
        raise AssertionError(f"the browser complains: {told.stderr}")


def _browse(look: Look, *more: str) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        return subprocess.run(
            [
                *("chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *("--enable-logging=stderr", f"--user-data-dir={profile}", f"--window-size={look.size}"),
                *(f"--virtual-time-budget={_LOOK_MS}", *look.options, *more, f"http://{ADDRESS}/"),
            ],
            capture_output=True,
            text=True,
            timeout=_BROWSER_SECONDS,
            check=True,
        )


async def produce(redis_url: str) -> None:
    """Emit for a while, with an event now and then that nobody can decode."""
    redis = Redis.from_url(redis_url)
    until, number = time.monotonic() + _EMIT_SECONDS, 0
    while time.monotonic() < until:
        number += 1
        await emit(redis, f"s{number % 100}", "", "user_message", {}, keys=KEYS)
        if number % 1_000 == 0:
            await redis.xadd(KEYS.log("bad"), {"op": "", "type": "user_message", "data": "not JSON"})
        await asyncio.sleep(0.005)
    await redis.aclose()


async def lose(redis_url: str) -> None:
    """Have Redis lose the ends of some logs, and say something there."""
    redis = Redis.from_url(redis_url)
    for stream_id in ("s1", "s2", "s3"):
        await redis.delete(KEYS.log(stream_id))
        await redis.xadd(KEYS.log(stream_id), {"op": "", "type": "user_message", "data": "{}"}, id="1-1")
        await emit(redis, stream_id, "", "user_message", {}, keys=KEYS)
    await redis.aclose()


def told() -> str:
    """What the worker tells now; whoever asks has it look more closely."""
    with urlopen(f"http://{ADDRESS}/status.json", timeout=_BROWSER_SECONDS) as reply:
        body: bytes = reply.read()
    return body.decode()


def main() -> int:
    """Look at the page; 0 if it says all that it must."""
    parser = argparse.ArgumentParser(prog="python -m tests.page", description=__doc__)
    parser.add_argument("--screenshots", type=Path, required=True, metavar="FOLDER")
    folder: Path = parser.parse_args().screenshots
    folder.mkdir(parents=True, exist_ok=True)
    with own_redis() as redis, own_postgresql() as postgresql:
        migrate(postgresql.url)
        env = worker_environment(redis.url, postgresql.url, KEYS.prefix)
        watched = {**env, "WORKER_HTTP_ADDRESS": ADDRESS}
        with running("run", env=watched) as first, running("run", env=env) as second:
            block_until(lambda: first.says("started") and second.says("started"), "both workers to start")
            asyncio.run(produce(redis.url))
            for look in (WIDE, PHONE, DARK):
                see(look, folder)
            asyncio.run(lose(redis.url))
            block_until(lambda: told().count('"standing":"diverged"') == 3, "the slow streams to be told")
            for look in (SLOW, SLOW_PHONE):
                see(look, folder)
            postgresql.kill()
            block_until(lambda: "PostgreSQL tells nothing" in told(), "the worker to tell that it is away")
            see(WRONG, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
