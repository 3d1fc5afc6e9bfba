"""Which addresses are of the public internet: the one list of what neither a function nor a callback may reach."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

INNER_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
            "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24",
            "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
            "168.63.129.16/32",  # a public address that is Azure's metadata service
        ),
    )
)  # fmt: skip
"""Private, link-local (metadata), shared, loopback, test, multicast and reserved networks."""
PUBLIC_V6 = IPv6Network("2000::/3")
"""All that is given to anybody; what maps or translates IPv4 into IPv6 (``::ffff:0:0/96``, ``64:ff9b::/96``) is not."""
INNER_V6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
"""Of those: protocols (Teredo), documentation, and 6to4, which hides IPv4 addresses."""


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether it is an address that anybody on the internet may have."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in INNER_V4)
    return address in PUBLIC_V6 and not any(address in network for network in INNER_V6)
