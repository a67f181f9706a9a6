"""What is used away from the auth host: identity files for tsh and tctl, and tctl by a login on another machine."""

from __future__ import annotations

import json
from pathlib import Path

from teleport.testing.cluster import BIN, NODE, Cluster, Person, Ran, plain_environment, run


def elsewhere(person: Person, *arguments: str) -> Ran:
    """`tctl` on the person's own machine, where no daemon and no configuration is."""
    return run(BIN / "tctl", *arguments, environment={**person.environment, "TELEPORT_CONFIG_FILE": ""})


def test_an_identity_file_is_all_that_tsh_and_tctl_need(
    cluster: Cluster, alice: Person, login: str, tmp_path: Path
) -> None:
    """A machine that knows nothing of the cluster but the file and an address; a host is proved by what is inside."""
    file = tmp_path / "id"
    cluster.tctl("auth", "sign", "--user=alice", f"--out={file}", "--ttl=1h").ok()
    environment = {**plain_environment(tmp_path), "HOME": str(tmp_path), "TELEPORT_CONFIG_FILE": ""}
    proxy = f"--proxy={cluster.web_address},{cluster.proxy_ssh_port}"

    def tsh(*arguments: str) -> Ran:
        return run(BIN / "tsh", "-i", file, proxy, *arguments, environment=environment)

    assert tsh("ssh", f"{login}@{NODE}", "echo", "by file").ok().stdout == "by file\n"
    assert NODE in tsh("ls", "--format=names").ok().stdout.split()
    assert not (tmp_path / ".tsh" / "keys").exists()
    server = f"--auth-server={cluster.web_address}"
    shown = run(BIN / "tctl", "-i", file, server, "status", "--format=json", environment=environment).ok().stdout
    assert json.loads(shown)["ca_pins"] == [cluster.ca_pin()]
    denied = run(BIN / "tctl", "-i", file, server, "users", "ls", environment=environment)
    assert denied.status == 5


def test_an_administrator_works_from_another_machine(cluster: Cluster, login: str, tmp_path: Path) -> None:
    """By `tsh login` alone, on record under the person's name; what only the auth host may is refused."""
    edna = cluster.add_person("edna", logins=[login], roles=["editor", "access"])
    edna.log_in()
    assert cluster.ca_pin() in elsewhere(edna, "status").ok().stdout
    assert "edna" in elsewhere(edna, "users", "ls").ok().stdout
    made = json.loads(elsewhere(edna, "tokens", "add", "--type=node", "--format=json").ok().stdout)
    assert made["ca_pins"] == [cluster.ca_pin()]
    elsewhere(edna, "tokens", "rm", made["id"]).ok()
    role = tmp_path / "role.yaml"
    role.write_text("kind: role\nversion: v4\nmetadata: {name: from-afar}\nspec: {allow: {logins: [nobody]}}\n")
    elsewhere(edna, "create", str(role)).ok()
    assert "from-afar" in elsewhere(edna, "get", "roles", "--format=text").ok().stdout
    elsewhere(edna, "rm", "role/from-afar").ok()
    assert elsewhere(edna, "auth", "export", "--type=host").ok().stdout.startswith("@cert-authority")
    for refused in (
        ["auth", "export", "--keys"],
        ["auth", "sign", "--user=edna", f"--out={tmp_path / 'id'}"],
        ["auth", "sign", "--host=db", "--format=db", f"--out={tmp_path / 'db'}"],
    ):
        ran = elsewhere(edna, *refused)
        assert (ran.status, ran.stdout) == (5, ""), refused
    assert not list(tmp_path.glob("id*")) + list(tmp_path.glob("db*"))
    found = cluster.tctl("audit", "ls", "--type=role.created", "--format=json").ok().stdout
    assert any(json.loads(line)["user"] == "edna" for line in found.splitlines())
