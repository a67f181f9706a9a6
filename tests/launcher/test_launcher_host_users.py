"""Accounts that are made for sessions, with the host's real useradd (threat T52)."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from teleport.launcher.host_users import Held, HostUsers
from teleport.launcher.values import HostUserRequest, LauncherRefused

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("useradd") is None, reason="needs root and useradd: it makes Unix accounts"
)


@dataclass
class Lab:
    """Accounts with homes and a state of the test's own; whatever it makes goes again."""

    folder: Path
    names: list[str] = field(default_factory=list)

    @property
    def users(self) -> HostUsers:
        return HostUsers(str(self.folder / "state"), str(self.folder / "homes"))

    def name(self) -> str:
        self.names.append(f"tp{uuid.uuid4().hex[:8]}")
        return self.names[-1]

    def enter(self, name: str, *groups: str) -> Held | None:
        return self.users.enter(name, HostUserRequest(groups, str(self.folder / "told")), "sid-1")

    def told(self) -> list[tuple[Any, ...]]:
        found = [json.loads(path.read_text()) for path in sorted((self.folder / "told").iterdir())]
        return [(one["what"], one["name"], one["groups"], bool(one["error"])) for one in found]

    def home(self, name: str) -> Path:
        return self.folder / "homes" / name


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    (tmp_path / "homes").mkdir(0o755)
    (tmp_path / "told").mkdir()
    made = Lab(tmp_path)
    yield made
    for name in made.names:
        for program in ("userdel", "groupdel"):
            subprocess.run([program, name], capture_output=True, check=False)


def groups_of(name: str) -> set[str]:
    return {group.gr_name for group in grp.getgrall() if name in group.gr_mem}


def exists(name: str) -> bool:
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(name))
    return False


def refused(lab: Lab, name: str, *groups: str) -> str:
    with pytest.raises(LauncherRefused) as raised:
        lab.enter(name, *groups)
    return raised.value.message


def test_an_account_is_made_with_its_groups_and_goes_when_its_session_is_over(lab: Lab) -> None:
    name, group = lab.name(), lab.name()
    held = lab.enter(name, group, "games")
    assert held is not None
    entry = pwd.getpwnam(name)
    assert groups_of(name) == {group, "games"}
    assert (entry.pw_dir, entry.pw_gid) == (str(lab.home(name)), entry.pw_uid)
    assert lab.home(name).stat().st_uid == entry.pw_uid
    shadow = subprocess.run(["getent", "shadow", name], capture_output=True, text=True, check=True).stdout
    assert shadow.split(":")[1].startswith("!")
    (lab.home(name) / "kept").write_text("x")
    lab.users.leave(held)
    assert not exists(name)
    assert (lab.home(name) / "kept").exists()
    assert lab.told() == [("create", name, [group, "games"], False), ("delete", name, [], False)]


def test_a_number_that_was_taken_meanwhile_is_given_to_nobody_else(lab: Lab) -> None:
    """A group that is made for the account, or somebody else's account, may get the number that was free."""
    name, group, wanted = lab.name(), lab.name(), HostUserRequest((), str(lab.folder / "told"))
    subprocess.run(["groupadd", group], check=True)
    late = [grp.getgrnam(group).gr_gid] * 2

    class Late(HostUsers):
        """Whose free number is taken before it uses it."""

        def _free_uid(self) -> int:
            return late.pop() if late else HostUsers._free_uid(self)

    users = Late(str(lab.folder / "state"), str(lab.folder / "homes"))
    held = users.enter(name, wanted, "sid-1")
    assert held is not None
    assert pwd.getpwnam(name).pw_uid not in (grp.getgrnam(group).gr_gid, 0)
    users.leave(held)
    late += [grp.getgrnam(group).gr_gid] * 10
    with pytest.raises(LauncherRefused, match="already exists"):
        users.enter(lab.name(), wanted, "sid-2")


def test_who_comes_back_has_the_same_uid_and_home_and_the_groups_of_today(lab: Lab) -> None:
    """A uid is never given to another name, also while its account is gone."""
    name, other = lab.name(), lab.name()
    held = lab.enter(name, "games")
    assert held is not None
    uid = pwd.getpwnam(name).pw_uid
    lab.users.leave(held)
    second = lab.enter(other)
    assert second is not None
    assert pwd.getpwnam(other).pw_uid != uid
    again = lab.enter(name)
    assert again is not None
    assert pwd.getpwnam(name).pw_uid == uid
    assert groups_of(name) == set()
    lab.users.leave(again)
    lab.users.leave(second)


def test_groups_that_roles_give_no_more_are_taken_away_while_the_account_is_in_use(lab: Lab) -> None:
    name = lab.name()
    first, second = lab.enter(name, "games", "users"), lab.enter(name, "users")
    assert first is not None
    assert second is not None
    assert groups_of(name) == {"users"}
    assert lab.told()[-1] == ("update", name, ["users"], False)
    lab.users.leave(first)
    assert exists(name)  # the second session has it
    lab.users.leave(second)
    assert not exists(name)


def test_an_account_of_the_host_is_left_alone(lab: Lab) -> None:
    """One that was there, and one that an administrator made anew under a name that was ours."""
    name, ours = lab.name(), lab.name()
    subprocess.run(["useradd", "--no-create-home", name], check=True)
    before = pwd.getpwnam(name)
    assert lab.enter(name, "games") is None
    assert (pwd.getpwnam(name), groups_of(name)) == (before, set())
    assert lab.enter("root", "games") is None
    held = lab.enter(ours)
    assert held is not None
    lab.users.leave(held)
    subprocess.run(["useradd", "--no-create-home", "--uid", "58123", ours], check=True)
    assert lab.enter(ours, "games") is None
    assert groups_of(ours) == set()
    lab.users.sweep()
    assert exists(name)
    assert exists(ours)


def test_without_a_role_that_says_so_nothing_is_made(lab: Lab) -> None:
    name = lab.name()
    assert lab.users.enter(name, None) is None
    assert not exists(name)
    assert not (lab.folder / "state").exists()


@pytest.mark.parametrize("kind", ["a link", "a file", "a folder of root's", "a folder of another one's"])
def test_what_lies_in_place_of_the_home_refuses(lab: Lab, kind: str) -> None:
    name, target = lab.name(), lab.folder / "target"
    target.mkdir()
    (target / "secret").write_text("x")
    home = lab.home(name)
    if kind == "a link":
        home.symlink_to(target)
    elif kind == "a file":
        home.write_text("x")
    else:
        home.mkdir()
        os.chown(home, 0 if "root" in kind else 12345, 0)
    before = home.lstat()
    assert "is not a home that was made for it" in refused(lab, name)
    assert not exists(name)
    assert (home.lstat().st_uid, home.lstat().st_mode) == (before.st_uid, before.st_mode)
    assert (target / "secret").stat().st_uid == 0


def test_a_home_that_was_exchanged_while_its_user_was_gone_refuses(lab: Lab) -> None:
    name = lab.name()
    held = lab.enter(name)
    assert held is not None
    lab.users.leave(held)
    lab.home(name).rename(lab.folder / "elsewhere")
    lab.home(name).symlink_to("/etc")
    assert "is not a home that was made for it" in refused(lab, name)


def test_homes_that_others_may_change_refuse(lab: Lab) -> None:
    (lab.folder / "homes").chmod(0o777)
    assert "only root may change" in refused(lab, lab.name())


def test_a_group_of_that_name_refuses(lab: Lab) -> None:
    """The account would be in it."""
    name = lab.name()
    subprocess.run(["groupadd", name], check=True)
    assert f"a group {name} exists" in refused(lab, name)
    assert not exists(name)


@pytest.mark.parametrize("name", ["-x", "--help", "Root", "a b", "a/b", "../x", "x\n", "x" * 33, "1x", "x:y", ""])
def test_names_that_are_none_refuse(lab: Lab, name: str) -> None:
    assert "its name is none" in refused(lab, name)
    assert not (lab.folder / "state").exists()


def test_a_state_that_others_may_read_or_change_refuses(lab: Lab) -> None:
    (lab.folder / "state").mkdir(0o755)
    assert "not a directory of root's alone" in refused(lab, lab.name())


def test_an_account_with_a_process_left_stays_until_it_has_ended(lab: Lab) -> None:
    name = lab.name()
    held = lab.enter(name)
    assert held is not None
    left = subprocess.Popen(["sleep", "60"], user=pwd.getpwnam(name).pw_uid)
    try:
        lab.users.leave(held)
        lab.users.sweep()
        assert exists(name)
    finally:
        left.kill()
        left.wait()
    lab.users.sweep()  # the next daemon
    assert not exists(name)


@pytest.mark.parametrize("how", ["ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)", "0"], ids=["undumpable", "setuid"])
def test_a_process_that_root_seems_to_own_is_one_of_the_account_all_the_same(lab: Lab, how: str) -> None:
    """One that may not be dumped, as an SSH agent; one that runs a program with root's rights, as sudo."""
    name = lab.name()
    held = lab.enter(name)
    assert held is not None
    uid = pwd.getpwnam(name).pw_uid
    become = f"os.setresuid({uid}, {0 if how == '0' else uid}, {0 if how == '0' else uid})"
    code = f"import ctypes, os, sys; {become}; {how}; print('x', flush=True); sys.stdin.read()"
    with subprocess.Popen(["/usr/bin/python3", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as left:
        assert left.stdout is not None
        assert left.stdout.readline() == b"x\n"
        lab.users.leave(held)
        lab.users.sweep()
        assert exists(name)
        left.communicate()
    lab.users.sweep()
    assert not exists(name)


def test_many_sessions_that_begin_at_once_make_one_account(lab: Lab) -> None:
    name, others = lab.name(), [lab.name() for _ in range(3)]
    with ThreadPoolExecutor(6) as pool:
        entered = list(pool.map(lab.enter, [name] * 3 + others))
    assert all(entered)
    assert len({pwd.getpwnam(one).pw_uid for one in (name, *others)}) == 4
    assert [what for what, told, *_ in lab.told() if told == name] == ["create"]
    for held in entered:
        assert held is not None
        lab.users.leave(held)
    assert not any(map(exists, (name, *others)))


def test_what_could_not_be_made_is_told(lab: Lab) -> None:
    """A group of which useradd knows nothing good."""
    name = lab.name()
    assert "failed" in refused(lab, name, "bad:group")
    assert not exists(name)
