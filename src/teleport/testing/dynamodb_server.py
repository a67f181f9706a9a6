"""The program behind `dynamodb.DynamoServer`: moto, one request at a time.

Its transactions copy the tables and put the copy back when a condition fails: beside another request that would undo
what was committed, which DynamoDB never does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from threading import Lock
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple


def main(port: int) -> None:
    """Serve on loopback until killed."""
    served = DomainDispatcherApplication(create_backend_app)
    lock = Lock()

    def one_at_a_time(environ: Any, start_response: Any) -> Iterable[bytes]:
        with lock:
            return list(served(environ, start_response))

    run_simple("127.0.0.1", port, one_at_a_time, threaded=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
