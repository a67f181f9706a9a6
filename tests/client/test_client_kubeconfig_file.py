"""Entries of ours in a person's own kubeconfig: put in, taken away, and nothing else is touched."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from teleport.client import kubeconfig_file
from teleport.client.kubeconfig_file import Entry, current, path_of, put, remove
from teleport.errors import TeleportError

ENTRY = Entry("example.com", "prod", "proxy:3026", Path("/h/cas.pem"), "/usr/bin/tsh", "proxy:3080", "alice")
OTHERS: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Config",
    "preferences": {"colors": True},
    "clusters": [{"name": "theirs", "cluster": {"server": "https://other", "extensions": [{"name": "x"}]}}],
    "users": [{"name": "them", "user": {"token": "secret"}}],
    "contexts": [{"name": "theirs", "context": {"cluster": "theirs", "user": "them", "namespace": "n"}}],
    "current-context": "theirs",
    "unknown": [1, {"a": None}],
}


def read(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text())
    assert isinstance(found, dict)
    return found


def test_a_first_entry_makes_the_file(tmp_path: Path) -> None:
    """With its folder, readable by its owner alone; kubectl finds the plugin, the server and whom to believe."""
    path = tmp_path / ".kube" / "config"
    put(path, ENTRY)
    assert path.stat().st_mode & 0o777 == 0o600
    made = read(path)
    (cluster,), (user,), (context,) = made["clusters"], made["users"], made["contexts"]
    assert cluster["cluster"]["server"] == "https://proxy:3026"
    assert cluster["cluster"]["certificate-authority"] == "/h/cas.pem"
    assert user["user"]["exec"]["command"] == "/usr/bin/tsh"
    assert user["user"]["exec"]["args"][:4] == [
        "kube",
        "credentials",
        "--kube-cluster=prod",
        "--teleport-cluster=example.com",
    ]
    assert context["context"] == {"cluster": "example.com", "user": "example.com-prod"}
    assert made["current-context"] == context["name"] == "example.com-prod"
    assert current(path, "example.com") == "prod"
    assert current(path, "other.com") == ""
    assert [one.name for one in path.parent.iterdir()] == ["config"]


def test_other_entries_stay_as_they_are(tmp_path: Path) -> None:
    """Going in and out again, only the current context is another one; keys that are not known here stay, too."""
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(OTHERS))
    put(path, ENTRY)
    put(path, replace(ENTRY, kube_cluster="dev"))
    made = read(path)
    assert made["clusters"][0] == OTHERS["clusters"][0]
    assert [one["name"] for one in made["contexts"]] == ["theirs", "example.com-prod", "example.com-dev"]
    assert len(made["clusters"]) == 2
    remove(path, "proxy:3080", "bob")
    remove(path, "other:3080", "alice")
    assert read(path) == made
    remove(path, "proxy:3080", "alice")
    assert read(path) == {**OTHERS, "current-context": ""}
    assert current(path, "example.com") == ""


def test_a_home_elsewhere_is_named_to_the_plugin(tmp_path: Path) -> None:
    """kubectl runs it without the variable. A login's end takes out what leads to its home, and what names none."""
    path = tmp_path / "config"
    put(path, ENTRY)
    assert "env" not in read(path)["users"][0]["user"]["exec"]
    put(path, replace(ENTRY, kube_cluster="dev", home="/else where"))
    assert read(path)["users"][1]["user"]["exec"]["env"] == [{"name": "TELEPORT_HOME", "value": "/else where"}]
    made = read(path)
    remove(path, "proxy:3080", "alice", "/another")
    assert [one["name"] for one in read(path)["users"]] == ["example.com-dev"]
    path.write_text(yaml.safe_dump(made))
    remove(path, "proxy:3080", "alice")
    assert [one["name"] for one in read(path)["users"]] == ["example.com-dev"]
    remove(path, "proxy:3080", "alice", "/else where")
    assert not read(path)["users"]


def test_what_was_chosen_by_another_is_no_cluster_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(OTHERS))
    assert current(path, "example.com") == ""
    remove(path, "proxy:3080", "alice")
    assert read(path) == OTHERS


@pytest.mark.parametrize(
    ("cluster", "user", "context"),
    [
        ("example.com", "them", "theirs"),  # their token would go to our server
        ("example.com", None, None),
        ("theirs", "example.com-prod", "theirs"),
        ("theirs", "them", "example.com-prod"),
    ],
)
def test_entries_of_others_are_not_written_over(
    tmp_path: Path, cluster: str, user: str | None, context: str | None
) -> None:
    """A cluster that is called as another one does not get what belongs to that: credentials, commands, contexts."""
    path = tmp_path / "config"
    document = {
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": {"server": "https://other"}}],
        "users": [{"name": user or "them", "user": {"token": "secret"}}],
        "contexts": [{"name": context, "context": {"cluster": cluster, "user": user}}] if context else [],
    }
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(TeleportError, match="nothing was changed"):
        put(path, ENTRY)
    assert read(path) == document


def test_a_namespace_that_was_set_stays(tmp_path: Path) -> None:
    """`kubectl config set-context --current --namespace` outlives the next login; its order in the file, too."""
    path = tmp_path / "config"
    put(path, ENTRY)
    put(path, replace(ENTRY, kube_cluster="dev"))
    made = read(path)
    made["contexts"][0]["context"]["namespace"] = "mine"
    path.write_text(yaml.safe_dump(made))
    put(path, replace(ENTRY, server="proxy:4026"))
    after = read(path)
    assert after["contexts"][0]["context"]["namespace"] == "mine"
    assert [one["name"] for one in after["contexts"]] == ["example.com-prod", "example.com-dev"]
    assert after["clusters"][0]["cluster"]["server"] == "https://proxy:4026"


@pytest.mark.parametrize("text", ["[1", "- a", "clusters: 5", "contexts: [x]", "users: {a: b}", "\x00"])
def test_what_cannot_be_read_is_not_written_over(tmp_path: Path, text: str) -> None:
    """A damaged file is the person's to mend."""
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(TeleportError, match="nothing was changed"):
        put(path, ENTRY)
    assert path.read_text() == text
    assert [one.name for one in tmp_path.iterdir()] == ["config"]


def test_a_file_that_kubectl_changes_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock counts; one that stays is named."""
    monkeypatch.setattr(kubeconfig_file, "LOCK_SECONDS", 0.1)
    path = tmp_path / "config"
    lock = tmp_path / "config.lock"
    lock.touch()
    with pytest.raises(TeleportError, match="is being changed by another program") as caught:
        put(path, ENTRY)
    assert str(lock) in caught.value.hint
    assert not path.exists()
    lock.unlink()
    put(path, ENTRY)
    assert not lock.exists()


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """What it leads to is changed."""
    (tmp_path / "dotfiles").mkdir()
    path = tmp_path / "config"
    path.symlink_to(tmp_path / "dotfiles" / "kube")
    put(path, ENTRY)
    assert path.is_symlink()
    assert read(tmp_path / "dotfiles" / "kube")["current-context"] == "example.com-prod"


def test_which_file_it_is(tmp_path: Path) -> None:
    """The first that KUBECONFIG names, else the one in the home."""
    assert path_of({"HOME": "/h"}) == Path("/h/.kube/config")
    assert path_of({"HOME": "/h", "KUBECONFIG": ""}) == Path("/h/.kube/config")
    assert path_of({"KUBECONFIG": os.pathsep.join(["", "/a", "/b"])}) == Path("/a")
