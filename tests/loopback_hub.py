"""A Hugging Face Hub on this machine, in memory, for tests that push and load with the real clients.

It has users with tokens, and model repositories with commits. Contents travel as they do on the Hub: weights by LFS,
everything else inside the commit; Xet is not served. What it answers follows what ``huggingface_hub`` asks and reads,
down to the headers, and no further: clients need ``HF_ENDPOINT=hub.url`` and ``HF_HUB_DISABLE_XET=1``, set before they
import ``huggingface_hub``.
"""

import base64
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".onnx")
LFS_POINTER_SIZE = 134


class File(NamedTuple):
    """One version of a file; ``lfs`` where git itself holds but a pointer to it."""

    content: bytes
    lfs: bool = False

    @property
    def oid(self) -> str:
        """Its ETag, by which a client also tells whether its own version is another: SHA-256 for LFS, else git's id."""
        if self.lfs:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


class Commit(NamedTuple):
    """A whole state of the repository, by path."""

    sha: str
    title: str
    files: dict[str, File]


@dataclass
class Repo:
    """A repository with its commits, oldest first, and its branches by name. Only ``main`` exists so far."""

    private: bool = False
    commits: list[Commit] = field(default_factory=list)
    branches: dict[str, Commit] = field(default_factory=dict)

    @classmethod
    def new(cls, private: bool) -> Self:
        """With the first commit that the Hub itself makes, so that ``main`` exists from the start."""
        repo = cls(private)
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        repo.commit("main", "initial commit", {".gitattributes": File(attributes.encode())})
        return repo

    def commit(self, branch: str, title: str, files: dict[str, File]) -> Commit:
        identity = [len(self.commits), title, {path: files[path].oid for path in sorted(files)}]
        commit = Commit(hashlib.sha1(json.dumps(identity).encode()).hexdigest(), title, files)
        self.commits.append(commit)
        self.branches[branch] = commit
        return commit

    def at(self, revision: str) -> Commit:
        """The commit that a branch or a full hash means."""
        for commit in self.commits:
            if commit.sha == revision:
                return commit
        if revision not in self.branches:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return self.branches[revision]


class HubError(Exception):
    """An answer that is an error. Clients choose their exception by ``code``, and by the message where it is None."""

    def __init__(self, status: int, code: str | None, message: str) -> None:
        super().__init__(message)
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.response = JSONResponse({"error": message}, status, headers)


class LoopbackHub:
    """The server, an ASGI application. Tests may look into ``repos`` and ``requests``, and change ``repos``.

    Args:
        tokens: The user behind each valid token. Users own the repositories of their namespace.
    """

    def __init__(self, tokens: dict[str, str]) -> None:
        self.tokens = tokens
        self.repos: dict[str, Repo] = {}
        self.lfs_objects: dict[str, bytes] = {}
        self.requests: list[str] = []  # such as "GET /api/models/me/hands"
        self.url = ""
        api, git = "/api/models/{owner}/{name}", "/{owner}/{name}.git/info/lfs/objects"
        routes = [
            Route("/api/repos/create", self.create, methods=["POST"]),
            Route("/api/validate-yaml", self.validate_yaml, methods=["POST"]),
            Route(api, self.info),
            Route(api + "/revision/{revision}", self.info),
            Route(api + "/tree/{revision}", self.tree),
            Route(api + "/preupload/{revision}", self.preupload, methods=["POST"]),
            Route(api + "/commit/{revision}", self.commit, methods=["POST"]),
            Route(git + "/batch", self.lfs_batch, methods=["POST"]),
            Route(git + "/verify", self.lfs_verify, methods=["POST"]),
            Route("/lfs/{oid}", self.lfs_put, methods=["PUT"]),
            Route("/{owner}/{name}/resolve/{revision}/{path:path}", self.resolve),  # HEAD comes with GET
        ]
        self._app = Starlette(routes=routes, exception_handlers={HubError: lambda _, error: error.response})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.requests.append(f"{scope['method']} {scope['path']}")
        await self._app(scope, receive, send)

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Serves on a free port, at ``url``, from a thread of this process."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            server = uvicorn.Server(uvicorn.Config(self, lifespan="off", access_log=False, log_level="warning"))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
            thread.start()
            while not server.started:
                assert thread.is_alive(), "the server ended at once"
                time.sleep(0.01)
            try:
                yield self
            finally:
                server.should_exit = True
                thread.join(10)

    # -- who may what --------------------------------------------------------------------------------------------------

    def _user(self, request: Request) -> str | None:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.tokens:
            # Whatever is asked for, also a public repository; and without a code.
            raise HubError(401, None, "Invalid credentials in Authorization header")
        return self.tokens.get(token)

    def _repo(self, request: Request, *, write: bool = False) -> Repo:
        """The repository that the address names. One that the user may not see answers as one that does not exist."""
        user, owner = self._user(request), request.path_params["owner"]
        repo = self.repos.get(f"{owner}/{request.path_params['name']}")
        if repo is None or (repo.private and user != owner):
            raise HubError(404 if user else 401, "RepoNotFound", "Repository not found")
        if write and user != owner:
            raise HubError(403 if user else 401, None, f"You must be {owner} to write here")
        return repo

    # -- repositories --------------------------------------------------------------------------------------------------

    async def create(self, request: Request) -> Response:
        user, asked = self._user(request), await request.json()
        owner = asked.get("organization") or user
        if user is None or user != owner:
            raise HubError(403 if user else 401, None, f"You don't have the rights to create a model under {owner}")
        repo_id = f"{owner}/{asked['name']}"
        answer = {"name": repo_id, "url": f"{self.url}/{repo_id}"}
        if repo_id in self.repos:  # clients that allow this read the same answer
            return JSONResponse(answer | {"error": "You already created this model repo"}, 409)
        self.repos[repo_id] = Repo.new(private=asked.get("visibility") == "private")
        return JSONResponse(answer)

    async def info(self, request: Request) -> Response:
        repo = self._repo(request)
        commit = repo.at(request.path_params.get("revision", "main"))
        repo_id = "{owner}/{name}".format(**request.path_params)
        siblings = [{"rfilename": path} for path in commit.files]
        return JSONResponse({"id": repo_id, "sha": commit.sha, "private": repo.private, "siblings": siblings})

    async def tree(self, request: Request) -> Response:
        entries = []
        for path, file in self._repo(request).at(request.path_params["revision"]).files.items():
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(file.content), "oid": file.oid}
            if file.lfs:
                entry["lfs"] = {"oid": file.oid, "size": len(file.content), "pointerSize": LFS_POINTER_SIZE}
            entries.append(entry)
        return JSONResponse(entries)

    async def resolve(self, request: Request) -> Response:
        commit = self._repo(request).at(request.path_params["revision"])
        file = commit.files.get(request.path_params["path"])
        if file is None:
            raise HubError(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{file.oid}"'}
        return Response(file.content, headers=headers, media_type="application/octet-stream")

    # -- a push, in the order of its requests --------------------------------------------------------------------------

    async def validate_yaml(self, request: Request) -> Response:
        """Whether a card's metadata, between its first two lines of dashes, are a YAML mapping."""
        _, metadata, *_ = (await request.json())["content"].split("---\n", 2)
        try:
            problem = None if isinstance(yaml.safe_load(metadata), dict) else "metadata must be a mapping"
        except yaml.YAMLError as error:
            problem = str(error)
        errors = [{"message": problem}] if problem else []
        return JSONResponse({"errors": errors, "warnings": []}, 400 if errors else 200)

    async def preupload(self, request: Request) -> Response:
        """Which way each file shall go, and the version that is here, so that unchanged files are not sent."""
        here = self._repo(request, write=True).at(request.path_params["revision"]).files
        answer = []
        for path in [file["path"] for file in (await request.json())["files"]]:
            mode = "lfs" if path.endswith(LFS_SUFFIXES) else "regular"
            oid = here[path].oid if path in here else None
            answer.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return JSONResponse({"files": answer})

    async def lfs_batch(self, request: Request) -> Response:
        """Where to put which object; none is asked for that is here already."""
        self._repo(request, write=True)
        objects = (await request.json())["objects"]
        for wanted in objects:
            if wanted["oid"] not in self.lfs_objects:
                upload, verify = f"{self.url}/lfs/{wanted['oid']}", f"{self.url}{request.url.path[:-5]}verify"
                wanted["actions"] = {"upload": {"href": upload}, "verify": {"href": verify}}
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def lfs_put(self, request: Request) -> Response:
        """The storage behind the Hub: whoever knows the address may write, and only what the address says."""
        content = await request.body()
        if hashlib.sha256(content).hexdigest() != request.path_params["oid"]:
            raise HubError(400, None, "The content is not that of the oid")
        self.lfs_objects[request.path_params["oid"]] = content
        return Response()

    async def lfs_verify(self, request: Request) -> Response:
        self._repo(request, write=True)
        claim = await request.json()
        if len(self.lfs_objects.get(claim["oid"], b"")) != claim["size"]:
            raise HubError(404, "EntryNotFound", "Object not found, or of another size")
        return JSONResponse({})

    async def commit(self, request: Request) -> Response:
        """One operation a line, after a header; all of them or, where one cannot be done, none."""
        repo, branch = self._repo(request, write=True), request.path_params["revision"]
        files, title = dict(repo.at(branch).files), ""
        for operation in map(json.loads, (await request.body()).splitlines()):
            value = operation["value"]
            match operation["key"]:
                case "header":
                    title = value["summary"]
                case "file":
                    files[value["path"]] = File(base64.b64decode(value["content"]))
                case "lfsFile" if value["oid"] in self.lfs_objects:
                    files[value["path"]] = File(self.lfs_objects[value["oid"]], lfs=True)
                case "deletedFile":
                    files.pop(value["path"], None)
                case key:
                    raise HubError(400, None, f"Cannot do {key} {value.get('path')}")
        commit = repo.commit(branch, title, files)
        url = "{}/{owner}/{name}/commit/{}".format(self.url, commit.sha, **request.path_params)
        return JSONResponse({"success": True, "commitOid": commit.sha, "commitUrl": url})
