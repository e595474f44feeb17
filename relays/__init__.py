"""Relays: processes that carry what others say, and say nothing themselves."""

from relays.relay import run_relay

__all__ = ["run_relay"]
