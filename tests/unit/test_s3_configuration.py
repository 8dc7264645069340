"""What an S3 store is told, by keyword or in its URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from uploadcore.errors import InvalidRequestError
from uploadcore.file import ChecksumAlgorithm
from uploadcore.plan import S3_LIMITS
from uploadcore.ports import AdapterContext, StoreCapabilities
from uploadcore_s3 import PRESETS, MinioObjectStore, S3Configuration, S3ObjectStore, minio_from_url, s3_from_url
from uploadcore_s3.configuration import parse_capabilities

CONTEXT = AdapterContext(Path("unused"), "https://uploads.example.com")


def test_nothing_is_taken_for_granted() -> None:
    store = S3ObjectStore("media")

    assert store.capabilities == StoreCapabilities()
    assert store.limits == S3_LIMITS


def test_a_url_says_all_that_keywords_do() -> None:
    url = (
        "s3://media?endpoint=http%3A%2F%2F10.0.0.1%3A8080&public_endpoint=https://s3.example.com&region=eu-west-1"
        "&addressing=virtual&capabilities=aws,conditional_complete,object_size&sse=aws:kms&sse_kms_key_id=key-1"
        "&storage_class=STANDARD_IA&tagging=team%3Dvideo%26kind%3Draw&profile=control&write_profile=write"
        "&part_size_min=1&threads=4&ca_certs=/etc/ca.pem"
    )

    configuration = s3_from_url(url, CONTEXT)._configuration

    assert configuration == S3Configuration(
        "media",
        endpoint="http://10.0.0.1:8080",
        public_endpoint="https://s3.example.com",
        region="eu-west-1",
        addressing="virtual",
        capabilities=PRESETS["aws"],
        conditional_complete=True,
        declare_object_size=True,
        sse="aws:kms",
        sse_kms_key_id="key-1",
        storage_class="STANDARD_IA",
        tagging="team=video&kind=raw",
        profile="control",
        write_profile="write",
        part_size_min=1,
        threads=4,
        ca_certs="/etc/ca.pem",
    )
    assert configuration.object_headers == {
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "key-1",
        "x-amz-storage-class": "STANDARD_IA",
        "x-amz-tagging": "team=video&kind=raw",
    }


def test_a_minio_url_has_the_endpoint_for_its_host() -> None:
    secure = minio_from_url("minio://minio.example.com/media", CONTEXT)
    plain = minio_from_url("minio://127.0.0.1:9000/media?secure=false&capabilities=minio", CONTEXT)

    assert isinstance(secure, MinioObjectStore)
    assert (secure.bucket, secure._configuration.endpoint) == ("media", "https://minio.example.com")
    assert plain._configuration.endpoint == "http://127.0.0.1:9000"
    assert plain.capabilities == PRESETS["minio"]


def test_the_smallest_part_is_the_url_s_then_the_setting_s() -> None:
    context = AdapterContext(Path("unused"), "https://uploads.example.com", part_size_min=7)

    assert s3_from_url("s3://media", context).limits.min_part_size == 7
    assert s3_from_url("s3://media?part_size_min=1", context).limits.min_part_size == 1


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("s3://", "can't be a bucket"),
        ("s3://media/prefix", "an s3 URL is s3://bucket"),
        ("s3://AKIA:hunter2@media", "never from the URL"),
        ("s3://media#x", "no fragment"),
        ("s3://media?endpont=http://a", "no option 'endpont'"),
        ("s3://media?region=a&region=b", "names each option once"),
        ("s3://media?endpoint=ftp://a", "endpoint is a web address"),
        ("s3://media?endpoint=http://u:p@a", "endpoint is a web address"),
        ("s3://media?public_endpoint=s3.example.com", "public_endpoint is a web address"),
        ("s3://media?endpoint=http://a:99999", "names no port"),
        ("s3://media?addressing=host", "auto, path or virtual"),
        ("s3://media?capabilities=conditional_puts", "is no capability"),
        ("s3://media?capabilities=unsigned_headers_refused", "is no capability"),
        ("s3://media?capabilities=object_sha256", "one checksum of the whole"),
        ("s3://media?capabilities=crc64nvme,crc32c", "one checksum of the whole"),
        ("s3://media?sse=DES", "AES256 or aws:kms"),
        ("s3://media?sse_kms_key_id=k", "is for sse=aws:kms"),
        ("s3://media?storage_class=a%0d%0ab", "printable ASCII"),
        ("s3://media?part_size_min=0", "a smallest part has"),
        ("s3://media?part_size_min=five", "part_size_min is a number"),
        ("s3://media?threads=0", "threads are 1 or more"),
        ("s3://media?write_profile=a&write_role=b", "exclude each other"),
        ("s3://media?write_role_external_id=a", "is for a write_role"),
    ],
)
def test_what_can_not_be_used_is_refused_and_no_password_is_shown(url: str, complaint: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        s3_from_url(url, CONTEXT)

    assert complaint in refused.value.message
    assert "hunter2" not in refused.value.message


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("minio://127.0.0.1:9000", "can't be a bucket"),
        ("minio:///media", "a minio URL is"),
        ("minio://a/media?endpoint=http://b", "the endpoint is its host"),
        ("minio://a/media?secure=no", "secure is true or false"),
    ],
)
def test_a_minio_url_that_can_not_be_used_is_refused(url: str, complaint: str) -> None:
    with pytest.raises(InvalidRequestError, match=complaint):
        minio_from_url(url, CONTEXT)


def test_minio_py_needs_an_endpoint_without_a_path() -> None:
    for endpoint in (None, "https://s3.example.com/prefix"):
        with pytest.raises(InvalidRequestError, match="without a path"):
            MinioObjectStore("media", endpoint=endpoint)


@pytest.mark.parametrize(
    ("given", "is_path_style"),
    [
        ({}, False),
        ({"endpoint": "http://127.0.0.1:9000"}, True),
        ({"addressing": "path"}, True),
        ({"endpoint": "http://127.0.0.1:9000", "addressing": "virtual"}, False),
    ],
)
def test_the_bucket_is_in_the_path_where_an_endpoint_is_given(given: dict[str, Any], is_path_style: bool) -> None:
    assert S3Configuration("media", **given).is_path_style is is_path_style


def test_a_bucket_with_a_dot_is_in_the_path() -> None:
    assert S3Configuration("media.example.com").is_path_style


def test_capabilities_are_words_that_add_to_and_take_from_a_preset() -> None:
    parsed = parse_capabilities("swift,-conditional_put, get_signs_head,-part_sha256,conditional_complete")

    capabilities = parsed["capabilities"]
    assert isinstance(capabilities, StoreCapabilities)
    assert not capabilities.conditional_put
    assert capabilities.get_signs_head
    assert capabilities.repeatable_complete
    assert capabilities.part_checksums == {ChecksumAlgorithm.CRC64NVME, ChecksumAlgorithm.CRC32C}
    assert parsed["conditional_complete"]


def test_a_checksum_s_name_is_of_the_whole_and_of_parts_where_both_can_be() -> None:
    both = parse_capabilities("crc32c")["capabilities"]
    parts = parse_capabilities("sha256")["capabilities"]

    assert isinstance(both, StoreCapabilities)
    assert isinstance(parts, StoreCapabilities)
    assert both.object_checksums == both.part_checksums == {ChecksumAlgorithm.CRC32C}
    assert not parts.object_checksums
    assert parts.part_checksums == {ChecksumAlgorithm.SHA256}


def test_a_store_s_repr_shows_its_bucket_only() -> None:
    assert repr(S3ObjectStore("media", tagging="a=b")) == "S3ObjectStore('media')"
