"""Producers and workers of a deployment must look for the feed in the same place."""

from __future__ import annotations

from contextlib import suppress
from weakref import WeakKeyDictionary

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from worker.errors import EmitError, FeedPartitionsError
from worker.keys import Keys
from worker.log_servers import log_servers
from worker.trouble import words

# Pools on which the number of partitions was found to agree, and for which keys.
_agreed: WeakKeyDictionary[object, set[Keys]] = WeakKeyDictionary()
# Pools on which it was looked for other names, for which keys, whatever came of it.
_looked: WeakKeyDictionary[object, set[Keys]] = WeakKeyDictionary()


async def agree_on_partitions(redis: Redis, keys: Keys) -> None:
    """Refuse to hint where no worker would look. The first worker that starts fixes the number.

    Raises FeedPartitionsError, or EmitError where it could not be asked for.
    """
    agreed = _agreed.setdefault(redis.connection_pool, set())
    if keys in agreed:
        return
    try:
        stored = await _stored(redis, keys.feed_partitions)
        if stored is None:
            looked = _looked.setdefault(redis.connection_pool, set())
            if keys not in looked:
                looked.add(keys)
                await check_names(redis, keys)
            return
        partitions = int(stored)
    except NoPermissionError:
        agreed.add(keys)  # A producer that may only append cannot ask; a wrong partition only costs time.
        return
    except (ResponseError, ValueError) as error:
        if isinstance(error, ResponseError) and not str(error).startswith("WRONGTYPE"):
            raise _not_asked(error) from error
        raise FeedPartitionsError(
            f"Key {keys.feed_partitions} holds no number: set it to {keys.partitions}."
        ) from None
    except (RedisError, OSError) as error:
        raise _not_asked(error) from error
    if partitions != keys.partitions:
        raise FeedPartitionsError(
            f"This producer spreads hints over {keys.partitions} feed partitions, the workers read "
            f"{partitions}: give emit Keys(partitions={partitions})."
        )
    agreed.add(keys)


async def check_names(redis: Redis, keys: Keys) -> None:
    """Raise FeedPartitionsError where nobody has the feed by its names here, but somebody by the others.

    So it is where one side takes Redis for a cluster and the other, behind a proxy, does not. Who cannot look
    is not told.
    """
    otherwise = keys.feed_partitions_otherwise
    stored = None
    with suppress(RedisError, OSError):
        stored = await _stored(redis, otherwise)
    if stored is not None:
        raise FeedPartitionsError(
            f"Key {otherwise} says that workers of this deployment take Redis for "
            f"{'one server' if keys.on_cluster else 'a cluster'}, and here {keys.feed_partitions} is looked "
            "for: give workers and producers the same kind of URL or client, or Keys(on_cluster=True); or "
            f"delete {otherwise} if it is only left over."
        )


async def _stored(redis: Redis, name: str) -> bytes | None:
    """What a key holds, wherever it is, and even if it is on its way to another node."""
    [stored] = await log_servers(redis).ask([(name, ("GET", name))])
    if isinstance(stored, RedisError):
        raise stored
    assert stored is None or isinstance(stored, bytes)
    return stored


def _not_asked(error: Exception) -> EmitError:
    return EmitError(f"Redis could not be asked for the number of feed partitions: {words(error)}.")
