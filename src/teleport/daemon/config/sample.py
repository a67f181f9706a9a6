"""The file that `teleport configure` writes: every service of this version, with the lines people change first."""

from __future__ import annotations

import json

from teleport.daemon.config import ports
from teleport.errors import BadRequest
from teleport.pki.acme import is_public_name

_TEMPLATE = """\
# Configuration of the teleport daemon. Check it after a change: teleport configure --test=FILE
teleport:
  # The name of this host in the cluster; the host name when left out.
  # nodename: graviton
  data_dir: /var/lib/teleport

  # A host that joins a cluster needs these three, and no auth_service below:
  # auth_token: /var/lib/teleport/token
  # ca_pin: "sha256:..."
  # auth_servers: [auth.example.com:{auth}]

  # Health over plain HTTP:
  # diag_addr: 127.0.0.1:{diag}

  log:
    output: stderr
    severity: INFO
  storage:
    type: dir

auth_service:
  enabled: yes
  listen_addr: 0.0.0.0:{auth}
{cluster_name}
ssh_service:
  enabled: yes
  listen_addr: 0.0.0.0:{ssh}
  labels:
    env: example
  commands:
    - name: hostname
      command: [hostname]
      period: 1m

proxy_service:
  enabled: yes
  listen_addr: 0.0.0.0:{proxy_ssh}
  web_listen_addr: 0.0.0.0:{web}
{public_addr}
  # The certificate that browsers and tsh see; a self-signed one when left out.
  # https_keypairs:
  #   - key_file: /etc/teleport/privkey.pem
  #     cert_file: /etc/teleport/fullchain.pem
{acme}"""


def sample_config(cluster_name: str = "", acme: bool = False, acme_email: str = "") -> str:
    """A complete file as text. With `acme` the proxy is set up for the public name `cluster_name`.

    Raises `BadRequest` when `acme` is asked for without a cluster name, or with one that no directory knows.
    """
    if acme and not cluster_name:
        raise BadRequest("--acme needs --cluster-name, the public name of the proxy", hint="add --cluster-name=NAME")
    if acme and not is_public_name(cluster_name.lower()):
        raise BadRequest(
            f"no ACME directory gives a certificate for {cluster_name!r}", hint="--cluster-name=teleport.example.com"
        )
    name = json.dumps(cluster_name)  # a YAML text whatever the name holds
    certificate = ""
    public_addr = (
        "  # The name and port that users reach this proxy under:\n  # public_addr: teleport.example.com:443\n"
    )
    if acme:
        web = json.dumps(f"{cluster_name}:{ports.HTTPS}")
        public_addr = f"  public_addr: {web}\n"
        certificate = "  acme:\n    enabled: yes\n" + (f"    email: {json.dumps(acme_email)}\n" if acme_email else "")
    return _TEMPLATE.format(
        auth=ports.AUTH,
        diag=ports.DIAG,
        ssh=ports.SSH,
        proxy_ssh=ports.PROXY_SSH,
        web=ports.HTTPS if acme else ports.WEB,
        cluster_name=f"  cluster_name: {name}\n"
        if cluster_name
        else "  # The name of the cluster, which can never be changed; the nodename when left out.\n"
        "  # cluster_name: example.com\n",
        public_addr=public_addr,
        acme=certificate,
    )
