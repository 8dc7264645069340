"""The contract of an `ObjectStore`."""

from __future__ import annotations

from email.message import Message
from email.utils import collapse_rfc2231_value

import pytest

from uploadcore.ports import ObjectHeaders, ObjectStore
from uploadcore.testing.multipart import MultipartContract
from uploadcore.testing.signed_urls import SignedUrlContract
from uploadcore.testing.store_steps import NINE, HttpAnswer, SignedHttp
from uploadcore.upload import Address

__all__ = ["HttpAnswer", "ObjectStoreContract", "SignedHttp"]


class ObjectStoreContract(MultipartContract, SignedUrlContract):
    """What every `ObjectStore` does, and what it declares in its `capabilities`. Subclass it and give two fixtures.

    `store`: an opened, empty `ObjectStore`, closed afterwards.

    `http`: a `SignedHttp` that reaches it.

    Override `advance` where the store's clock can be told to go on, `now` where it is not this machine's, and the class attributes where the
    store is slow.

    Attributes:
        part_counts: How many parts are listed and completed; those beyond `limits.max_parts` are left out.
        open_multiparts: How many multipart uploads are listed at once. More than a page of the store's own.
    """

    async def test_what_was_deleted_is_gone(self, store: ObjectStore, http: SignedHttp) -> None:
        await self.put_object(store, http, "up/a", NINE)
        await self.put_object(store, http, "up/ab", NINE)
        address = Address(store.bucket, "up/a")
        signed = await self.sign_get(store, "up/a")
        await store.delete(address)
        await store.delete(address)
        assert await store.head(address) is None
        assert (await self.send(http, signed)).status == 404
        assert await self.content(store, http, "up/ab") == NINE

    async def test_a_marker_is_an_empty_object_that_replaces(self, store: ObjectStore) -> None:
        address = Address(store.bucket, "up/.installation")
        for value in ("first", "second"):
            await store.put_marker(address, ObjectHeaders("text/plain", {"uploadcore-installation": value}))
            head = await store.head(address)
            assert head is not None
            assert (head.size, head.metadata["uploadcore-installation"]) == (0, value)

    @pytest.mark.parametrize(
        "filename",
        [
            "trip.mp4",
            "my trip.mp4",
            'a"b.mp4',
            "a;b=c.mp4",
            "日本語 🎬.mp4",
            "100%.mp4",
            "../../etc/passwd",
            "a\\b",
            "é'é",
        ],
    )
    async def test_a_download_is_an_attachment_of_that_name_and_type(
        self, store: ObjectStore, http: SignedHttp, filename: str
    ) -> None:
        await self.put_object(store, http, "up/a", NINE)
        signed = await self.sign_get(store, "up/a", filename)
        answer = await self.send(http, signed)
        assert (answer.status, answer.body) == (200, NINE)
        assert answer.headers["content-type"] == "video/mp4"
        disposition = Message()
        disposition["content-disposition"] = answer.headers["content-disposition"]
        assert disposition.get_content_disposition() == "attachment"
        name = disposition.get_param("filename", header="content-disposition")
        assert collapse_rfc2231_value(name if name is not None else "", errors="strict") == filename

    async def test_a_filename_adds_no_header(self, store: ObjectStore, http: SignedHttp) -> None:
        await self.put_object(store, http, "up/a", NINE)
        answer = await self.send(http, await self.sign_get(store, "up/a", "a\r\nset-cookie: b=c\r\n.mp4"))
        assert answer.status == 200
        assert "set-cookie" not in answer.headers
        assert "\n" not in answer.headers["content-disposition"]

    async def test_a_get_url_is_good_for_head_where_that_is_declared(
        self, store: ObjectStore, http: SignedHttp
    ) -> None:
        await self.put_object(store, http, "up/a", NINE)
        signed = await self.sign_get(store, "up/a")
        answer = await http.request("HEAD", signed.url, signed.headers, b"")
        if store.capabilities.get_signs_head:
            assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "9")

    async def test_close_is_idempotent(self, store: ObjectStore) -> None:
        await store.close()
        await store.close()
