"""What a kubeconfig's text is after entries of ours came and went: the person's own lines, as they wrote them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from teleport.client.kubeconfig_file import Entry, current, put, put_all, remove

ENTRY = Entry("example.com", "prod", "proxy:3026", Path("/h/cas.pem"), "/usr/bin/tsh", "proxy:3080", "alice")
WRITTEN = """\
# mine: do not touch
apiVersion: v1
kind: Config   # of kubectl
clusters:
  # the old one
  - name: theirs
    cluster: {server: "https://other", certificate-authority-data: 'QQ=='}   # flow
contexts:
  - context:
      cluster: theirs
      user: them
    name: theirs
  # the end of contexts

current-context: theirs  # always
users:
  - name: them
    user:
      token: "0123"      # digits
      extra: |
        two
        lines
# and of the file
"""
KUBECTL = """\
apiVersion: v1
clusters: null
contexts: []
current-context: ""
kind: Config
preferences: {}
users: null
"""


def put_in(path: Path) -> None:
    put_all(path, [ENTRY, replace(ENTRY, kube_cluster="dev")])


@pytest.mark.parametrize(
    "text",
    [
        WRITTEN,
        WRITTEN.replace("  - ", "- ").replace("\n    ", "\n  "),
        WRITTEN.replace("\n", "\r\n"),
        WRITTEN + "more: [1, 2]",
        WRITTEN.replace("users:", "preferences: {}\nusers:"),
    ],
    ids=["as written", "at the margin", "from Windows", "without a last newline", "in another order"],
)
def test_comments_and_layout_stay(tmp_path: Path, text: str) -> None:
    """Entries are put between the lines of the person; taken out again, the file is the one that it was."""
    path = tmp_path / "config"
    path.write_bytes(text.encode())
    put_in(path)
    after = path.read_bytes().decode()
    made = yaml.safe_load(after)
    assert [one["name"] for one in made["contexts"]] == ["theirs", "example.com-prod", "example.com-dev"]
    assert made["current-context"] == "theirs"
    left = iter(after.splitlines())
    assert all(line in left for line in text.splitlines()), "each line of before, in its order"
    put_all(path, [replace(ENTRY, server="proxy:4026")], ENTRY.context)
    assert current(path, "example.com") == "prod"
    assert "# always" in path.read_text()
    remove(path, "proxy:3080", "alice")
    assert (
        path.read_bytes().decode().rstrip() == text.replace("current-context: theirs", "current-context: ''").rstrip()
    )


@pytest.mark.parametrize(
    "text",
    [
        KUBECTL,
        "",
        "# nothing yet\n",
        "apiVersion: v1\nkind: Config\n",
        "clusters:\ncontexts: ~\nusers: []  # none\n",
        json.dumps(yaml.safe_load(WRITTEN)),
        json.dumps(yaml.safe_load(WRITTEN), indent=2),
        "---\n" + WRITTEN + "...\n",
        "a: &x [1]\nb: *x\n" + WRITTEN,
        WRITTEN.replace("  - context:", "  -\n    context:"),
        WRITTEN.replace("theirs", "ünïcode"),
    ],
    ids=[
        "kubectl's",
        "empty",
        "comment",
        "no lists",
        "lists of nothing",
        "JSON",
        "long JSON",
        "marks",
        "anchors",
        "a dash alone",
        "other letters",
    ],
)
def test_whatever_it_looks_like_it_says_what_it_should(tmp_path: Path, text: str) -> None:
    """A layout that entries cannot be put into is written anew, as kubectl does; no entry of others is another one."""
    path = tmp_path / "config"
    path.write_text(text)
    put_in(path)
    put(path, ENTRY)
    before, made = yaml.safe_load(text) or {}, yaml.safe_load(path.read_text())
    for name in ("clusters", "contexts", "users"):
        theirs = before.get(name) or []
        assert made[name][: len(theirs)] == theirs
        assert len(made[name]) == len(theirs) + (1 if name == "clusters" else 2)
    assert made["current-context"] == "example.com-prod"
    put(path, replace(ENTRY, user="bob", kube_cluster="test"))
    remove(path, "proxy:3080", "alice")
    assert [one["name"] for one in yaml.safe_load(path.read_text())["users"]][-1] == "example.com-test"
    remove(path, "proxy:3080", "bob")
    end = yaml.safe_load(path.read_text())
    for name in ("clusters", "contexts", "users"):
        assert (end[name] or []) == (before.get(name) or [])
    assert "nothing yet" not in text or path.read_text().startswith("# nothing yet\n")


def test_what_is_there_already_is_not_written(tmp_path: Path) -> None:
    """Each login looks; a file that says it all is left alone, and needs no right to write."""
    path = tmp_path / "config"
    path.write_text(WRITTEN)
    put_in(path)
    before = path.stat()
    put_in(path)
    remove(path, "proxy:3080", "bob")
    assert path.stat() == before
    put_all(tmp_path / "none" / "config", [])
    assert not (tmp_path / "none").exists()
