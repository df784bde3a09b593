"""A share with its thread: the folder may be on a slow disk, and nobody else shall wait for it."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable

from manor.backends.share.api import ShareRequest
from manor.backends.share.server import FuseServer
from manor.base.errors import ConfigError, HostError
from manor.spec.share import ShareSpec

logger = logging.getLogger(__name__)

_Job = Callable[[FuseServer], None]


class SharedFolder:
    """backends.share.api.ShareBackend for one folder. It outlives the machine when the guest reboots.

    The folder is opened when it is made, so that a mistake is told before anything starts.
    """

    def __init__(self, spec: ShareSpec, on_error: Callable[[BaseException], None]) -> None:
        """on_error: gets an exception that is a bug of the server, on its thread.

        Raises ConfigError if there is no such folder, HostError if it cannot be opened.
        """
        self.tag = spec.tag
        self._on_error = on_error
        try:
            self._server = FuseServer(
                os.fspath(spec.path), spec.tag, read_only=spec.read_only, uid=spec.uid, gid=spec.gid
            )
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ConfigError("share", f"{spec.path} is not a folder; give one that exists") from error
        except OSError as error:
            raise HostError.from_os_error(f"share {spec.path}", error) from error
        self._changed = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._is_closing = False
        self._thread: threading.Thread | None = None

    @property
    def is_mounted(self) -> bool:
        """Whether the guest has it mounted. Thread: any."""
        return self._server.is_mounted

    def submit(self, request: ShareRequest, done: Callable[[bytes], None]) -> None:
        self._add(lambda server: done(server.handle(request.read(), request.room)))

    def reset(self) -> None:
        with self._changed:
            self._jobs.clear()
        self._add(FuseServer.reset)

    def close(self) -> None:
        """Wait for the request that is being served, drop the others, and give everything back."""
        with self._changed:
            self._jobs.clear()
            self._is_closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._server.close()

    def _add(self, job: _Job) -> None:
        with self._changed:
            if self._is_closing:
                return
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"share-{self.tag}", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._is_closing)
                if self._is_closing:
                    return
                job = self._jobs.popleft()
            try:
                job(self._server)
            except Exception as error:  # the edge where a bug in the server ends its VM, not the process
                logger.exception("the share %s failed", self.tag)
                self._on_error(error)
                return
