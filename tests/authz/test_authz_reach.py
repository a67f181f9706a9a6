"""What lists show of ten thousand hosts is what `evaluate_ssh_access` says of each (T30, T34).

`Reach` decides hosts of which the rules see the same once, so the hosts of one case differ in whatever a decision could
rest on: namespaces, labels that rules name, labels that none does, spellings, labels that say two things at once.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from teleport.authz import host_rules
from teleport.authz.decision import ClusterDefaults, DenialCode, Policy
from teleport.authz.host_rules import Reach
from teleport.authz.labels import CanonicalLabels, Selector
from teleport.authz.ssh import SSHAccessPermit, SSHAccessRequest, evaluate_ssh_access, why_out_of_reach
from teleport.identity import RemoteOrigin, UserIdentity
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, LabelSelector, Options, Role, RoleLocking, RoleSpec

NOW = datetime(2030, 1, 1, tzinfo=UTC)
CAFE, CAFE_APART = "caf\u00e9", "cafe\u0301"
KEYS = ["env", "env", "serial", "serial", "Env", CAFE, CAFE_APART]
TEXTS = ["prod", "Prod", "s1", "s2", "", CAFE, CAFE_APART, "ann"]
PATTERNS = ["*", "p*", "s*", "^s[0-9]$", "^(?i)PROD$", "^[$", f"^{CAFE_APART}$"]
TEMPLATES = [
    "{{external.team}}",
    "{{internal.logins}}",
    "p{{external.team}}",
    '{{regexp.replace(external.team, "p", "P")}}',
]
LOGINS = ["root", "ann", "no login", "Ann"]
Host = tuple[str, dict[str, str]]
Case = tuple[UserIdentity, Policy, list[Host]]


class Chance:
    """Cases by chance, the same in each run, and so that most let somebody in somewhere and not everywhere."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def of(self, part: float) -> bool:
        return self._random.random() < part

    def some(self, among: Sequence[str], least: int, most: int) -> tuple[str, ...]:
        return tuple(self._random.choices(among, k=self._random.randint(least, most)))

    def selector(self) -> LabelSelector | None:
        if self.of(0.1):
            return None
        if self.of(0.25):
            return {"*": ("*",) if self.of(0.8) else self.some(TEXTS, 0, 1)}
        keys = self.some([*KEYS, "{{external.team}}"], 0 if self.of(0.1) else 1, 2)
        return {key: self.some([*TEXTS, *PATTERNS, *PATTERNS, *TEMPLATES], 0 if self.of(0.1) else 1, 3) for key in keys}

    def namespaces(self) -> tuple[str, ...] | None:
        return None if self.of(0.7) else self._random.choice([(), ("other",), ("*",), ("default", "other")])

    def role(self, name: str) -> Role:
        allow = Conditions(
            logins=self.some([*LOGINS, "root", "ann", "{{internal.logins}}"], 0, 3),
            node_labels=self.selector(),
            namespaces=self.namespaces(),
        )
        deny = Conditions()
        if self.of(0.3):
            deny = Conditions(
                logins=self.some([*LOGINS, "*", "{{internal.logins}}"], 0, 1),
                node_labels=self.selector() if self.of(0.5) else {self.some(KEYS, 1, 1)[0]: self.some(TEXTS, 1, 2)},
                namespaces=self.namespaces(),
            )
        options = Options()
        if self.of(0.1):
            options = self._random.choice(
                [
                    Options(require_session_mfa=True),
                    Options(lock=RoleLocking.STRICT),
                    Options(pin_source_ip=True),
                ]
            )
        spec = RoleSpec(allow=allow, deny=deny, options=options)
        version = self._random.choice(["v3", "v4", "v5"])
        return Role(version=version, metadata=Metadata(name=name), spec=spec)  # type: ignore[arg-type]

    def identity(self) -> UserIdentity:
        values = [*TEXTS, *LOGINS, "*", "^[$"]
        identity = UserIdentity(
            "ann",
            "main",
            self.some(["r0", "r1", "r2", "gone"], 0 if self.of(0.05) else 1, 3),
            tuple(dict.fromkeys(self.some(LOGINS, 0 if self.of(0.05) else 1, 3))),
            NOW + timedelta(hours=1),
            traits={name: self.some(values, 0, 2) for name in self.some(["logins", "team"], 0, 2)},
            denying=self.some(["r0", "r1", "r2", "gone"], 1, 2) if self.of(0.2) else (),
        )
        changes: list[dict[str, object]] = [
            {"source_ip": "192.0.2.7"},
            {"expires": NOW},
            {"cluster": "other"},
            {"mfa_device": "device", "mfa_target": "node"},
            {"impersonator": "bot", "active_requests": ("request",)},
            {"origin": RemoteOrigin("leaf", "ann", ("theirs",))},
        ]
        return dataclasses.replace(identity, **self._random.choice(changes)) if self.of(0.3) else identity  # type: ignore[arg-type]

    def policy(self) -> Policy:
        defaults = ClusterDefaults(require_session_mfa=self.of(0.3), strict_locks=self.of(0.5))
        return Policy({name: self.role(name) for name in ("r0", "r1", "r2")}, defaults, 1000.0 if self.of(0.1) else 0.0)

    def host(self) -> Host:
        keys = self.some([*KEYS, "env", "serial", "beside", "prod"], 1, 6)
        labels = {key: self._random.choice(TEXTS) for key in keys}
        return ("other" if self.of(0.2) else "default"), labels

    def case(self) -> Case:
        return self.identity(), self.policy(), [self.host() for _ in range(self._random.randint(2, 10))]


CASES: list[Case] = [chance.case() for chance in [Chance(7)] for _ in range(2000)]


def one_by_one(identity: UserIdentity, policy: Policy, host: Host) -> tuple[str, ...]:
    """Asked as a session asks: from where the certificate is pinned to, unlocked; a factor that is due can be given."""
    namespace, labels = host

    def lets_in(login: str) -> bool:
        decision = evaluate_ssh_access(
            SSHAccessRequest(
                identity, login, "main", NOW, "node", "", labels, namespace, client_address=identity.source_ip
            ),
            policy,
        )
        return isinstance(decision, SSHAccessPermit) or decision.code is DenialCode.MFA_REQUIRED

    return tuple(login for login in identity.logins if lets_in(login))


def at_once(identity: UserIdentity, policy: Policy, given_hosts: Sequence[Host]) -> list[tuple[str, ...]]:
    reach = Reach(identity, policy, cluster="main", now=NOW)
    return [reach.logins(labels, namespace) for namespace, labels in given_hosts]


@pytest.fixture(scope="module")
def decided() -> list[list[tuple[str, ...]]]:
    """What is said of each host of each case."""
    return [[one_by_one(identity, policy, host) for host in given] for identity, policy, given in CASES]


def test_many_hosts_at_once_are_decided_as_each_by_itself(decided: list[list[tuple[str, ...]]]) -> None:
    for case, wanted in zip(CASES, decided, strict=True):
        assert at_once(*case) == wanted, case
    assert sum(len(set(wanted)) > 1 for wanted in decided) > len(CASES) / 20, "hosts of a case differ"


def test_rules_that_name_very_many_labels_decide_the_same(
    decided: list[list[tuple[str, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_rules, "MOST_NAMES", -1)  # nothing is remembered
    assert [at_once(*case) for case in CASES] == decided


def test_a_host_is_within_reach_when_a_login_is(decided: list[list[tuple[str, ...]]]) -> None:
    for (identity, policy, given), wanted in zip(CASES[:500], decided, strict=False):
        for (namespace, labels), logins in zip(given, wanted, strict=True):
            why = why_out_of_reach(
                identity, policy, cluster="main", now=NOW, node_id="node", node_labels=labels, namespace=namespace
            )
            assert bool(logins) is not bool(why)


def role(allow: Conditions, deny: Conditions | None = None, number: int = 0) -> Role:
    spec = RoleSpec(allow=allow, deny=deny or Conditions())
    return Role(metadata=Metadata(name=f"r{number}"), spec=spec)


def ann(*held: Role, **changes: object) -> tuple[UserIdentity, Policy]:
    by_name = {one.name: one for one in held}
    identity = UserIdentity("ann", "main", tuple(by_name), ("root", "ann"), NOW + timedelta(hours=1))
    return dataclasses.replace(identity, **changes), Policy(by_name)  # type: ignore[arg-type]


ENV = Conditions(logins=("root", "ann"), node_labels={"env": ("prod",)})
EVERYWHERE = Conditions(logins=("root", "ann"), node_labels={"*": ("*",)})
SERIALS = [("default", {"env": "prod", "serial": f"s{number}"}) for number in range(6)]


def blind_to(*blind: str) -> Callable[[host_rules.HostRules], frozenset[str]]:
    return lambda _: frozenset({"env", "serial", CAFE, "Env", "prod"} - set(blind))


@pytest.mark.parametrize(
    "planted",
    [
        (host_rules.HostRules, "names", property(blind_to("serial"))),
        (host_rules.HostRules, "names", property(blind_to("env"))),
        (host_rules._Part, "spared", lambda _, logins, __: logins),
        (host_rules._Part, "given", lambda part, *_: part.logins),
        (Selector, "matches", lambda selector, labels: bool(selector.wanted) and selector._unmatched(labels) is None),
        (host_rules.HostRules, "refused", lambda *_: None),
        (host_rules._Part, "within", lambda *_: True),
        (host_rules, "certificate_denial", lambda *_, **__: None),
        (host_rules, "is_unix_login", lambda _: True),
        (host_rules, "canonical_labels", lambda labels: labels),
    ],
    ids=lambda planted: f"{planted[0].__name__.rpartition('.')[2]}.{planted[1]}",
)
def test_the_comparison_finds_a_planted_difference(
    planted: tuple[object, str, object], monkeypatch: pytest.MonkeyPatch, decided: list[list[tuple[str, ...]]]
) -> None:
    """A part of the quick way that errs is told from the decision of single hosts, which is taken beforehand."""
    where, name, instead = planted
    monkeypatch.setattr(where, name, instead)
    assert [at_once(*case) for case in CASES] != decided


def test_hosts_that_differ_only_in_what_no_rule_names_are_decided_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Mapping[str, str]] = []
    matches = Selector.matches

    def counting(self: Selector, labels: CanonicalLabels) -> bool:
        asked.append(labels)
        return matches(self, labels)

    monkeypatch.setattr(Selector, "matches", counting)
    assert set(at_once(*ann(role(ENV)), SERIALS)) == {("root", "ann")}
    assert len(asked) == 1


def test_a_label_that_only_a_deny_names_still_decides() -> None:
    deny = Conditions(node_labels={"serial": ("s3",)})
    found = at_once(*ann(role(EVERYWHERE), role(Conditions(), deny, number=1)), SERIALS)
    assert [host[1]["serial"] for host, logins in zip(SERIALS, found, strict=True) if not logins] == ["s3"]


def test_what_a_role_given_since_denies_counts_and_what_it_allows_does_not() -> None:
    since = role(EVERYWHERE, Conditions(node_labels={"serial": ("s3",)}), number=1)
    identity, policy = ann(role(ENV), since, roles=("r0",), denying=("r1",))
    found = at_once(identity, policy, [*SERIALS, ("default", {"env": "test"})])
    assert [bool(logins) for logins in found] == [True, True, True, False, True, True, False]


def test_a_host_that_says_two_things_at_once_is_nobody_s() -> None:
    both = {CAFE: "a", CAFE_APART: "b", "env": "prod"}
    assert at_once(*ann(role(EVERYWHERE)), [("default", {"env": "prod"}), ("default", both)]) == [("root", "ann"), ()]


def test_namespaces_are_told_apart_even_when_labels_are_not() -> None:
    only = Conditions(logins=("root",), node_labels={"*": ("*",)}, namespaces=("other",))
    assert at_once(*ann(role(only)), [("default", {}), ("other", {}), ("default", {})]) == [(), ("root",), ()]


def test_a_lock_hides_no_host() -> None:
    """Who is locked is refused before lists are made; a host or a login that is locked is still in them, as ever."""
    identity, policy = ann(role(ENV))
    lock = Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(login="root")))
    refused = evaluate_ssh_access(
        SSHAccessRequest(identity, "root", "main", NOW, "node", node_labels={"env": "prod"}, locks=(lock,)), policy
    )
    assert not isinstance(refused, SSHAccessPermit)
    assert at_once(identity, policy, SERIALS[:1]) == [("root", "ann")]
