"""Pictures from addresses that visitors type, without letting them reach what only this machine can reach.

A server that fetches for strangers can be sent to its own network: to the metadata service of a cloud, to a router, to
itself. So the name is resolved once, the addresses are checked, and the connection goes to a checked address and no
other, whatever the name means by then; redirects are checked in the same way.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from urllib.parse import quote, urljoin, urlsplit

from resnet_hub.errors import ImageError

#: Of the whole: connecting, headers, body and redirects.
MAX_SECONDS = 10.0
MAX_BYTES = 20 * 2**20
MAX_REDIRECTS = 3
PORTS = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)
#: Networks whose addresses carry an IPv4 address within, perhaps a private one.
TRANSLATED = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(address: Address) -> bool:
    """Whether anyone on the internet can reach it: not private, loopback, link-local, multicast, shared or reserved."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address.sixtofour or address.teredo or any(address in network for network in TRANSLATED):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def fetch_image(
    url: str,
    *,
    is_allowed: Callable[[Address], bool] = is_public,
    ports: dict[str, int] | None = None,
    max_seconds: float = MAX_SECONDS,
) -> bytes:
    """The content at an http or https address.

    Args:
        url: As typed; without a scheme https is meant.
        is_allowed: Which addresses may be reached.
        ports: The only port of each scheme; default 80 and 443.
        max_seconds: Of all together.

    Returns:
        At most ``MAX_BYTES`` bytes, of whatever kind: decode it with :func:`resnet_hub.images.open_image`.

    Raises:
        ImageError: the address cannot or must not be fetched; the message says why.
    """
    deadline = time.monotonic() + max_seconds
    url = url.strip() if "://" in url else f"https://{url.strip()}"
    for _ in range(MAX_REDIRECTS + 1):
        answer = _get(url, is_allowed, ports or PORTS, deadline)
        if isinstance(answer, bytes):
            return answer
        url = urljoin(url, answer)
    raise ImageError("the address leads from one to the next: use the last one")


def _get(url: str, is_allowed: Callable[[Address], bool], ports: dict[str, int], deadline: float) -> bytes | str:
    """The content, or where it has moved to."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ImageError("this is no address: use one that begins with https://") from error
    if parts.scheme not in ports or not host or parts.username is not None:
        raise ImageError("this is no address of a picture: use one that begins with https://")
    if port not in (None, ports[parts.scheme]) or not url.isprintable() or " " in url:
        raise ImageError("only plain addresses are fetched, without a port: use another one")
    address = _resolve(host, ports[parts.scheme], is_allowed)
    connection = _Connection(host, ports[parts.scheme], address, parts.scheme == "https", deadline)
    # Reading with a timeout bounds each wait, not their sum: a server that drips is cut off at the deadline.
    guillotine = threading.Timer(max(0.0, deadline - time.monotonic()), connection.cut)
    guillotine.daemon = True
    guillotine.start()
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"User-Agent": "resnet-hub", "Accept": "image/*"}
        connection.request("GET", quote(path, safe="/%?&=+,;:@!$'()*~-._"), headers=headers)
        response = connection.getresponse()
        if response.status in REDIRECTS and response.headers.get("Location"):
            return response.headers["Location"]
        if response.status != 200:
            raise ImageError(f"the address answers with {response.status}: open it in a browser to see why")
        content = response.read(MAX_BYTES + 1)
    except ImageError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        if time.monotonic() >= deadline - 0.05:
            raise ImageError("the address takes too long to answer: save the picture and upload it") from error
        raise ImageError("the address cannot be reached: check it, or save the picture and upload it") from error
    finally:
        guillotine.cancel()
        connection.close()
    if time.monotonic() >= deadline:  # what was cut off looks like an end
        raise ImageError("the address takes too long to answer: save the picture and upload it")
    if len(content) > MAX_BYTES:
        raise ImageError(f"the picture has more than {MAX_BYTES // 2**20} MB: use a smaller one")
    return content


def _resolve(host: str, port: int, is_allowed: Callable[[Address], bool]) -> str:
    """The first address of the name. All must be allowed: a name with one that is not is not to be trusted."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ImageError("there is no such address: check it") from error
    addresses = [ipaddress.ip_address(entry[4][0].partition("%")[0]) for entry in found]
    if not addresses or not all(map(is_allowed, addresses)):
        raise ImageError("this address is not on the public internet: upload the picture instead")
    return str(addresses[0])


class _Connection(http.client.HTTPConnection):
    """To a checked address, in the name of ``host``: for its certificate, and for servers with many names."""

    def __init__(self, host: str, port: int, address: str, is_https: bool, deadline: float) -> None:
        super().__init__(host, port, timeout=max(0.1, deadline - time.monotonic()))
        self._address = address
        self._is_https = is_https
        self._open_socket: socket.socket | None = None
        if is_https:
            self.default_port = 443  # so that the Host header goes without it

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), self.timeout)
        if self._is_https:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)
        self._open_socket = self.sock  # http.client forgets its own once the headers are there

    def cut(self) -> None:
        """End whatever waits for this connection, from another thread."""
        with contextlib.suppress(OSError, AttributeError):  # not connected yet: that has its timeout
            self._open_socket.shutdown(socket.SHUT_RDWR)
