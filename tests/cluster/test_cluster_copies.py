"""Copies of audit events while auth itself is killed: nothing is lost between the log and the receiver."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from teleport.testing.cluster import Cluster
from teleport.testing.loopback import LOOPBACK
from teleport.testing.processes import wait_until
from teleport.testing.public_authority import PublicAuthority


class Receiver(ThreadingHTTPServer):
    """Keeps the uids of what it takes."""

    def __init__(self, folder: Path) -> None:
        super().__init__((LOOPBACK, 0), _Handler)
        authority = PublicAuthority("Receiver")
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(authority.root)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.issue(LOOPBACK).write(folder, "receiver"))
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.uids: set[str] = set()


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.uids |= {json.loads(line)["uid"] for line in body.splitlines()}
        self.send_response(204)
        self.end_headers()

    def log_message(self, *about: object) -> None:
        """Not on stderr."""


def test_auth_killed_in_the_middle_brings_every_event_and_stdout_has_them_too(tmp_path: Path) -> None:
    """KILL, three times, while users are made: what the log holds arrives at the receiver and on stdout."""
    with Receiver(tmp_path) as receiver:
        serving = threading.Thread(target=receiver.serve_forever)
        serving.start()
        try:
            port = receiver.server_address[1]
            ship = [{"name": "siem", "url": f"https://{LOOPBACK}:{port}/in", "ca_file": str(receiver.ca)}]
            cluster = Cluster(tmp_path / "auth", ship_events=ship)
            for service in ("proxy_service", "ssh_service"):
                cluster.config[service] = {"enabled": False}
            log = str(cluster.data_dir / "log")
            cluster.config["teleport"]["storage"] = {"audit_events_uri": [f"file://{log}", "stdout://"]}
            cluster.write()
            for number in range(3):
                cluster.daemon.start()
                for user in ("a", "b"):
                    cluster.tctl("users", "add", f"copies-{number}{user}", "--roles=access").ok()
                cluster.daemon.kill()
            with cluster:
                listed = cluster.tctl("audit", "ls", "--format=json").ok().stdout
                known = {json.loads(line)["uid"] for line in listed.splitlines()}
                assert sum("copies-" in line for line in listed.splitlines()) >= 6
                wait_until("everything arrived", lambda: known <= receiver.uids, 60)
                wait_until(
                    "everything is on stdout",
                    lambda: all(f'"uid":"{uid}"' in cluster.daemon.log() for uid in known),
                    60,
                )
        finally:
            receiver.shutdown()
            serving.join()
