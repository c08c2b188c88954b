"""The moto server as a process of its own (``python -m tests.servers.moto_process PORT``), behind the fault layer."""

from __future__ import annotations

import logging
import sys

from moto.backends import get_backend
from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from tests.servers.faults import FaultyServer


def _forget_all_buckets() -> None:
    for backends_by_account in get_backend("s3").values():
        for backend in backends_by_account.values():
            backend.reset()


def main() -> None:
    """Serve until killed."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = FaultyServer(DomainDispatcherApplication(create_backend_app), _forget_all_buckets)
    server = make_server("127.0.0.1", int(sys.argv[1]), app, threaded=True, request_handler=MotoRequestHandler)
    server.serve_forever()


if __name__ == "__main__":
    main()
