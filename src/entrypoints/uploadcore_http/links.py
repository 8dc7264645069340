"""Where things are from the client's side: behind a mount or a proxy, a path here is not the path there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

__all__ = ["Links"]

_KEY = "uploadcore_links"


@dataclass(frozen=True, slots=True)
class Links:
    """Makes links out of paths.

    Attributes:
        base: The public URL, or what the service is mounted under; no trailing slash.
    """

    base: str

    def to(self, path: str) -> str:
        """The link to a path of this service, absolute or relative to the host (RFC 9110, section 10.2.2, allows both)."""
        return f"{self.base}{path}"

    @classmethod
    def of(cls, scope: Mapping[str, Any]) -> Self:
        """What `Edge` found out about this request."""
        state: dict[str, Any] = scope["state"]
        links = state[_KEY]
        assert isinstance(links, cls)
        return links

    def put_into(self, state: dict[str, Any]) -> None:
        """Leave it for `of`."""
        state[_KEY] = self
