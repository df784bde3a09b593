"""Streams: the data of consoles, uploads, downloads and screenshots."""

from __future__ import annotations

from manor.rpc.caller import Stream

__all__ = ["Stream"]
