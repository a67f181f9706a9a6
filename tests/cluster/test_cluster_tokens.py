"""Labels that a token forces on a host, with a real host that says otherwise: in lists, and in what it lets in."""

from __future__ import annotations

from pathlib import Path

from teleport.resources.parse import parse_resources
from teleport.resources.trusted_cluster import TrustedCluster
from teleport.testing.cluster import Cluster, Host, Person, wait_until

ROLE = """
kind: role
version: v4
metadata: {{name: only-{env}}}
spec: {{allow: {{logins: ["{login}"], node_labels: {{zone: {env}}}}}}}
"""


def listed(person: Person, selector: str) -> list[str]:
    return person.tsh("ls", selector, "--format=names").ok().stdout.split()


def test_a_host_has_the_labels_of_its_token_whatever_its_file_says(
    cluster: Cluster, alice: Person, login: str, tmp_path: Path
) -> None:
    """Also after it was started anew, without the token; a role for its own label lets nobody in."""
    for env in ("forced", "own"):
        cluster.tctl("create", "-f", stdin=ROLE.format(env=env, login=login)).ok()
    people = {env: cluster.add_person(f"of-{env}", roles=[f"only-{env}"]) for env in ("forced", "own")}
    for person in people.values():
        person.log_in()
    file = tmp_path / "token"
    cluster.tctl("tokens", "add", "--type=node", "--labels=zone=forced", f"--out={file}").ok()
    config = cluster.node_config("zoned", auth_token=str(file), ca_pin=[cluster.ca_pin()])
    config["ssh_service"]["labels"] = {"zone": "own", "rack": "7"}
    command = {"name": "zone", "command": ["/bin/echo", "own"], "period": "1m"}
    config["ssh_service"]["commands"] = [command]
    with Host(tmp_path / "zoned", config) as host:
        for _ in range(2):
            wait_until("it is listed", lambda: listed(alice, "rack=7") == ["zoned"])
            assert listed(alice, "zone=forced") == ["zoned"]
            assert listed(alice, "zone=own") == []
            assert people["forced"].tsh("ssh", f"{login}@zoned", "echo", "in").ok().stdout == "in\n"
            assert people["own"].tsh("ssh", f"{login}@zoned", "echo", "in").status == 255
            host.daemon.stop()
            del config["teleport"]["auth_token"], config["teleport"]["ca_pin"]
            host.write()
            host.daemon.start()
            config["teleport"].update(auth_token=str(file), ca_pin=[cluster.ca_pin()])


def test_types_without_a_service_are_kept_and_say_so(cluster: Cluster) -> None:
    for kind in ("app", "db"):
        made = cluster.tctl("tokens", "add", f"--type={kind}").ok()
        assert f"no {kind} service yet" in made.stderr
        assert "teleport start" not in made.stdout
    kube = cluster.tctl("tokens", "add", "--type=kube").ok()
    assert kube.stderr == ""
    assert "kubernetes_service:" in kube.stdout
    both = cluster.tctl("tokens", "add", "--type=node,kube").ok()
    assert "--roles=node \\\n" in both.stdout
    shown = cluster.tctl("tokens", "ls").ok().stdout
    for kind in ("kube", "app", "db", "node,kube"):
        assert kind in shown


def test_a_token_for_another_cluster_comes_with_the_document_to_create_there(cluster: Cluster, tmp_path: Path) -> None:
    made = cluster.tctl("tokens", "add", "--type=trusted_cluster", "--single-use").ok()
    assert made.stderr == ""
    assert cluster.ca_pin() in made.stdout
    document = made.stdout[made.stdout.index("kind: trusted_cluster") :]
    (found,) = parse_resources(document, "printed")
    assert isinstance(found, TrustedCluster)
    assert found.spec.enabled
    assert found.spec.token is not None
    assert found.spec.token.reveal() in made.stdout.partition("kind:")[0]
    assert "no cluster is named" in made.stdout
    named = cluster.tctl("tokens", "add", "--type=trusted_cluster", "--cluster=leaf.test").ok()
    assert "It lets the cluster leaf.test trust this one" in named.stdout
    assert "no cluster is named" not in named.stdout + named.stderr
    assert "trusted_cluster for leaf.test" in cluster.tctl("tokens", "ls").ok().stdout
    out = tmp_path / "token"
    kept = cluster.tctl("tokens", "add", "--type=trusted_cluster", f"--out={out}").ok()
    assert out.read_text().strip() not in kept.stdout
