"""What the doctor looks at."""

from __future__ import annotations

from dataclasses import dataclass

from uploadcore.ports import ObjectStore, StoreCapabilities
from uploadcore_s3.probe import SignedHttp

__all__ = ["Examined"]


@dataclass(frozen=True, slots=True)
class Examined:
    """What is looked at.

    Attributes:
        store: The store, open: it makes the calls whose permissions are tried.
        control: Requests by hand to the service's endpoint, as who may do everything.
        write: Requests by hand to the clients' endpoint, as who signs PUTs.
        capabilities: As configured.
        conditional_complete: Whether completions are sent with `If-None-Match: *`.
        declares_object_size: Whether they are sent with `x-amz-mp-object-size`.
        region: As signatures name it.
        sent_headers: Names of those a browser may have to send with a PUT.
    """

    store: ObjectStore
    control: SignedHttp
    write: SignedHttp
    capabilities: StoreCapabilities
    conditional_complete: bool
    declares_object_size: bool
    region: str
    sent_headers: frozenset[str] = frozenset({"content-type"})
