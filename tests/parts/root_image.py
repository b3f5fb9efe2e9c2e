"""The root of a nearly empty container image as a tar: mostly directories for mounts."""

import io
import tarfile
from collections.abc import Mapping

_PLACES = ("usr", "etc", "proc", "sys", "dev", "run", "tmp", "var")


def root_image(*places: str, files: Mapping[str, tuple[str, int]] | None = None) -> bytes:
    """Return the tar; `places` are additional directories, `files` have text and mode."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in (*_PLACES, *places):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(directory)
        for name in ("bin", "sbin", "lib", "lib64"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            archive.addfile(link)
        for name, (text, mode) in (files or {}).items():
            file = tarfile.TarInfo(name)
            file.size, file.mode = len(text.encode()), mode
            archive.addfile(file, io.BytesIO(text.encode()))
    return content.getvalue()
