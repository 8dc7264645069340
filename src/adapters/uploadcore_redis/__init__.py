"""Cache, and events into a stream, on Redis or Valkey: one server, Sentinel or Cluster, with or without TLS.

`RedisCache` costs latency at worst. Every call has a deadline, none raises for a server that is away, and while it is away calls
return at once; a background probe finds out when it is back. What is kept there and for how long is told in `docs/redis.md`.

>>> RedisCache("rediss://uploads:secret@cache.internal:6379/0")
RedisCache('rediss://cache.internal:6379')
"""

try:
    import cachetools  # noqa: F401 - asked for here, so that its absence is told once and helpfully
    import redis  # noqa: F401
except ImportError as exc:
    raise ImportError(
        "uploadcore_redis needs packages that are not installed: pip install 'uploadcore[redis]'"
    ) from exc

from uploadcore_redis.cache import RedisCache, from_url
from uploadcore_redis.streams import RedisStreamPublisher, publisher_from_url

__all__ = ["RedisCache", "RedisStreamPublisher", "from_url", "publisher_from_url"]
