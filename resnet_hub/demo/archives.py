"""Pictures out of uploads: files as they are, and what lies in a zip, which may be built to harm."""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from resnet_hub.errors import ImageError

MAX_IMAGES = 1000
#: Of one picture in a zip, uncompressed. Read up to here and no further, whatever the zip says of itself.
MAX_IMAGE_BYTES = 20 * 2**20
#: Of all of them: a zip that unpacks to more is not meant to be read.
MAX_TOTAL_BYTES = 500 * 2**20
#: What macOS and Windows leave in every zip.
CLUTTER = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")


def read_images(files: Sequence[Path]) -> Iterator[tuple[str, bytes | ImageError]]:
    """Name and content of each picture, at most ``MAX_IMAGES``, one at a time; or why it cannot be read.

    Nothing is written: names in zips are only shown. Zips in zips are not opened.

    Args:
        files: Pictures, and zips of them (told by their content, not by their name).
    """
    left = MAX_TOTAL_BYTES
    number = 0
    for file in files:
        members = _members(file) if zipfile.is_zipfile(file) else iter([(file.name, None)])
        for name, member in members:
            if number == MAX_IMAGES:
                yield (
                    name,
                    ImageError(f"only the first {MAX_IMAGES:,} pictures are read: send the others by themselves"),
                )
                return
            number += 1
            content = _read(file, member, min(left, MAX_IMAGE_BYTES))
            if isinstance(content, bytes):
                left -= len(content)
            yield name, content


def _members(file: Path) -> Iterator[tuple[str, zipfile.ZipInfo | None]]:
    """Files in a zip, with names that are fit to be shown."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        yield file.name, None
        return
    for info in infos:
        path = PurePosixPath(info.filename)
        is_link = (info.external_attr >> 16) & 0o170000 == 0o120000
        if not (info.is_dir() or is_link or any(part in CLUTTER or part.startswith("._") for part in path.parts)):
            yield "".join(c if c.isprintable() else "?" for c in info.filename)[-200:], info


def _read(file: Path, member: zipfile.ZipInfo | None, limit: int) -> bytes | ImageError:
    if member is None:
        return file.read_bytes() if file.stat().st_size <= limit else _too_large()
    if member.flag_bits & 1:
        return ImageError("the zip is encrypted: send it without a password")
    try:
        with zipfile.ZipFile(file) as archive, archive.open(member) as stream:
            content = stream.read(limit + 1)
    # A zip made to confuse raises nearly anything: wrong sizes, unknown methods, bad checksums.
    except Exception:
        return ImageError("this part of the zip is damaged: make it again")
    return content if len(content) <= limit else _too_large()


def _too_large() -> ImageError:
    return ImageError(
        f"the picture has more than {MAX_IMAGE_BYTES // 2**20} MB, or all of them together more than "
        f"{MAX_TOTAL_BYTES // 2**20} MB: make it smaller, or send fewer"
    )
