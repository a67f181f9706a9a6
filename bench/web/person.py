"""Somebody with a password and an authenticator, who signs in with the browser."""

from __future__ import annotations

import base64
import json
import time
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, expect

from bench import cluster
from bench.cluster import Files
from bench.programs import BenchmarkFailed
from bench.web.browser import PATIENCE, window
from teleport.auth.factors.passwords import TOTP_PERIOD, totp_code

PASSWORD = "correct horse battery staple"


def origin(files: Files) -> str:
    return f"https://localhost:{files.web}"


def terminal(files: Files, login: str) -> str:
    """The path of a terminal on the cluster's own node."""
    (node,) = json.loads(cluster.tctl(files, "nodes", "ls", "--format=json"))
    return f"/web/cluster/{cluster.NAME}/node/{node['metadata']['name']}/{login}"


def signed_in(browser: Browser, files: Files, login: str) -> Any:
    """Adds the user to the cluster, has it follow its invitation and sign in; the cookies and what the page keeps."""
    added = json.loads(
        cluster.tctl(files, "users", "add", cluster.USER, "--roles=access", f"--logins={login}", "--format=json")
    )
    token = urlsplit(added["url"]).path.rpartition("/")[2]
    with window(browser, origin(files)) as page:
        secret = page.request.get(f"/webapi/users/password/token/{token}").json()["totp_secret"]
        period = int(time.time()) // TOTP_PERIOD
        accepted = page.request.put(
            "/webapi/users/password/token",
            data={
                "token": token,
                "password": base64.b64encode(PASSWORD.encode()).decode(),
                "second_factor_token": totp_code(secret, period),
            },
        )
        if not accepted.ok:
            raise BenchmarkFailed(f"the invitation was not accepted: {accepted.status} {accepted.text()[:300]}")
        page.goto("/web")
        page.get_by_label("User name").fill(cluster.USER)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_label("Code of your authenticator app").fill(totp_code(secret, period + 1))
        page.get_by_role("button", name="Sign in", exact=True).click()
        expect(page.get_by_role("heading", name="Nodes")).to_be_visible(timeout=PATIENCE)
        return page.context.storage_state()
