"""A configuration with mistakes starts nothing: every mistake is named at once, and nothing is made or opened."""

from __future__ import annotations

from pathlib import Path

from teleport.testing.cluster import BIN, LOOPBACK, Ran, at, free_port, loopback_socket, plain_environment, run


def start(folder: Path, text: str, *arguments: str) -> Ran:
    config = folder / "teleport.yaml"
    config.write_text(text)
    return run(
        BIN / "teleport", "start", "--config", config, *arguments, environment=plain_environment(folder), seconds=10
    )


def test_every_mistake_is_named_with_its_line_and_nothing_is_made(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    done = start(
        tmp_path,
        f"""\
teleport:
  data_dir: {data_dir}
  nodname: typo
  ca_pin: sha256:abc
auth_service:
  enabled: perhaps
  listen_addr: "{at(free_port())}"
  client_idle_timeout: 5 parsecs
ssh_service:
  listen_addr: 127.0.0.1:notaport
  labels: [a, b]
""",
    )
    assert done.status == 1
    assert done.stdout == ""
    for line, word in ((3, "nodname"), (4, "ca_pin"), (6, "enabled"), (8, "client_idle_timeout"), (10, "listen_addr")):
        assert any(f":{line}" in said and word in said for said in done.stderr.splitlines()), (line, word, done.stderr)
    assert "labels" in done.stderr
    assert "Traceback" not in done.stderr
    assert not data_dir.exists()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    environment = plain_environment(tmp_path)
    done = run(BIN / "teleport", "start", "--config", tmp_path / "nowhere.yaml", environment=environment)
    assert done.status != 0
    assert "nowhere.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with loopback_socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = start(
            tmp_path,
            f"""\
teleport: {{data_dir: {tmp_path / "data"}}}
auth_service: {{enabled: yes, listen_addr: "{at(port)}"}}
proxy_service: {{enabled: no}}
ssh_service: {{enabled: no}}
""",
        )
    assert done.status == 1
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr
