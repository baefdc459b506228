"""A Hugging Face Hub on this machine, in memory, for tests that push and load with the real clients.

It has users with tokens, and repositories with commits. Weights travel by LFS, the rest in the commit itself; Xet is
not served. It can be told to fail, see :class:`Fault`. Answers hold what ``huggingface_hub`` reads of them. Clients
need ``HF_ENDPOINT=hub.url`` and ``HF_HUB_DISABLE_XET=1``, set before they import ``huggingface_hub``.
"""

import base64
import hashlib
import json
import multiprocessing
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest
import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".onnx", ".parquet")


@dataclass(frozen=True)
class Fault:
    """What goes wrong with requests whose method and path match ``pattern``, such as ``"GET /.*/model.safetensors"``.

    Either an error of ``status``, or silence, or a connection that breaks off after ``bytes`` of the answer's body.
    """

    pattern: str
    status: int | None = None
    bytes: int | None = None


class HubError(Exception):
    """An answer that is an error. Clients choose their exception by ``code``, and by the status where it is None."""

    def __init__(self, status: int, code: str | None, message: str) -> None:
        super().__init__(message)
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.response = JSONResponse({"error": message}, status, headers)


class File(NamedTuple):
    """One version of a file."""

    content: bytes
    lfs: bool = False

    @property
    def oid(self) -> str:
        """Its ETag, by which clients also see whether theirs is another version: SHA-256 for LFS, else git's id."""
        if self.lfs:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


class Commit(NamedTuple):
    """A whole state of the repository, by path."""

    sha: str
    title: str
    files: dict[str, File]


class Repo:
    """Commits, oldest first, and branches and tags by name. As on the Hub, there is a first commit from the start."""

    def __init__(self, private: bool = False) -> None:
        self.private = private
        self.commits: list[Commit] = []
        self.branches: dict[str, Commit] = {}
        self.tags: dict[str, Commit] = {}
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        self.commit("main", "initial commit", {".gitattributes": File(attributes.encode())})

    def commit(self, branch: str, title: str, files: dict[str, File]) -> Commit:
        identity = [len(self.commits), title, {path: files[path].oid for path in sorted(files)}]
        commit = Commit(hashlib.sha1(json.dumps(identity).encode()).hexdigest(), title, files)
        self.commits.append(commit)
        self.branches[branch] = commit
        return commit

    def at(self, revision: str) -> Commit:
        """The commit that a branch, a tag or a full hash means."""
        known = {commit.sha: commit for commit in self.commits} | self.tags | self.branches
        if revision not in known:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return known[revision]


def _full_name(request: Request) -> str:
    """Of the repository that the address names, as addresses of pages have it: datasets begin with ``datasets/``."""
    is_dataset = request.path_params.get("kind") == "datasets" or request.url.path.startswith("/datasets/")
    return ("datasets/" if is_dataset else "") + "{owner}/{name}".format_map(request.path_params)


def _entry(path: str, file: File) -> dict[str, Any]:
    known: dict[str, Any] = {"oid": file.oid, "size": len(file.content)}
    return {"type": "file", "path": path} | known | ({"lfs": known | {"pointerSize": 134}} if file.lfs else {})


def _folder_entry(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}


class _BrokenOffError(Exception):
    """The rest of an answer is not sent; the server, which counts bytes, closes the connection."""


def _breaking_off(send: Send, num_bytes: int) -> Send:
    async def send_part(message: Message) -> None:
        if message["type"] == "http.response.body":
            await send({"type": "http.response.body", "body": message["body"][:num_bytes], "more_body": True})
            raise _BrokenOffError
        await send(message)

    return send_part


class LoopbackHub:
    """The server, an ASGI application. Tests may read ``repos`` and ``requests``, and change ``repos`` and ``faults``.

    Args:
        tokens: The user behind each valid token. Users own the repositories of their namespace.
    """

    def __init__(self, tokens: dict[str, str]) -> None:
        self.tokens = tokens
        self.repos: dict[str, Repo] = {}
        self.lfs_objects: dict[str, bytes] = {}
        self.requests: list[str] = []  # such as "GET /api/models/me/hands"
        self.faults: list[Fault] = []
        self.url = ""
        api = "/api/{kind}/{owner}/{name}"
        routes = [
            Route("/api/repos/create", self._create, methods=["POST"]),
            Route("/api/validate-yaml", self._validate_yaml, methods=["POST"]),
            Route(f"{api}/auth-check/write", self._may_write),
            Route(f"{api}/branch/{{branch}}", self._make_branch, methods=["POST"]),
            Route(f"{api}/tag/{{revision}}", self._make_tag, methods=["POST"]),
            Route(api, self._info),
            Route(f"{api}/revision/{{revision}}", self._info),
            Route(f"{api}/tree/{{revision}}", self._tree),
            Route(f"{api}/tree/{{revision}}/{{folder:path}}", self._tree),
            Route(f"{api}/paths-info/{{revision}}", self._paths_info, methods=["POST"]),
            Route(f"{api}/preupload/{{revision}}", self._preupload, methods=["POST"]),
            Route(f"{api}/commit/{{revision}}", self._commit, methods=["POST"]),
            Route("/lfs/{oid}", self._lfs_put, methods=["PUT"]),
        ]
        for place in ("/datasets", ""):
            lfs = f"{place}/{{owner}}/{{name}}.git/info/lfs/objects"
            routes += [
                Route(f"{lfs}/batch", self._lfs_batch, methods=["POST"]),
                Route(f"{lfs}/verify", self._lfs_verify, methods=["POST"]),
                Route(f"{place}/{{owner}}/{{name}}/resolve/{{revision}}/{{path:path}}", self._resolve),  # and HEAD
            ]
        self._app = Starlette(routes=routes, exception_handlers={HubError: lambda _, error: error.response})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = f"{scope['method']} {scope['path']}"
        self.requests.append(request)
        fault = next((fault for fault in self.faults if re.fullmatch(fault.pattern, request)), None)
        if fault is None:
            await self._app(scope, receive, send)
        elif fault.status is not None:
            await JSONResponse({"error": "out of order"}, fault.status)(scope, receive, send)
        elif fault.bytes is not None:
            with suppress(_BrokenOffError):
                await self._app(scope, receive, _breaking_off(send, fault.bytes))
        else:
            while (await receive())["type"] != "http.disconnect":
                pass

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Serves on a free port, at ``url``, from a thread of this process."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            server = uvicorn.Server(uvicorn.Config(self, lifespan="off", access_log=False, log_level="critical"))
            thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
            thread.start()
            while not server.started:
                assert thread.is_alive(), "the server ended at once"
                time.sleep(0.01)
            try:
                yield self
            finally:
                server.should_exit = True
                thread.join(10)

    # -- who may do what -----------------------------------------------------------------------------------------------

    def _user(self, request: Request) -> str | None:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.tokens:  # refused whatever is asked for, also a public repository
            raise HubError(401, None, "Invalid credentials in Authorization header")
        return self.tokens.get(token)

    def _repo(self, request: Request, *, write: bool = False) -> Repo:
        """The repository that the address names. One that the user may not see answers as one that does not exist."""
        user, owner = self._user(request), request.path_params["owner"]
        repo = self.repos.get(_full_name(request))
        if repo is None or (repo.private and user != owner):
            raise HubError(404 if user else 401, "RepoNotFound", "Repository not found")
        if write and user != owner:
            raise HubError(403 if user else 401, None, f"Only {owner} may write here")
        return repo

    # -- repositories --------------------------------------------------------------------------------------------------

    async def _create(self, request: Request) -> Response:
        user, wanted = self._user(request), await request.json()
        owner = wanted.get("organization") or user
        if user is None or user != owner:
            raise HubError(403 if user else 401, None, f"Only {owner} may create a model there")
        repo_id = f"{'datasets/' if wanted.get('type') == 'dataset' else ''}{owner}/{wanted['name']}"
        exists = repo_id in self.repos
        if not exists:
            self.repos[repo_id] = Repo(private=wanted.get("visibility") == "private")
        return JSONResponse({"url": f"{self.url}/{repo_id}"}, 409 if exists else 200)  # the URL is read from both

    async def _may_write(self, request: Request) -> Response:
        self._repo(request, write=True)
        return JSONResponse({})

    async def _make_branch(self, request: Request) -> Response:
        repo, wanted = self._repo(request, write=True), await request.json()
        repo.branches[request.path_params["branch"]] = repo.at(wanted.get("startingPoint", "main"))
        return JSONResponse({})

    async def _make_tag(self, request: Request) -> Response:
        repo, wanted = self._repo(request, write=True), await request.json()
        repo.tags[wanted["tag"]] = repo.at(request.path_params["revision"])
        return JSONResponse({})

    async def _info(self, request: Request) -> Response:
        repo = self._repo(request)
        commit = repo.at(request.path_params.get("revision", "main"))
        siblings = [{"rfilename": path, "size": len(file.content)} for path, file in commit.files.items()]
        repo_id = "{owner}/{name}".format_map(request.path_params)
        return JSONResponse({"id": repo_id, "sha": commit.sha, "private": repo.private, "siblings": siblings})

    async def _tree(self, request: Request) -> Response:
        """Everything below a folder, or only what lies directly in it."""
        files = self._repo(request).at(request.path_params["revision"]).files
        start = f"{request.path_params['folder']}/" if request.path_params.get("folder") else ""
        recursive = request.query_params.get("recursive", "").lower() == "true"
        below = {path: file for path, file in files.items() if path.startswith(start)}
        folders = {path[: path.index("/", len(start))] for path in below if "/" in path[len(start) :]}
        direct = {path: file for path, file in below.items() if recursive or "/" not in path[len(start) :]}
        return JSONResponse([*map(_folder_entry, sorted(folders)), *(_entry(*item) for item in direct.items())])

    async def _paths_info(self, request: Request) -> Response:
        files = self._repo(request).at(request.path_params["revision"]).files
        form = await request.form()
        entries = []
        for path in form.getlist("paths"):
            if path in files:
                entries.append(_entry(path, files[path]))
            elif any(name.startswith(f"{path}/") for name in files):
                entries.append(_folder_entry(path))
        return JSONResponse(entries)

    async def _resolve(self, request: Request) -> Response:
        commit = self._repo(request).at(request.path_params["revision"])
        file = commit.files.get(request.path_params["path"])
        if file is None:
            raise HubError(404, "EntryNotFound", "Entry not found")
        return Response(file.content, headers={"X-Repo-Commit": commit.sha, "ETag": f'"{file.oid}"'})

    # -- a push, in the order of its requests --------------------------------------------------------------------------

    async def _validate_yaml(self, request: Request) -> Response:
        """Whether the metadata of a card, between its first two lines of dashes, parse."""
        try:
            yaml.safe_load((await request.json())["content"].split("---\n")[1])
        except (yaml.YAMLError, IndexError) as error:
            return JSONResponse({"errors": [{"message": str(error)}]}, 400)
        return JSONResponse({"errors": [], "warnings": []})

    async def _preupload(self, request: Request) -> Response:
        """Which way each file shall go, and which version is here, so that unchanged files are not sent."""
        here = self._repo(request, write=True).at(request.path_params["revision"]).files
        files = [
            {
                "path": (path := file["path"]),
                "uploadMode": "lfs" if path.endswith(LFS_SUFFIXES) else "regular",
                "shouldIgnore": False,
                "oid": here[path].oid if path in here else None,
            }
            for file in (await request.json())["files"]
        ]
        return JSONResponse({"files": files})

    async def _lfs_batch(self, request: Request) -> Response:
        """Where to put the objects that are not here yet."""
        self._repo(request, write=True)
        objects = (await request.json())["objects"]
        verify = {"href": self.url + request.url.path.removesuffix("batch") + "verify"}
        for wanted in objects:
            if wanted["oid"] not in self.lfs_objects:
                wanted["actions"] = {"upload": {"href": f"{self.url}/lfs/{wanted['oid']}"}, "verify": verify}
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def _lfs_put(self, request: Request) -> Response:
        """The storage behind the Hub, which asks for no token."""
        content = await request.body()
        if hashlib.sha256(content).hexdigest() != request.path_params["oid"]:
            raise HubError(400, None, "The content is not what the address says")
        self.lfs_objects[request.path_params["oid"]] = content
        return Response()

    async def _lfs_verify(self, request: Request) -> Response:
        self._repo(request, write=True)
        claim = await request.json()
        if len(self.lfs_objects.get(claim["oid"], b"")) != claim["size"]:
            raise HubError(400, None, "The object is not here, or is of another size")
        return JSONResponse({})

    async def _commit(self, request: Request) -> Response:
        """One operation a line, after a header; all of them or, where one cannot be done, none."""
        repo, branch = self._repo(request, write=True), request.path_params["revision"]
        files, title = dict(repo.at(branch).files), ""
        for operation in map(json.loads, (await request.body()).splitlines()):
            match operation["key"], operation["value"]:
                case "header", value:
                    title = value["summary"]
                    if value.get("parentCommit") not in (None, repo.at(branch).sha):
                        raise HubError(412, None, "A commit has happened since. Please refresh and try again.")
                case "file", value:
                    files[value["path"]] = File(base64.b64decode(value["content"]))
                case "lfsFile", value if value["oid"] in self.lfs_objects:
                    files[value["path"]] = File(self.lfs_objects[value["oid"]], lfs=True)
                case "deletedFile", value:
                    del files[value["path"]]
                case key, value:
                    raise HubError(400, None, f"Cannot do {key} of {value['path']}")
        commit = repo.commit(branch, title, files)
        url = "{}/{owner}/{name}/commit/{}".format(self.url, commit.sha, **request.path_params)
        return JSONResponse({"commitOid": commit.sha, "commitUrl": url})


class Computer:
    """A process with a Hub, a token and an empty cache; starts with the first :meth:`run` and lasts for all of them.

    Clients read the address of the Hub, their token and their cache when they are imported, hence a process of its own.

    Args:
        url: Of the Hub.
        token: Of the user; None for somebody who is not logged in.
        home: Folder of the client's cache.
    """

    def __init__(self, url: str, token: str | None, home: Path) -> None:
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | {
            "HF_ENDPOINT": url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
            **({"HF_TOKEN": token} if token else {}),
        }
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self.stop = self._pool.shutdown

    def kill(self) -> None:
        """End the process in the middle of whatever it does."""
        for process in self._pool._processes.values():
            process.kill()

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What ``function`` returns, or raises, there."""
        return self.start(function, *args, **kwargs).result(timeout=120)

    def start(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        """As :meth:`run`, without waiting for it."""
        with pytest.MonkeyPatch.context() as patch:  # a spawned process inherits the environment of this moment
            for name in os.environ.keys() - self.environment.keys():
                patch.delenv(name)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            return self._pool.submit(function, *args, **kwargs)
