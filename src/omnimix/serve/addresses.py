"""Which addresses of the internet may be asked: those that are anybody's, and nobody's at home."""

from __future__ import annotations

import ipaddress

_UNICAST = ipaddress.ip_network("2000::/3")
"""The only part of IPv6 that is given out to the public internet (IANA, ipv6-address-space)."""

_REFUSED = tuple(
    map(
        ipaddress.ip_network,
        (
            # Tunnels and translations: an address of IPv4 stands inside, which may be one at home.
            "2001::/23",  # Teredo, ORCHID, benchmarks: protocol assignments, RFC 2928
            "2002::/16",  # 6to4, RFC 3056
            "192.0.0.0/24",  # protocol assignments of IPv4, RFC 6890, a few of which Python calls global
            "192.88.99.0/24",  # its relays, RFC 7526
            # Documentation and other ground that Python 3.11 does not know yet.
            "2001:db8::/32",
            "3fff::/20",
            "5f00::/16",
        ),
    )
)


def is_public(address: str) -> bool:
    """Whether an address belongs to the public internet, whatever route leads there.

    IPv6 addresses that carry one of IPv4 (mapped, compatible, NAT64, 6to4, Teredo) are refused as a whole.
    NAT64 (`64:ff9b::/96`), mapped and compatible addresses lie outside `2000::/3`.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False  # an address with a zone (fe80::1%eth0) among them
    if ip.version == 6 and ip not in _UNICAST:
        return False
    if any(ip.version == network.version and ip in network for network in _REFUSED):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)
