"""Importing packages without others that they would import where they find them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_packages(*names: str) -> Iterator[None]:
    """Within, imports find none of these packages; afterwards all is as it was."""
    packages = {name: sys.modules.get(name) for name in names}
    sys.modules.update(dict.fromkeys(names))  # None says to the import system that there is no such package
    try:
        yield
    finally:
        for name, package in packages.items():
            del sys.modules[name]
            if package is not None:
                sys.modules[name] = package
