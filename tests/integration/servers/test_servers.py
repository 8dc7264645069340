"""The servers that other tests rely on."""

from __future__ import annotations

import contextlib
from typing import Any

import asyncpg
import pytest
import redis
from botocore.exceptions import ClientError

from tests.servers.postgres import ExternalPostgres
from tests.servers.redis import ExternalRedis, RedisServer
from tests.servers.s3 import S3Server
from tests.servers.swift import SwiftServer


async def test_every_database_is_empty_and_of_its_own(postgres_server: ExternalPostgres) -> None:
    one, other = postgres_server.new_database(), postgres_server.new_database()
    connection = await asyncpg.connect(one)
    await connection.execute("CREATE TABLE here (id int)")
    await connection.close()

    connection = await asyncpg.connect(other)
    tables = await connection.fetch("SELECT * FROM pg_tables WHERE schemaname = 'public'")
    await connection.close()

    assert one != other
    assert tables == []


def test_a_bucket_takes_an_object(s3_server: S3Server) -> None:
    bucket = s3_server.new_bucket()

    with contextlib.closing(s3_server.client()) as client:
        client.put_object(Bucket=bucket, Key="a key", Body=b"content")
        answer = client.get_object(Bucket=bucket, Key="a key")

    assert answer["Body"].read() == b"content"


@pytest.fixture(scope="module")
def frail_redis(redis_server: ExternalRedis) -> RedisServer:
    if not isinstance(redis_server, RedisServer):
        pytest.skip("this Redis is not ours to pause or kill")
    return redis_server


def test_redis_is_empty_after_a_flush(redis_server: ExternalRedis) -> None:
    with contextlib.closing(redis.Redis.from_url(redis_server.url)) as client:
        client.set("key", "value")
        redis_server.flush()
        keys = client.keys()

    assert keys == []


def test_redis_hangs_while_it_is_paused(frail_redis: RedisServer) -> None:
    frail_redis.pause()
    with contextlib.closing(redis.Redis.from_url(frail_redis.url, socket_timeout=0.05, retry=None)) as client:
        with pytest.raises(redis.TimeoutError):
            client.ping()
        frail_redis.resume()

    assert frail_redis.answers()


def test_redis_is_back_at_its_address_and_empty_after_a_restart(frail_redis: RedisServer) -> None:
    with contextlib.closing(redis.Redis.from_url(frail_redis.url)) as client:
        client.set("key", "value")
    url = frail_redis.url
    frail_redis.kill()
    gone = not frail_redis.answers()
    frail_redis.restart()
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        keys = client.keys()

    assert gone
    assert keys == []


def test_swift_knows_four_identities(s3_server: S3Server) -> None:
    if not isinstance(s3_server, SwiftServer):
        pytest.skip("the identities of this store are not ours to choose")
    bucket = s3_server.new_bucket()
    may = {}
    for name in ("control", "writer", "reader", "stranger"):
        with contextlib.closing(s3_server.client(getattr(s3_server, name))) as client:
            may[name] = [
                _may(client, "put_object", Bucket=bucket, Key="a", Body=b""),
                _may(client, "head_object", Bucket=bucket, Key="a"),
            ]

    assert may == {
        "control": [True, True],
        "writer": [True, True],
        "reader": [False, True],
        "stranger": [False, False],
    }


def _may(client: Any, call: str, **arguments: object) -> bool:
    try:
        getattr(client, call)(**arguments)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 403:
            raise
        return False
    return True
