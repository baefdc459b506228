"""The web page: ``python app.py`` serves the model that ships with the project on http://127.0.0.1:7860."""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

from resnet_hub.errors import ConfigurationError, ResNetHubError

DEFAULT_MODEL = Path(__file__).resolve().parent / "models" / "signs-resnet50"


def parse_arguments() -> argparse.Namespace:
    on_a_space = "SPACE_ID" in os.environ  # a Hugging Face Space is reached from outside its container
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="checkpoint folder or Hub id (default: %(default)s)")
    host = os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0" if on_a_space else "127.0.0.1")
    parser.add_argument("--host", default=host, help="address to listen on (default: %(default)s)")
    port = os.environ.get("GRADIO_SERVER_PORT", "7860")
    parser.add_argument("--port", type=int, default=port, help="port to listen on (default: %(default)s)")
    parser.add_argument("--share", action="store_true", help="also open a public address, through gradio.live")
    return parser.parse_args()


def serve(arguments: argparse.Namespace) -> None:
    """Load the model, open the page, and block until the process is told to stop."""
    # Read when Gradio is imported, hence before. No telemetry; and the statistics that Gradio keeps of each request,
    # which nothing here shows, cost more than the request.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
    os.environ |= {"GRADIO_ANALYTICS_CACHE_FREQUENCY": "1000000000", "GRADIO_ANALYTICS_MAX_EVENTS": "1"}

    from PIL import Image

    from resnet_hub.predictor import Predictor

    predictor = Predictor(arguments.model)
    predictor(Image.new("RGB", (64, 64)))  # the first pass is slow: not at the first visitor's expense

    from resnet_hub.demo import build_demo
    from resnet_hub.demo.theme import CSS, THEME
    from resnet_hub.demo.uploads import MAX_UPLOAD_MB

    demo = build_demo(predictor).queue(max_size=64)
    try:
        demo.launch(
            server_name=arguments.host,
            server_port=arguments.port,
            share=arguments.share,
            theme=THEME,
            css=CSS,
            max_file_size=f"{MAX_UPLOAD_MB}mb",
            show_error=False,  # of unforeseen errors, whose text may hold paths
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            footer_links=["api", "settings"],
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {arguments.host}:{arguments.port}, the port may be in use: choose another with --port"
        ) from error
    print(f"{arguments.model} is served on {demo.local_url} (stop with Ctrl+C)", flush=True)
    demo.block_thread()


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the folder of uploads goes in this case, too
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="resnet-hub-") as uploads:
        os.environ.setdefault("GRADIO_TEMP_DIR", uploads)
        try:
            serve(arguments)
        except ResNetHubError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
