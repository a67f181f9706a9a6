"""Resources as people write them: one or several YAML or JSON documents, all problems at once, each with its line.

A resource that is read here is complete and checked. What it says but the product cannot do yet is in `.warnings` of
the resource, and with its line in the notices of `problems`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import cast

import msgspec
import yaml

from teleport.resources.codec import TYPES, Resource, resource_warnings, to_document, without_secrets
from teleport.resources.kinds import Kind
from teleport.resources.metadata import Finding
from teleport.resources.names import check_text
from teleport.resources.schema import reader_for
from teleport.resources.secret import SecretText
from teleport.resources.token import Token, token_hash
from teleport.resources.yaml_document import Node, Problem, Problems, load_documents


def parse_resources(text: str | bytes, source: str, problems: Problems | None = None) -> list[Resource]:
    """The resources of `text`; `source` names it in messages. Raises `InvalidDocument` with everything that is wrong.

    With `problems` the caller also gets the warnings, as its notices.
    """
    collected = Problems() if problems is None else problems
    resources: list[Resource] = []
    seen: set[tuple[str, ...]] = set()
    for node in _each(load_documents(text, source, problems=collected)):
        resource = _resource(node, collected)
        if resource is None:
            continue
        resources.append(resource)
        key = (resource.kind, str(getattr(resource, "sub_kind", "")), resource.name)
        if key in seen:
            node.problem(collected, "each resource once", found=f"a second {resource.kind} of this name")
        seen.add(key)
    if not resources and not collected:
        collected.add(Problem(source, 1, "", "nothing", "one or more resources"))
    collected.raise_if_any()
    return resources


def _each(documents: list[Node]) -> Iterator[Node]:
    """A document is one resource, or a list of them, as `tctl get --format=json` prints."""
    for document in documents:
        if not document.is_list:
            yield document
        for item in document.items():
            yield item.detached()


def _resource(node: Node, problems: Problems) -> Resource | None:
    if not node.is_map:
        node.problem(problems, "a resource: a map with kind, version, metadata and spec")
        return None
    kind_node = node.get("kind")
    if kind_node is None or not kind_node.is_scalar:
        (kind_node or node).problem(problems, f"kind: one of {', '.join(sorted(TYPES))}", found="no kind")
        return None
    known = {str(kind): type_ for kind, type_ in TYPES.items()}
    type_ = known.get(kind_node.value)
    if type_ is None:
        kind_node.problem(problems, _kinds_hint(kind_node.value))
        return None
    if node.get("version") is None:
        node.problem(problems, "version, such as v2 for users and v4 for roles", found="no version")
    if type_ is Token and _hides_control_characters(node, problems):
        return None
    earlier = set(problems)
    resource = cast("Resource | None", reader_for(type_)(node, problems))
    if resource is None:
        return None
    if isinstance(resource, Token):
        resource = _hashed(resource)
    unread = [problem.path for problem in problems if problem not in earlier]
    for finding in resource.findings():
        # What could not be read is missing from the value; what follows from that is not reported again.
        around = Finding(finding.where[:-1] if len(finding.where) > 2 else finding.where, "", "").path
        if not any(path.startswith(around) for path in unread):
            _record(node, finding, problems)
    for warning in resource_warnings(resource):
        node.notice(problems, f"{warning.path}: {warning.text}")
    return resource


def _kinds_hint(found: str) -> str:
    if found in {str(kind) for kind in Kind}:
        return f"{', '.join(sorted(TYPES))}; {found} is not available yet"
    near = difflib.get_close_matches(found.lower(), [str(kind) for kind in TYPES], n=1)
    return near[0] if near else ", ".join(sorted(TYPES))


def _hides_control_characters(node: Node, problems: Problems) -> bool:
    """Readers quote what they refuse; the name of a token is its secret and is not quoted."""
    metadata = node.get("metadata")
    name = None if metadata is None else metadata.get("name")
    if name is None or (name.is_scalar and not check_text(name.value)):
        return False
    name.problem(problems, "the secret of the token, one line of text", secret=True)
    return True


def _hashed(token: Token) -> Token:
    """The token as it is stored: named by its public id."""
    if token.spec.sha256:
        return token
    digest = token_hash(SecretText(token.metadata.name))
    return msgspec.structs.replace(
        token,
        metadata=msgspec.structs.replace(token.metadata, name=digest[:8]),
        spec=msgspec.structs.replace(token.spec, sha256=digest),
    )


def _record(node: Node, finding: Finding, problems: Problems) -> None:
    """Reports `finding` at the deepest place of its path that stands in the file."""
    at = node
    for part in finding.where:
        if isinstance(part, int):
            items = at.items()
            inner = items[part] if part < len(items) else None
        else:
            inner = at.get(part)
        if inner is None:
            break
        at = inner
    at.problem(problems, finding.allowed, found=finding.found)


def to_yaml(*resources: Resource, with_secrets: bool = False) -> str:
    """The resources as people write them, one document each; without secrets unless they are asked for."""
    documents = [
        to_document(resource if with_secrets else without_secrets(resource), with_secrets=with_secrets)
        for resource in resources
    ]
    return yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True, explicit_start=len(documents) > 1)
