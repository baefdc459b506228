"""What visitors send, byte for byte.

``gr.Image`` decodes what it receives, and loses much on the way: 16-bit pictures turn white, transparency goes, EXIF
rotation is ignored where the mode already fits, and what Pillow cannot read ends as an error without a message. A
listener with ``preprocess=False`` gets the description of the upload instead. Gradio checks that its file lies in the
folder of uploads only where the description is marked as a file's (``meta``), which a hostile client leaves out; hence
the check here.
"""

import base64
import binascii
import secrets
from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder
from PIL import Image

from resnet_hub.errors import ImageError
from resnet_hub.images import open_image

MAX_UPLOAD_MB = 20


def open_upload(upload: dict[str, Any]) -> Image.Image:
    """Decode an upload (``gradio.data_classes.ImageData`` as a dict) to 8-bit RGB.

    Raises:
        ImageError: it cannot be decoded. The message holds no path, so that it can be shown to anyone.
    """
    return open_image(read_upload(upload))


def keep_upload(content: bytes) -> str:
    """A PNG becomes a file in the folder of uploads that nobody else can name, for a component to show."""
    folder = Path(get_upload_folder(), secrets.token_hex(16))
    folder.mkdir(parents=True)
    file = folder / "picture.png"
    file.write_bytes(content)
    return str(file)


def upload_path(upload: dict[str, Any]) -> Path:
    """The file of an upload. Raises ``ImageError`` where it is none of the folder of uploads."""
    file = Path(str(upload.get("path"))).resolve()
    if not (file.is_relative_to(Path(get_upload_folder()).resolve()) and file.is_file()):
        raise ImageError("there is no such upload: send the picture again")
    return file


def read_upload(upload: dict[str, Any]) -> bytes:
    """What was sent. Raises ``ImageError``, as :func:`open_upload` does, where that is nothing or too much."""
    if upload.get("path"):
        return upload_path(upload).read_bytes()
    # Clients may send the bytes inline instead, which Gradio's own limit on uploads does not see.
    header, _, data = (upload.get("url") or "").partition(";base64,")
    if not header.startswith("data:"):
        raise ImageError("there is no picture in the request: send a file")
    if len(data) > MAX_UPLOAD_MB * 2**20 * 4 / 3:
        raise ImageError(f"the picture has more than {MAX_UPLOAD_MB} MB: make it smaller")
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ImageError("the picture is not valid base64: send a file") from error
