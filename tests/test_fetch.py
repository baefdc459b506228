"""Addresses that visitors type lead to pictures on the public internet, and nowhere else."""

import http.server
import ipaddress
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from resnet_hub import ImageError
from resnet_hub.demo import fetch
from resnet_hub.demo.fetch import fetch_image, is_public


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        *[
            (address, False)
            for address in (
                *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254"),
                *(
                    "100.64.0.1",
                    "224.0.0.1",
                    "239.255.255.250",
                    "255.255.255.255",
                    "240.0.0.1",
                    "198.18.0.1",
                    "192.0.2.1",
                ),
                *("::1", "::", "fe80::1", "fc00::1", "fd12::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
                *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:0:0:0:0:0:80ff:fffe", "2001:db8::1"),
            )
        ],
    ],
)
def test_only_addresses_of_the_public_internet_are_public(address, expected):
    assert is_public(ipaddress.ip_address(address)) == expected


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1/", "http://localhost/x.png", "https://[::1]/", "http://0/", "http://2130706433/"),
        *("http://0x7f.1/", "http://169.254.169.254/latest/meta-data/", "http://[::ffff:127.0.0.1]/"),
    ],
)
def test_this_machine_and_its_network_are_out_of_reach(url):
    with pytest.raises(ImageError, match=r"not on the public internet|no such address"):
        fetch_image(url)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///etc/passwd", "no address of a picture"),
        ("ftp://example.org/x.png", "no address of a picture"),
        ("gopher://example.org/", "no address of a picture"),
        ("https://user:password@example.org/", "no address of a picture"),
        ("https://", "no address of a picture"),
        ("", "no address of a picture"),
        ("https://example.org:22/", "without a port"),
        ("http://example.org:8080/", "without a port"),
        ("https://example.org/\r\nHost: x", "plain addresses"),
        ("http://[::1", "no address"),
        ("https://example.org:99999/", "no address"),
    ],
)
def test_what_is_no_plain_address_is_refused(url, reason):
    with pytest.raises(ImageError, match=reason):
        fetch_image(url)


class Handler(http.server.BaseHTTPRequestHandler):
    """``/picture``, ``/to?URL`` (a redirect), ``/large``, ``/slow-body``, ``/slow-headers``, ``/loop``."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/slow-headers":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            self.drip(b"X-Slow: 1\r\n")
            return
        location = {"/to": query, "/loop": "/loop"}.get(path)
        self.send_response(302 if location else 404 if path == "/gone" else 200)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        if path == "/large":
            for _ in range(100):
                self.wfile.write(bytes(10**4))
        elif path == "/slow-body":
            self.drip(b"x")
        elif not location:
            self.wfile.write(f"{self.path} of {self.headers['Host']}".encode())

    def drip(self, piece: bytes) -> None:
        for _ in range(200):
            self.wfile.write(piece)
            self.wfile.flush()
            time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.handle_error = lambda *_: None  # of clients that hang up, which they shall
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def get(port, monkeypatch):
    """``get(path)``: fetch from the server, which here counts as the one public machine, called pictures.example."""

    def resolve(host: str, port: int, *_: object, **__: object) -> list:
        addresses = {"pictures.example": "127.0.0.1", "inside.example": "127.0.0.2"}
        address = addresses.get(host, host)  # an address means itself
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(fetch.socket, "getaddrinfo", resolve)
    allowed = ipaddress.ip_address("127.0.0.1")
    return lambda path, **options: fetch_image(
        f"http://pictures.example{path}", is_allowed=lambda a: a == allowed, ports={"http": port}, **options
    )


def test_a_picture_is_fetched_in_its_servers_name(get):
    assert get("/picture?size=2").startswith(b"/picture?size=2 of pictures.example")
    assert get("/hände.png").startswith(b"/h%C3%A4nde.png of pictures.example")


def test_a_redirect_is_followed_where_it_may_lead(get):
    assert get("/to?/picture").startswith(b"/picture")
    assert get("/to?http://pictures.example/picture").startswith(b"/picture")
    for inside in ("http://inside.example/secret", "http://127.0.0.2/", "//inside.example/x"):
        with pytest.raises(ImageError, match="not on the public internet"):
            get(f"/to?{inside}")
    with pytest.raises(ImageError, match="no address of a picture"):
        get("/to?file:///etc/passwd")
    with pytest.raises(ImageError, match="from one to the next"):
        get("/loop")


def test_a_name_that_changes_its_address_is_asked_once(get, monkeypatch):
    asked = []
    resolve = fetch.socket.getaddrinfo
    monkeypatch.setattr(fetch.socket, "getaddrinfo", lambda *a, **k: asked.append(a) or resolve(*a, **k))
    get("/picture")
    # create_connection asks again, but for an address, which cannot change its meaning.
    assert [host for host, *_ in asked if host == "pictures.example"] == ["pictures.example"]


def test_a_name_with_one_address_inside_is_refused(monkeypatch):
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(fetch.socket, "getaddrinfo", lambda *_, **__: both)
    with pytest.raises(ImageError, match="not on the public internet"):
        fetch_image("http://mixed.example/")


def test_a_server_that_drips_is_cut_off(get):
    for path in ("/slow-body", "/slow-headers"):
        start = time.monotonic()
        with pytest.raises(ImageError, match="takes too long"):
            get(path, max_seconds=0.6)
        assert time.monotonic() - start < 3


def test_a_large_answer_is_not_read_to_its_end(get, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_BYTES", 50_000)
    with pytest.raises(ImageError, match="more than"):
        get("/large")


def test_an_error_of_the_server_is_told_by_its_number(get):
    with pytest.raises(ImageError, match="answers with 404"):
        get("/gone")
