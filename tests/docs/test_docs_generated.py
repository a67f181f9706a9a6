"""The generated parts of docs/ are what the code says (`make docs`), and the role page knows every field."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from teleport.api.routes import ROUTES
from teleport.daemon.config.describe import describe_keys
from teleport.resources import presets
from teleport.resources.joining import JoinMode, JoinPolicy, RequiredJoin
from teleport.resources.kinds import Kind, Verb
from teleport.resources.metadata import Metadata
from teleport.resources.role import (
    AccessRequestConditions,
    AccessReviewConditions,
    ClaimToRoles,
    Conditions,
    ImpersonateConditions,
    Options,
    Role,
    RoleSpec,
    Rule,
    Threshold,
)

ROOT = Path(__file__).resolve().parents[2]
GENERATOR = ROOT / "scripts" / "docs.py"
ROLES = (ROOT / "docs" / "roles.md").read_text()


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def test_the_generated_pages_are_what_the_code_says() -> None:
    """When this fails, run `make docs` and look at the difference."""
    done = subprocess.run([sys.executable, str(GENERATOR), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr + "\nregenerate with: make docs"


def test_a_page_that_drifted_is_noticed() -> None:
    filled = runpy.run_path(str(GENERATOR))["filled"]
    old = "head\n<!-- generated: x -->\n\nold\n\n<!-- end of x -->\ntail\n"
    assert "new" in filled(old, {"x": lambda: "new"})
    assert filled(old, {"x": lambda: "new"}).startswith("head\n")
    with pytest.raises(ValueError, match="no part"):
        filled("a page without the place", {"x": lambda: "new"})


def test_every_configuration_key_and_every_route_stands_on_its_page() -> None:
    configuration, api = page("configuration.md"), page("api.md")
    assert [key.path for key in describe_keys() if f"| `{key.path}` |" not in configuration] == []
    missing = [route.name for route in ROUTES.values() if f"{route.method} `{route.path}`" not in api]
    assert missing == []


def section(heading: str) -> str:
    """The text below one heading of the role page, up to the next of the same level."""
    _, found, rest = ROLES.partition(f"\n## {heading}\n")
    assert found, heading
    return rest.partition("\n## ")[0]


def first_column(text: str) -> set[str]:
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


def test_the_role_page_has_every_option_and_no_other() -> None:
    assert first_column(section("`spec.options`")) == set(Options.__struct_fields__)


def test_the_role_page_has_every_condition_and_no_other() -> None:
    table = section("`spec.allow` and `spec.deny`").partition("\n### ")[0]
    assert first_column(table) == set(Conditions.__struct_fields__)


def test_the_role_page_has_the_fields_of_rules_requests_reviews_and_impersonation() -> None:
    assert first_column(section("Rules")) == set(Rule.__struct_fields__)
    text = section("Request, review, impersonate")
    rows = {line.split("|")[1].strip(" `"): line for line in text.splitlines() if line.startswith("| `")}
    nested = (*ClaimToRoles.__struct_fields__, *Threshold.__struct_fields__)
    assert [name for name in AccessRequestConditions.__struct_fields__ if f"`{name}`" not in rows["request"]] == []
    assert [name for name in nested if f"`{name}`" not in rows["request"]] == []
    reviews = AccessReviewConditions.__struct_fields__
    assert [name for name in reviews if f"`{name}`" not in rows["review_requests"]] == []
    assert [name for name in ImpersonateConditions.__struct_fields__ if f"`{name}`" not in rows["impersonate"]] == []


def test_the_role_page_names_exactly_the_verbs_and_kinds_of_rules() -> None:
    verbs = next(line for line in section("Rules").splitlines() if line.startswith("| `verbs`"))
    assert set(re.findall(r"`([a-z]+)`", verbs)) == {"verbs", *Verb}
    kinds = ROLES.partition("<!-- kinds -->")[2].partition("<!-- end of kinds -->")[0]
    assert set(re.findall(r"`([a-z_]+)`", kinds)) == set(Kind)


def test_what_the_role_page_calls_without_effect_is_what_the_code_warns_of() -> None:
    """Each condition that the page says to be kept without effect gives a warning, and no other condition does."""
    selector = {"a": ("b",)}
    samples: dict[str, object] = {
        "namespaces": ("default",),
        "rules": (Rule(resources=("node",), verbs=("list",)),),
        "request": AccessRequestConditions(roles=("a",)),
        "review_requests": AccessReviewConditions(roles=("a",)),
        "impersonate": ImpersonateConditions(users=("a",), roles=("a",)),
        "join_sessions": (JoinPolicy(roles=("a",), kinds=("ssh",), modes=(JoinMode.PEER,)),),
        "require_session_join": (RequiredJoin(kinds=("ssh",)),),
    }
    table = section("`spec.allow` and `spec.deny`").partition("\n### ")[0]
    for name in Conditions.__struct_fields__:
        value = samples.get(name, selector if name.endswith("_labels") else ("a",))
        role = Role(metadata=Metadata(name="r"), spec=RoleSpec(allow=Conditions(**{name: value})))  # type: ignore[arg-type]
        row = next(line for line in table.splitlines() if line.startswith(f"| `{name}`"))
        assert bool(role.warnings) == ("kept without effect, with a warning" in row), name


def test_the_role_page_names_the_kinds_of_the_presets() -> None:
    text = section("Presets")
    editors, _, implicit = text.partition("Everybody also has")
    kinds = {kind for rule in presets.editor().allow.rules for kind in rule.resources}
    assert set(re.findall(r"`([a-z_]+)`", editors.partition("has these kinds:")[2])) == kinds
    everybody = {kind for rule in presets.implicit_role().allow.rules for kind in rule.resources}
    assert [kind for kind in everybody if f"`{kind}`" not in implicit] == []
