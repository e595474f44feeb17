"""The ``cellnet`` command; the only part of the library that may import everything, and then only when it is used."""

from cellnet.cli.main import main

__all__ = ["main"]
