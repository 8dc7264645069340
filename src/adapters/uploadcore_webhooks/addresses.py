"""Which addresses an event may be sent to: those of the open internet, and those that the operator names."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

__all__ = ["Address", "Network", "is_permitted"]

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Not `ipaddress.is_global`: what it says has changed between the releases of Python that this runs on.
_NOT_PUBLIC_4 = tuple(
    IPv4Network(network)
    for network in (
        # Source: IANA IPv4 Special-Purpose Address Registry; what it calls globally reachable is left out.
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local, and most clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        # Source: Azure, "What is IP address 168.63.129.16?": the platform's own services, at an address that is public by number.
        "168.63.129.16/32",
    )
)
_PUBLIC_6 = IPv6Network("2000::/3")
"""Source: IANA IPv6 Global Unicast Address Assignments: all that was ever assigned. Mapped and translated IPv4 (`::ffff:0:0/96`,
`64:ff9b::/96`), loopback, link-local, site-local, unique local and multicast addresses are elsewhere."""
_NOT_PUBLIC_6 = tuple(
    IPv6Network(network)
    for network in (
        # Source: IANA IPv6 Special-Purpose Address Registry.
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",
        "2002::/16",  # 6to4: leads to any IPv4 address
        "3fff::/20",
    )
)


def is_permitted(address: Address, permitted: Sequence[Network] = ()) -> bool:
    """Whether an event may be sent there.

    Args:
        address: Where a name leads.
        permitted: What the operator names besides the open internet.

    >>> [is_permitted(IPv4Address(one)) for one in ("93.184.215.14", "127.0.0.1", "169.254.169.254")]
    [True, False, False]
    >>> is_permitted(IPv4Address("10.1.2.3"), [IPv4Network("10.1.0.0/16")])
    True
    """
    if any(address.version == network.version and address in network for network in permitted):
        return True
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    return address in _PUBLIC_6 and not any(address in network for network in _NOT_PUBLIC_6)
