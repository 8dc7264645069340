"""XML from a store: bounded by who reads it, and never with a document type, so that no entity can grow or fetch anything."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

__all__ = ["NotXmlError", "children", "is_error", "local_name", "parse_result", "parse_xml", "text_of"]

_ERROR = re.compile(rb"\s*(?:<\?xml[^>]*\?>)?\s*<(?:[A-Za-z0-9]+:)?Error[\s>/]")


class NotXmlError(ValueError):
    """The bytes are no XML document that a store would send."""


def parse_xml(body: bytes) -> ET.Element:
    """The root of a document.

    Decoded here, so that no encoding it names can hide a document type from the search for one.

    Raises:
        NotXmlError: It is cut short, not UTF-8, not XML, or has a document type.

    >>> children(parse_xml(b"<A><B>1</B><C/></A>"))
    {'B': '1', 'C': ''}
    """
    try:
        text = body.decode()
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise NotXmlError("it has a document type")
        return ET.fromstring(text.strip())  # noqa: S314 - without a document type there are no entities
    except (ET.ParseError, UnicodeDecodeError) as exc:
        raise NotXmlError("it is cut short, or no XML") from exc


def parse_result(body: bytes, name: str) -> ET.Element:
    """The root of a document of that name: a page of a proxy is well-formed too, and lists nothing.

    Raises:
        NotXmlError: It is another document, or none that a store would send.
    """
    root = parse_xml(body)
    if local_name(root) != name:
        raise NotXmlError(f"it is no {name}")
    return root


def is_error(body: bytes) -> bool:
    """Whether a document is S3's `<Error>`, whatever status it came with."""
    return _ERROR.match(body) is not None


def children(element: ET.Element) -> dict[str, str]:
    """The text of an element's children, by name without namespace; the last one of a name."""
    return {local_name(child): (child.text or "").strip() for child in element}


def local_name(element: ET.Element) -> str:
    """An element's name without its namespace: some stores send one, some don't."""
    return element.tag.rpartition("}")[2]


def text_of(body: bytes, name: str) -> str:
    """The text of the root's child of that name; empty if there is none, or no document.

    >>> text_of(b"<Error><Code>NoSuchKey</Code></Error>", "Code")
    'NoSuchKey'
    """
    try:
        return children(parse_xml(body)).get(name, "")
    except NotXmlError:
        return ""
