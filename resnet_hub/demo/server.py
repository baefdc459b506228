"""The server around the page: what strangers may send, what browsers may do with the page, and two plain routes.

Gradio is mounted into an app of our own: with that it leaves the question of other origins (CORS) to us, which it would
otherwise answer with yes for all of them.
"""

import importlib.util
import time
import warnings
from collections.abc import Sequence
from typing import Any

import anyio
import gradio as gr
from fastapi import FastAPI
from gradio.route_utils import FnIndexInferError
from starlette.datastructures import MutableHeaders, UploadFile
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resnet_hub.demo.models import ModelLibrary
from resnet_hub.demo.theme import CSS, THEME
from resnet_hub.demo.uploads import MAX_UPLOAD_MB
from resnet_hub.errors import CheckpointError, ConfigurationError, ImageError, ResNetHubError

#: Of a request's body. Uploads may be many files at once; a picture within JSON is a third larger than itself.
MAX_BODY_BYTES = (MAX_UPLOAD_MB + 10) * 2**20
MAX_UPLOAD_BYTES = 12 * MAX_UPLOAD_MB * 2**20
UPLOAD_PATH = "/gradio_api/upload"
CALL_PATH = "/gradio_api/call/"
#: Visitors whose choices are remembered, at 160 KB each; more, and those go who were here longest ago.
MAX_SESSIONS = 1000
#: Of Gradio, and of no use here: the first resizes to any size that is asked for, the second shows who asked what.
CLOSED = ("/pwa_icon", "/monitoring", "/gradio_api/monitoring")
#: Requests to ``/predict`` that are answered together, and those that may wait for it; more are told to come back.
TOGETHER = 16
MAX_WAITING = 64

#: What the page may load, and from where: from this server alone. Gradio's own code needs the unsafe ones; the frames
#: are those of Hugging Face Spaces.
CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' blob: data:",
        "media-src 'self' blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self' https://huggingface.co https://*.hf.space",
    ]
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def build_server(
    demo: gr.Blocks,
    library: ModelLibrary,
    *,
    host: str,
    port: int,
    root_path: str | None = None,
    auth: tuple[str, str] | None = None,
    origins: Sequence[str] = (),
    mcp: bool = False,
) -> FastAPI:
    """The ASGI app of page and routes.

    Args:
        demo: Of :func:`resnet_hub.demo.build_demo`, with its queue.
        host, port: Where it will listen.
        root_path: Under which a proxy serves it.
        auth: Name and password that visitors must give; then ``/predict`` is closed, which has no way to ask.
        origins: Other sites whose scripts may use it, such as ``https://example.org``.
        mcp: Whether the documented endpoints are tools of the Model Context Protocol, too, at ``/gradio_api/mcp``.

    Raises:
        ConfigurationError: ``mcp`` without the package for it.
    """
    if mcp and importlib.util.find_spec("mcp") is None:
        raise ConfigurationError("--mcp needs a package that is not installed: pip install 'mcp>=1.21,<2'")
    app = FastAPI(
        openapi_url=None,
        middleware=[
            Middleware(Guard),
            Middleware(ForgetCalls, demo=demo),
            Middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"], allow_headers=["*"]),
        ],
        routes=[
            Route("/healthz", _health(library)),
            *([] if auth else [Route("/predict", _predict(library), methods=["POST"])]),
        ],
    )
    # Gradio 6.31 looks whether a file that a request names may be read only once this is set, as launch() does: without
    # it, any file of this machine would be copied to where the pages read uploads.
    demo.has_launched = True
    demo.state_session_capacity = MAX_SESSIONS
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "SSR mode is not supported")  # said whether it is asked for or not
        gr.mount_gradio_app(
            app,
            demo,
            "/",
            server_name=host,
            server_port=port,
            footer_links=["api", "settings"],
            run_history=False,
            app_kwargs={"openapi_url": None},
            auth=auth,
            root_path=root_path,
            show_error=False,  # of unforeseen errors, whose text may hold paths
            max_file_size=f"{MAX_UPLOAD_MB}mb",
            ssr_mode=False,
            enable_monitoring=False,
            pwa=False,
            mcp_server=mcp,
            theme=THEME,
            css=CSS,
        )
    # An endpoint that there is not, by number and by name: to Gradio that is an error of its own, with status 500.
    for kind in (KeyError, FnIndexInferError):
        app.routes[-1].app.add_exception_handler(kind, _no_such_endpoint)
    return app


class Guard:
    """ASGI middleware: bodies that are too large are not read, closed paths not found, headers on every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = _with_headers(send)
        path = scope["path"].removeprefix(scope.get("root_path", "")) if scope.get("root_path") else scope["path"]
        if any(path == closed or path.startswith(f"{closed}/") for closed in CLOSED):
            await PlainTextResponse("not found", 404)(scope, receive, send)
            return
        limit = MAX_UPLOAD_BYTES if path.endswith(UPLOAD_PATH) else MAX_BODY_BYTES
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > limit:
            await _too_large(limit)(scope, receive, send)
            return
        body = _BoundedBody(receive, send, limit)
        try:
            await self._app(scope, body.receive, body.send)
        except Exception:
            if not body.is_too_large:
                raise
        if body.is_too_large and not body.has_answered:
            await _too_large(limit)(scope, receive, send)


class ForgetCalls:
    """ASGI middleware: what Gradio keeps of a call goes with the answer, where it belongs to no visitor's session.

    It gives such a call a session of its own, with a copy of what all components of the page are, and none ever asks
    for that again: after 10,000 calls, which it would keep, those are 1.6 GB.
    """

    def __init__(self, app: ASGIApp, demo: gr.Blocks) -> None:
        self._app = app
        self._demo = demo

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        finally:
            if scope["type"] == "http" and scope["method"] == "GET" and CALL_PATH in scope["path"]:
                session = scope["path"].rstrip("/").rpartition("/")[2]  # Gradio names such a session after the call
                self._demo.state_holder.session_data.pop(session, None)
                self._demo.state_holder.time_last_used.pop(session, None)


class _BoundedBody:
    """A request whose body ends the conversation where it gets too long: the app sees the client leave."""

    def __init__(self, receive: Receive, send: Send, limit: int) -> None:
        self._receive = receive
        self._send = send
        self._left = limit
        self.is_too_large = False
        self.has_answered = False

    async def receive(self) -> Message:
        message = {"type": "http.disconnect"} if self.is_too_large else await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            self.is_too_large = True
            return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        if self.is_too_large and not self.has_answered:
            return  # what the app makes of a client that left
        self.has_answered = True
        await self._send(message)


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
        await send(message)

    return wrapped


def _no_such_endpoint(_request: Request, _error: Exception) -> JSONResponse:
    return JSONResponse({"error": "there is no such endpoint: see /gradio_api/info"}, 404)


def _too_large(limit: int) -> JSONResponse:
    return JSONResponse({"error": f"the request has more than {limit // 2**20} MB: make it smaller"}, 413)


# ---------------------------------------------------------------------------------------------------------------------
# Routes


def _health(library: ModelLibrary) -> Any:
    async def health(_request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok", "models": library.names})

    return health


def _predict(library: ModelLibrary) -> Any:
    """``POST /predict?top_k=5&model=NAME`` with an image as the body, or as the field ``file`` of a form."""
    together = anyio.Semaphore(TOGETHER)
    waiting = 0

    async def predict(request: Request) -> JSONResponse:
        nonlocal waiting
        if waiting >= MAX_WAITING:
            return JSONResponse({"error": "too many requests are waiting: try again soon"}, 503, {"Retry-After": "2"})
        waiting += 1
        try:
            top_k = request.query_params.get("top_k", "5")
            if not top_k.isdecimal() or not 1 <= int(top_k) <= 1000:
                return JSONResponse({"error": "top_k must be a number from 1 to 1000"}, 400)
            content = await _image_of(request)
            async with together:
                answer = await anyio.to_thread.run_sync(
                    _answer, library, request.query_params.get("model"), content, int(top_k)
                )
            return JSONResponse(answer)
        except CheckpointError as error:
            return JSONResponse({"error": str(error)}, 404)
        except ResNetHubError as error:
            return JSONResponse({"error": str(error)}, 400)
        finally:
            waiting -= 1

    return predict


async def _image_of(request: Request) -> bytes:
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return await request.body()
    async with request.form(max_files=1, max_fields=4) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise ImageError("the form has no file: send the image as the field 'file', or as the body")
        return await file.read()


def _answer(library: ModelLibrary, model: str | None, content: bytes, top_k: int) -> dict[str, Any]:
    predictor = library.get(model)
    start = time.perf_counter()
    [answer] = predictor.answer([content], top_k)
    return {
        "predictions": answer.predictions,
        "is_unfamiliar": answer.is_unfamiliar,
        "milliseconds": round(1000 * (time.perf_counter() - start), 1),
    }
