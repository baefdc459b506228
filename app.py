"""The web page: ``python app.py`` serves the models that ship with the project on http://127.0.0.1:7860."""

import argparse
import ctypes
import os
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

# Read when PyTorch is imported, hence before. Threads that wait for their fellows sleep: on cores that are busy with
# something else, too, those that spin instead take the time of the very thread that they wait for.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from resnet_hub.errors import ConfigurationError, ResNetHubError

if TYPE_CHECKING:
    import gradio as gr

#: Seconds that visitors have to finish when the page is told to stop.
GRACE_SECONDS = 3
#: The number of the setting in glibc's malloc.h.
M_ARENA_MAX = -8
MODELS = Path(__file__).resolve().parent / "models"


def parse_arguments() -> argparse.Namespace:
    on_a_space = "SPACE_ID" in os.environ  # a Hugging Face Space is reached from outside its container
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    models = os.environ.get("RESNET_HUB_MODELS", "").split() or shipped_models()
    shown = ", ".join(os.path.relpath(model) if Path(model).is_absolute() else model for model in models)
    add(
        "--models",
        nargs="+",
        default=models,
        help=f"checkpoint folders or Hub ids; the first one is shown first ({shown})",
    )
    add("--allow-hub", action="store_true", help="visitors may name any model of the Hub")
    add("--device", help="where to compute: cpu, cuda, ... (CUDA where there is one, but the CPU on ZeroGPU)")
    add("--data", nargs="*", help="datasets with samples to try, as train.py takes them (signs, where it is)")
    host = os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0" if on_a_space else "127.0.0.1")
    add("--host", default=host, help="address to listen on; 0.0.0.0 for every one of this machine (%(default)s)")
    port = os.environ.get("GRADIO_SERVER_PORT", "7860")
    add("--port", type=int, default=port, help="port to listen on (%(default)s)")
    add("--root-path", default=os.environ.get("GRADIO_ROOT_PATH"), help="path under which a proxy serves the page")
    add("--share", action="store_true", help="also open a public address, through gradio.live")
    add("--allow-origin", nargs="*", default=[], metavar="URL", help="other sites whose scripts may use the page")
    add("--mcp", action="store_true", help="also serve the endpoints as tools of the Model Context Protocol")
    add("--auth", default=os.environ.get("RESNET_HUB_AUTH"), metavar="USER:PASSWORD", help="ask visitors for these")
    add(
        "--queue-size",
        type=int,
        default=64,
        metavar="N",
        help="visitors who may wait; more are told that the page is busy (%(default)s)",
    )
    add("--feedback", type=Path, metavar="FOLDER", help="keep visitors' corrections, with their pictures, in FOLDER")
    add("--feedback-repo", metavar="ID", help="also upload these to a private dataset of the Hub, every ten minutes")
    arguments = parser.parse_args()
    if arguments.auth is not None and ":" not in arguments.auth:
        parser.error("--auth must be USER:PASSWORD")
    if arguments.queue_size < 1:
        parser.error(f"--queue-size must be at least 1, got {arguments.queue_size}")
    if arguments.feedback_repo and not arguments.feedback:
        parser.error("--feedback-repo needs --feedback FOLDER, where corrections are kept first")
    return arguments


def shipped_models() -> list[str]:
    """The checkpoint folders under ``models/``, hands first."""
    found = sorted(str(file.parent) for file in MODELS.glob("*/config.json"))
    return sorted(found, key=lambda folder: "signs" not in folder)


def serve(arguments: argparse.Namespace) -> None:
    """Load the model, open the page, and block until the process is told to stop."""
    # Read when Gradio is imported, hence before. No telemetry; and the statistics that Gradio keeps of each request,
    # which nothing here shows, cost more than the request.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
    os.environ |= {"GRADIO_ANALYTICS_CACHE_FREQUENCY": "1000000000", "GRADIO_ANALYTICS_MAX_EVENTS": "1"}

    import uvicorn
    from PIL import Image

    from resnet_hub.demo import build_demo, zero_gpu
    from resnet_hub.demo.feedback import FeedbackStore
    from resnet_hub.demo.janitor import Janitor
    from resnet_hub.demo.models import ModelLibrary
    from resnet_hub.demo.samples import SampleLibrary, default_datasets
    from resnet_hub.demo.server import build_server

    listener = listen(arguments.host, arguments.port)
    Janitor(Path(os.environ["GRADIO_TEMP_DIR"])).start()
    device = arguments.device or ("cpu" if zero_gpu.is_here() else None)
    library = ModelLibrary(arguments.models, allow_hub=arguments.allow_hub, device=device)
    library.get(None)(Image.new("RGB", (64, 64)))  # the first pass is slow: not at the first visitor's expense
    samples = SampleLibrary(default_datasets() if arguments.data is None else arguments.data)
    feedback = FeedbackStore(arguments.feedback, arguments.feedback_repo) if arguments.feedback else None

    demo = build_demo(library, samples, feedback).queue(max_size=arguments.queue_size, api_open=False)
    app = build_server(
        demo,
        library,
        host=arguments.host,
        port=arguments.port,
        root_path=arguments.root_path,
        auth=tuple(arguments.auth.split(":", 1)) if arguments.auth else None,
        origins=arguments.allow_origin,
        mcp=arguments.mcp,
    )
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=GRACE_SECONDS, proxy_headers=True)
    server = uvicorn.Server(config)
    shown_host = "127.0.0.1" if arguments.host in ("0.0.0.0", "::") else arguments.host

    async def announce() -> None:
        print(
            f"{', '.join(library.names)} served on http://{shown_host}:{arguments.port}/ (stop with Ctrl+C)", flush=True
        )
        if arguments.share:
            threading.Thread(target=share, args=(demo, shown_host, arguments.port), daemon=True).start()

    demo.extra_startup_events.append(announce)
    if zero_gpu.is_here():
        zero_gpu.report_start()
    server.run(sockets=[listener])


def share_memory_pools() -> None:
    """Have threads allocate from two pools, where glibc would make eight for each core and each would keep its most."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_ARENA_MAX, 2)


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound before anything is loaded. Raises ``ConfigurationError`` where that cannot be."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=2048)
        # For its connections, which asyncio does not see to where the socket is not its own: a response is sent in two
        # parts, and the second would wait 40 ms for the browser to acknowledge the first.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host}:{port} ({os.strerror(error.errno or 0)}): choose another with --port"
        ) from error


def share(demo: "gr.Blocks", host: str, port: int) -> None:
    """A public address through Gradio's servers, as ``launch(share=True)`` has it."""
    from gradio.networking import setup_tunnel

    try:
        print(f"and on {setup_tunnel(host, port, demo.share_token, None, None)}", flush=True)
    except Exception as error:  # of a network that is not there; the page goes on
        print(f"no public address could be had ({error}): check the network", file=sys.stderr)


def main() -> int:
    share_memory_pools()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the folder of uploads goes in this case, too
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="resnet-hub-") as uploads:
        # A folder of its own, of which nothing is left; Gradio's default is shared by all that run on this machine.
        os.environ["GRADIO_TEMP_DIR"] = uploads
        try:
            serve(arguments)
        except ResNetHubError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
