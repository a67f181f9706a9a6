"""Who may join which session, and when a session has the people that it needs (threats T47 and T48)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from teleport.authz.channels import ChannelTerms, RoleGrant
from teleport.authz.decision import AccessDenial, Policy
from teleport.authz.joining import (
    NO_SUCH_SESSION,
    JoinPermit,
    LetIn,
    Participant,
    Requirement,
    RunningSession,
    evaluate_join,
    on_leave,
    requirements,
    unknown_session,
    unmet,
    without_unattended,
)
from teleport.authz.ssh import SSHAccessPermit, SSHAccessRequest, evaluate_ssh_access
from teleport.identity import UserIdentity
from teleport.resources.joining import JoinMode, JoinPolicy, OnLeave, RequiredJoin
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, ExecMode, Role, RoleSpec

NOW = datetime(2026, 11, 28, tzinfo=UTC)
W, P, M = JoinMode.OBSERVER, JoinMode.PEER, JoinMode.MODERATOR
SHELL = ChannelTerms(grants=(RoleGrant("access"),))
SESSION = RunningSession(
    sid="s", cluster="here", user="alice", user_cluster="here", login="root", roles=("prod", "access"), interactive=True
)


def user(
    name: str, *roles: str, cluster: str = "here", denying: tuple[str, ...] = (), command: str = ""
) -> UserIdentity:
    return UserIdentity(
        name=name,
        cluster=cluster,
        roles=roles,
        logins=("root",),
        expires=NOW + timedelta(hours=1),
        denying=denying,
        force_command=command,
    )


def role(name: str, allow: JoinPolicy | None = None, deny: JoinPolicy | None = None) -> Role:
    def conditions(entry: JoinPolicy | None) -> Conditions:
        return Conditions(logins=("root",), join_sessions=(entry,) if entry is not None else ())

    return Role(metadata=Metadata(name=name), spec=RoleSpec(allow=conditions(allow), deny=conditions(deny)))


def joins(*modes: JoinMode, roles: tuple[str, ...] = ("prod",), kind: str = "ssh") -> JoinPolicy:
    return JoinPolicy(roles=roles, kinds=(kind,), modes=modes)  # type: ignore[arg-type]


ROLES = {
    one.name: one
    for one in (
        role("access"),
        role("watch", joins(W)),
        role("watch-any", joins(W, P, roles=("*",))),
        role("pair", joins(P, M, roles=("pr*",))),
        role("pattern", joins(W, roles=("^(prod|dev)$",))),
        role("bad-pattern", joins(W, roles=("^(prod$",))),
        role("bad-deny", deny=joins(W, P, roles=("^(prod$",))),
        role("other", joins(W, P, M, roles=("dev",))),
        role("kube", joins(W, P, M, kind="k8s")),
        role("no-watching", deny=joins(W)),
        role("no-joining", deny=joins(W, P, M, roles=("*",))),
        role("moderates-own", joins(M, roles=("*",))),
    )
}
POLICY = Policy(ROLES)
OTHERS = replace(SESSION, user_cluster="leaf")

# id: who, the session, the mode asked for, the mode given (None: refused)
CASES: dict[str, tuple[UserIdentity, RunningSession, JoinMode | None, JoinMode | None]] = {
    "own, no mode": (user("alice", "access"), SESSION, None, P),
    "own, watching": (user("alice", "access"), SESSION, W, W),
    "own, moderating": (user("alice", "access"), SESSION, M, None),
    "own, moderating by a role": (user("alice", "moderates-own"), SESSION, M, None),
    "own, roles gone": (user("alice"), SESSION, None, P),
    "own, denied": (user("alice", "access", "no-joining"), SESSION, None, None),
    "own, denied since": (user("alice", "access", denying=("no-joining",)), SESSION, None, None),
    "own, watching denied": (user("alice", "access", "no-watching"), SESSION, W, None),
    "own, watching denied, typing": (user("alice", "access", "no-watching"), SESSION, P, P),
    "own, deny that cannot be read": (user("alice", "access", "bad-deny"), SESSION, P, None),
    "same name, session of another cluster's": (user("alice", "access"), OTHERS, None, None),
    "same name of another cluster": (user("alice", "access", cluster="leaf"), SESSION, None, None),
    "same name and session of another cluster's": (user("alice", "access", cluster="leaf"), OTHERS, None, None),
    "stranger": (user("bob", "access"), SESSION, None, None),
    "stranger without roles": (user("bob"), SESSION, W, None),
    "stranger with a role that is gone": (user("bob", "removed"), SESSION, W, None),
    "another case of the name": (user("Alice", "access"), SESSION, None, None),
    "watcher": (user("bob", "watch"), SESSION, None, W),
    "watcher wants to type": (user("bob", "watch"), SESSION, P, None),
    "watcher wants to moderate": (user("bob", "watch"), SESSION, M, None),
    "any": (user("bob", "watch-any"), SESSION, P, P),
    "any, no mode": (user("bob", "watch-any"), SESSION, None, W),
    "any, user without roles": (user("bob", "watch-any"), replace(SESSION, roles=()), W, W),
    "glob": (user("bob", "pair"), SESSION, P, P),
    "glob, no mode": (user("bob", "pair"), SESSION, None, M),
    "pattern": (user("bob", "pattern"), SESSION, W, W),
    "pattern matches whole names": (user("bob", "pattern"), replace(SESSION, roles=("prod2",)), W, None),
    "pattern that cannot be read": (user("bob", "bad-pattern"), SESSION, W, None),
    "roles of others": (user("bob", "other"), SESSION, W, None),
    "another kind of session": (user("bob", "kube"), SESSION, W, None),
    "two roles add up": (user("bob", "watch", "pair"), SESSION, P, P),
    "deny beats allow": (user("bob", "watch-any", "no-joining"), SESSION, W, None),
    "deny of one mode": (user("bob", "watch-any", "no-watching"), SESSION, None, P),
    "deny since": (user("bob", "watch-any", denying=("no-joining",)), SESSION, W, None),
    "allow since does not count": (user("bob", "access", denying=("watch-any",)), SESSION, W, None),
    "no terminal": (user("alice", "access"), replace(SESSION, interactive=False), None, None),
    "forced command": (user("alice", "access", command="id"), SESSION, W, None),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_joining(case: tuple[UserIdentity, RunningSession, JoinMode | None, JoinMode | None]) -> None:
    """The table."""
    identity, session, asked, given = case
    decision = evaluate_join(LetIn(identity, "root", SHELL, False), session, asked, POLICY)
    if given is None:
        assert isinstance(decision, AccessDenial), decision
        assert decision.reasons
    else:
        assert isinstance(decision, JoinPermit), decision
        assert decision.mode is given


def test_the_login_of_the_session_is_needed() -> None:
    """Who may log in as somebody harmless does not get at a root shell."""
    decision = evaluate_join(LetIn(user("alice", "access"), "guest", SHELL, False), SESSION, None, POLICY)
    assert isinstance(decision, AccessDenial)


def test_a_refusal_tells_nothing_of_whether_the_session_exists() -> None:
    """Threats T34 and T47: one sentence for ids that nobody has and for sessions that are not the caller's."""
    decision = evaluate_join(LetIn(user("bob", "access"), "root", SHELL, False), SESSION, W, POLICY)
    assert isinstance(decision, AccessDenial)
    unknown = unknown_session()
    assert (decision.public, decision.hint, decision.code) == (unknown.public, unknown.hint, unknown.code)
    assert decision.public == NO_SUCH_SESSION
    assert "alice" in " ".join(decision.reasons)


def test_who_may_have_no_shell_types_in_nobodys() -> None:
    """A role that gives commands only must not become one that gives a shell; watching stays."""
    limited = ChannelTerms(grants=(RoleGrant("access", exec=ExecMode.TRANSFER),))
    who = LetIn(user("alice", "access"), "root", limited, False)
    assert isinstance(evaluate_join(who, SESSION, P, POLICY), AccessDenial)
    watching = evaluate_join(who, SESSION, None, POLICY)
    assert isinstance(watching, JoinPermit)
    assert watching.mode is W


def test_who_may_do_nothing_alone_does_not_type_in_sessions_of_others() -> None:
    """Else a moderated user works on, unwatched, in the session of somebody who is not."""
    moderated = LetIn(user("bob", "watch-any"), "root", SHELL, True)
    assert isinstance(evaluate_join(moderated, SESSION, P, POLICY), AccessDenial)
    assert isinstance(evaluate_join(moderated, SESSION, W, POLICY), JoinPermit)
    own = LetIn(user("alice", "access"), "root", SHELL, True)
    assert isinstance(evaluate_join(own, SESSION, P, POLICY), JoinPermit)


# required sets

ONE = RequiredJoin(name="one", kinds=("ssh",), filter='contains(user.spec.roles, "auditor")')
TWO = RequiredJoin(name="two", kinds=("*",), count=2, modes=(M, W), on_leave=OnLeave.PAUSE)
KUBE = RequiredJoin(name="kube", kinds=("k8s",))
BAD = RequiredJoin(name="bad", kinds=("ssh",), filter='equals(user.spec.roles, "auditor")')

MET: dict[str, tuple[tuple[Requirement, ...], list[tuple[str, tuple[str, ...], JoinMode]], bool]] = {
    "nothing asked": ((), [], True),
    "nobody there": ((Requirement("r", (ONE,)),), [], False),
    "moderator": ((Requirement("r", (ONE,)),), [("mod", ("auditor",), M)], True),
    "wrong role": ((Requirement("r", (ONE,)),), [("mod", ("access",), M)], False),
    "wrong mode": ((Requirement("r", (ONE,)),), [("mod", ("auditor",), W)], False),
    "the user himself": ((Requirement("r", (ONE,)),), [("alice", ("auditor",), M)], False),
    "one of two": ((Requirement("r", (TWO,)),), [("a", (), M)], False),
    "one twice": ((Requirement("r", (TWO,)),), [("a", (), M), ("a", (), W)], False),
    "two": ((Requirement("r", (TWO,)),), [("a", (), M), ("b", (), W)], True),
    "entries of a role: one is enough": ((Requirement("r", (ONE, TWO)),), [("mod", ("auditor",), M)], True),
    "roles: each is asked": (
        (Requirement("r", (ONE,)), Requirement("s", (TWO,))),
        [("mod", ("auditor",), M)],
        False,
    ),
    "roles: one person can count for several": (
        (Requirement("r", (ONE,)), Requirement("s", (TWO,))),
        [("mod", ("auditor",), M), ("b", (), W)],
        True,
    ),
    "a filter that cannot be evaluated": ((Requirement("r", (BAD,)),), [("mod", ("auditor",), M)], False),
}


@pytest.mark.parametrize("case", MET.values(), ids=MET.keys())
def test_required_people(
    case: tuple[tuple[Requirement, ...], list[tuple[str, tuple[str, ...], JoinMode]], bool],
) -> None:
    """The table."""
    required, there, met = case
    present = [Participant(user("alice", "access"), P)]
    present += [Participant(user(name, *roles), mode) for name, roles, mode in there]
    assert (unmet(required, SESSION, present) == ()) is met


def test_a_namesake_of_another_cluster_is_somebody_else() -> None:
    """Names count within one cluster: the namesake may moderate, and is not the user."""
    namesake = Participant(user("alice", "auditor", cluster="leaf"), M)
    assert unmet((Requirement("r", (ONE,)),), SESSION, [namesake]) == ()


@pytest.mark.parametrize(
    ("entries", "wanted"),
    [
        ([(TWO,)], OnLeave.PAUSE),
        ([(ONE,)], OnLeave.TERMINATE),
        ([(ONE, TWO)], OnLeave.TERMINATE),
        ([(TWO,), (ONE,)], OnLeave.TERMINATE),
        ([], OnLeave.TERMINATE),
    ],
    ids=["pause", "terminate", "either entry", "either role", "nothing"],
)
def test_pausing_needs_everybodys_word(entries: list[tuple[RequiredJoin, ...]], wanted: OnLeave) -> None:
    """The stricter answer wins."""
    assert on_leave([Requirement("r", one) for one in entries]) is wanted


def test_a_permit_says_what_is_required_and_takes_forwards_away() -> None:
    """Also what a role requires that the user was given after the login; other kinds of sessions do not count."""
    allow = Conditions(logins=("root",), node_labels={"*": ("*",)})
    plain = Role(metadata=Metadata(name="plain"), spec=RoleSpec(allow=allow))
    asks = Role(metadata=Metadata(name="asks"), spec=RoleSpec(allow=Conditions(require_session_join=(ONE, KUBE))))
    policy = Policy({"plain": plain, "asks": asks})

    def permit(identity: UserIdentity) -> SSHAccessPermit:
        request = SSHAccessRequest(identity=identity, login="root", cluster="here", now=NOW, node_id="n")
        decision = evaluate_ssh_access(request, policy)
        assert isinstance(decision, SSHAccessPermit)
        return decision

    nowhere = SSHAccessRequest(
        identity=user("alice", "plain", "asks"), login="root", cluster="here", now=NOW, node_id="n", joinable=False
    )
    refused = evaluate_ssh_access(nowhere, policy)
    assert isinstance(refused, AccessDenial), "where nobody can be in it, there is no session"
    assert "somebody else in your sessions" in refused.public
    free = permit(user("alice", "plain"))
    assert isinstance(
        evaluate_ssh_access(
            SSHAccessRequest(
                identity=user("alice", "plain"), login="root", cluster="here", now=NOW, node_id="n", joinable=False
            ),
            policy,
        ),
        SSHAccessPermit,
    )
    assert free.required_joins == ()
    assert free.channels.port_forwarding
    for identity in (user("alice", "plain", "asks"), user("alice", "plain", denying=("asks",))):
        bound = permit(identity)
        assert bound.required_joins == (Requirement("asks", (ONE,)),) == requirements([asks])
        assert bound.channels == without_unattended(free.channels)
        assert not bound.channels.port_forwarding
        assert not any(one.local_forwarding or one.remote_forwarding for one in bound.channels.grants)
