"""The page under load: clients on this machine upload pictures, and each waits for its answer before it sends the next.

    python benchmarks/page.py                # 1, 8 and 32 clients for 60 s each, through the queue and past it
    python benchmarks/page.py --seconds 5    # a quick look

Client and server share this machine's cores, so real visitors get more. Prints a table, and writes JSON where told.
"""

import io
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

# The script runs from a checkout, from any directory, without being installed.
ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import httpx
import tyro

from benchmarks.machine import describe, markdown, write_json
from resnet_hub import drawn_signs

CLIENTS = (1, 8, 32)
#: Pictures that the clients take turns with, as a phone's browser sends them.
PICTURES, PICTURE_SIDE = 24, 480


@dataclass(frozen=True)
class Load:
    """What one number of clients saw. Times in milliseconds, memory and folder in MB."""

    route: str
    clients: int
    requests: int
    errors: int
    per_second: float
    p50: float
    p95: float
    memory_before: float
    memory_after: float
    uploads: float


def main(seconds: float = 60.0, json_file: Path | None = None) -> None:
    """Measure.

    Args:
        seconds: Of each load.
        json_file: Write figures, versions and hardware there too.
    """
    pictures = [encode(number) for number in range(PICTURES)]
    with tempfile.TemporaryDirectory() as temporary:
        process, url = start(temporary)
        try:
            loads = [
                run(route, clients, seconds, url, pictures, process.pid, Path(temporary))
                for route in ("queue", "/predict")
                for clients in CLIENTS
            ]
        finally:
            process.terminate()
            process.wait(20)
    print(table(loads))
    if json_file is not None:
        machine = describe(["torch", "gradio", "pillow"])
        write_json(json_file, {"seconds": seconds, "machine": machine, "loads": [asdict(load) for load in loads]})


def encode(number: int) -> bytes:
    stream = io.BytesIO()
    drawn_signs.draw_sign(number % 6, number, image_size=PICTURE_SIDE).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def start(temporary: str) -> tuple[subprocess.Popen, str]:
    """The page on a free port, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"TMPDIR": temporary}
    process = subprocess.Popen([sys.executable, ROOT / "app.py", "--port", str(port)], env=environment)
    url = f"http://127.0.0.1:{port}"
    for _ in range(120):
        try:
            httpx.get(f"{url}/healthz", timeout=1).raise_for_status()
            return process, url
        except httpx.HTTPError:
            time.sleep(0.5)
    raise SystemExit("the page does not answer")


def run(route: str, clients: int, seconds: float, url: str, pictures: list[bytes], pid: int, folder: Path) -> Load:
    send = {"queue": through_queue, "/predict": past_queue}[route]
    times: list[float] = []
    errors: list[str] = []
    begin = time.perf_counter()
    before = memory(pid)

    def client(number: int) -> None:
        with httpx.Client(base_url=url, timeout=60) as http:
            while time.perf_counter() - begin < seconds:
                sent = time.perf_counter()
                try:
                    send(http, pictures[(number + len(times)) % len(pictures)])
                    times.append(1000 * (time.perf_counter() - sent))
                except (httpx.HTTPError, ValueError, KeyError) as error:
                    errors.append(repr(error))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - begin
    for error in sorted(set(errors))[:5]:
        print(f"{route}, {clients} clients: {errors.count(error)} x {error}", file=sys.stderr)
    ordered = sorted(times) or [float("nan")]
    return Load(
        route=route,
        clients=clients,
        requests=len(times),
        errors=len(errors),
        per_second=len(times) / elapsed,
        p50=statistics.median(ordered),
        p95=ordered[int(0.95 * (len(ordered) - 1))],
        memory_before=before,
        memory_after=memory(pid),
        uploads=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20,
    )


def through_queue(http: httpx.Client, picture: bytes) -> None:
    """As the page does it: upload, join the queue, wait for the event."""
    upload = http.post("/gradio_api/upload", files={"files": ("hand.jpg", picture)})
    upload.raise_for_status()
    file = {"path": upload.json()[0], "meta": {"_type": "gradio.FileData"}}
    call = http.post("/gradio_api/call/classify", json={"data": [file, ""]})
    call.raise_for_status()
    answer = http.get(f"/gradio_api/call/classify/{call.json()['event_id']}")
    answer.raise_for_status()
    if "event: complete" not in answer.text:
        raise ValueError(answer.text[:200])


def past_queue(http: httpx.Client, picture: bytes) -> None:
    answer = http.post("/predict", content=picture)
    answer.raise_for_status()
    answer.json()["predictions"]


def memory(pid: int) -> float:
    """Resident memory of the server, in MB. Linux only; elsewhere it is not told."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return float("nan")
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmRSS")) / 1024


def table(loads: list[Load]) -> str:
    header = ["route", "clients", "requests/s", "p50 ms", "p95 ms", "errors", "memory MB before, after", "uploads MB"]
    rows = [
        [
            load.route,
            str(load.clients),
            f"{load.per_second:.1f}",
            f"{load.p50:.0f}",
            f"{load.p95:.0f}",
            str(load.errors),
            f"{load.memory_before:.0f}, {load.memory_after:.0f}",
            f"{load.uploads:.0f}",
        ]
        for load in loads
    ]
    return markdown(header, rows)


if __name__ == "__main__":
    tyro.cli(main)
