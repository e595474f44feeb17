"""The protocol as pure computation: bytes, names and the time come in, frames and events go out.

Nothing here does I/O, reads a clock, or draws a random number: all of that is passed in, so that a run can be
replayed. The specification is ``docs/protocol.md``.
"""
