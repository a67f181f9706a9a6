"""A real daemon whose authorities' keys are in a PKCS#11 token, from its configuration file on."""

from __future__ import annotations

from pathlib import Path

from tests.auth.test_auth_token_keys import MODULE, PIN, pytestmark, tokens

from teleport.testing.cluster import DaemonProcess, Host, at, free_port, plain_environment

__all__ = ["pytestmark", "tokens"]  # the fixture, and why the tests are skipped without SoftHSM


def test_a_daemon_signs_with_a_token_and_gives_no_private_key_away(tokens: Path, tmp_path: Path) -> None:
    """First start, restart, export; without its token it does not start, and says why."""
    address, pin = at(free_port()), tmp_path / "pin"
    pin.write_text(f"{PIN}\n")
    pin.chmod(0o600)
    token = {"module_path": str(MODULE), "token_label": "one", "pin_path": str(pin)}
    config = {
        "teleport": {"nodename": "keeper", "auth_servers": [address]},
        "auth_service": {
            "enabled": True,
            "cluster_name": "example.test",
            "listen_addr": address,
            "ca_key_params": {"pkcs11": token},
        },
        "proxy_service": {"enabled": False},
        "ssh_service": {"enabled": False},
    }
    host = Host(tmp_path / "auth", config)
    environment = {**plain_environment(host.folder), "SOFTHSM2_CONF": str(tokens)}
    arguments = ["--config", str(host.config_path)]
    host.daemon = DaemonProcess(host.folder, arguments, diag_port=host.diag_port, environment=environment)
    with host:
        stored = host.tctl("get", "cert_authority", "--with-secrets").ok().stdout
        assert "PRIVATE KEY" not in stored
        assert stored.count("pkcs11:token=one;object=teleport%20example.test%20") == 6
        refused = host.tctl("auth", "export", "--type=user", "--keys")
        assert refused.status == 2
        assert "it is in a PKCS#11 token" in refused.stderr
        host.daemon.stop()
        host.daemon.start()
        assert host.tctl("auth", "export", "--type=user").ok().stdout.startswith("cert-authority ecdsa-sha2-nistp256 ")
        assert PIN not in host.daemon.log()

    pin.write_text("99887766\n")
    host.daemon.begin()
    assert host.daemon.ended() == 78, "so that its unit does not show the PIN again"
    assert "the PIN of the PKCS#11 token is wrong" in host.daemon.log()
    assert "99887766" not in host.daemon.log()
    assert "Traceback" not in host.daemon.log()
