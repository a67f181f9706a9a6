"""The script that sets a plain sshd up for the cluster: what `tctl nodes add --type=openssh` prints.

Nothing in it is secret. It believes what it carries only when the CA pin that its user types fits the authority in it,
and that authority signed the rest; so it may travel by any way. Whatever is put into it is checked here, line by line:
no text of anybody's reaches the shell unquoted (threat T16).
"""

from __future__ import annotations

import re
from typing import Final

from teleport.api.messages.agentless import OpensshHost
from teleport.errors import TeleportError

_LINE: Final = re.compile(r"[A-Za-z0-9+/=@.:_ -]*")


def script(host: OpensshHost) -> str:
    """The script for one host. Raises `TeleportError` when something in it cannot stand in a script."""
    parts = {
        "@BUNDLE@": host.bundle.strip(),
        "@SIGNATURE@": "\n".join(host.signature[at : at + 64] for at in range(0, len(host.signature), 64)),
        "@AUTHORITY@": host.authority.strip(),
    }
    text = _TEMPLATE
    for name, value in parts.items():
        for line in value.split("\n"):
            if not _LINE.fullmatch(line) or line == "END_OF_TEXT":
                raise TeleportError(
                    f"what the host is to be told cannot stand in a script: {line[:80]!r}",
                    hint="tctl and the auth server are perhaps of different versions",
                )
        text = text.replace(name, value)
    return text


_TEMPLATE: Final = r"""#!/bin/sh
# Sets the sshd of this host up for a cluster: its proxies may enter for people whom the cluster lets in, and prove to
# them that this is the host. As root:
#
#     sh FILE sha256:...          (the CA pin that `tctl status` prints)
#
# It may be run again, and is: before the host's certificate ends, and when the authority is rotated.
#     SSHD_CONFIG=PATH   another sshd_config than /etc/ssh/sshd_config
#     SSHD=PATH          another sshd
#     SSHD_RELOAD=CMD    how that sshd is told to read its configuration again
set -eu
umask 022
LC_ALL=C
export LC_ALL

fail() {
    printf 'teleport: %s\n' "$1" >&2
    exit 1
}

[ "$#" -eq 1 ] || fail "give the CA pin that 'tctl status' prints: sh FILE sha256:..."
pin=$1
config=${SSHD_CONFIG:-/etc/ssh/sshd_config}
sshd=${SSHD:-$(command -v sshd || echo /usr/sbin/sshd)}
[ -f "$config" ] || fail "there is no $config; name it: SSHD_CONFIG=PATH"
[ -x "$sshd" ] || fail "there is no sshd at $sshd; name it: SSHD=PATH"
for tool in openssl ssh-keygen awk mktemp; do
    command -v "$tool" >/dev/null 2>&1 || fail "$tool is needed and not installed"
done
echo=
for path in /bin/echo /usr/bin/echo; do
    [ -z "$echo" ] && [ -x "$path" ] && echo=$path
done
[ -n "$echo" ] || fail "there is no /bin/echo"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

cat >"$work/authority.pem" <<'END_OF_TEXT'
@AUTHORITY@
END_OF_TEXT
cat >"$work/bundle" <<'END_OF_TEXT'
@BUNDLE@
END_OF_TEXT
cat >"$work/signature.b64" <<'END_OF_TEXT'
@SIGNATURE@
END_OF_TEXT

# Nothing of it is believed before the pin fits the authority, and the authority signed the rest.
openssl x509 -in "$work/authority.pem" -pubkey -noout >"$work/key.pem" || fail "the authority in this script is damaged"
found=sha256:$(openssl pkey -pubin -in "$work/key.pem" -outform DER | openssl dgst -sha256 | awk '{print $NF}')
[ "$found" = "$pin" ] ||
    fail "the authority in this script does not have the CA pin $pin (it has $found); nothing was changed"
openssl base64 -d -in "$work/signature.b64" -out "$work/signature"
openssl dgst -sha256 -verify "$work/key.pem" -signature "$work/signature" "$work/bundle" >/dev/null 2>&1 ||
    fail "this script was altered: its authority did not sign what it says; nothing was changed"

first=$(head -n 1 "$work/bundle")
[ "$first" = teleport-openssh-v1 ] || fail "this script is of another version: $first"
host=$(awk '$1 == "host" {print $2}' "$work/bundle")
cluster=$(awk '$1 == "cluster" {print $2}' "$work/bundle")
awk '$1 == "user-ca" {print $2, $3}' "$work/bundle" >"$work/user_ca.pub"
awk '$1 == "host-cert" {print $2, $3}' "$work/bundle" >"$work/host-cert.pub"

# The configuration without what an earlier run put into it.
awk '/^# teleport: begin/ {skip = 1} !skip {print} /^# teleport: end/ {skip = 0}' "$config" >"$work/plain"
settings() {
    "$sshd" -T -f "$work/plain" >"$work/settings" 2>"$work/error"
}
# Where no sshd was started since the machine was, what its service would make is missing: it is made as that does.
settings || {
    separated=$(sed -n 's/^Missing privilege separation directory: //p' "$work/error")
    [ -n "$separated" ] && mkdir -p -m 0755 "$separated" && settings
} ||
    fail "sshd does not take $config as it is: $(head -n 1 "$work/error")"
setting() {
    awk -v name="$1" '$1 == name {$1 = ""; sub(/^ /, ""); print; exit}' "$work/settings"
}
for name in trustedusercakeys authorizedprincipalscommand; do
    value=$(setting "$name")
    case $value in
    '' | none) ;;
    *) fail "sshd has a $name already ($value), which this would take the place of: remove it from $config first" ;;
    esac
done

# The certificate must be for a host key of this very sshd.
wanted=$(ssh-keygen -L -f "$work/host-cert.pub" | awk '$1 == "Public" {print $4}')
key=
for path in $(awk '$1 == "hostkey" {print $2}' "$work/settings"); do
    shown=$(ssh-keygen -l -f "$path" | awk '{print $2}')
    [ "$shown" = "$wanted" ] && key=$path
done
[ -n "$key" ] ||
    fail "the certificate is for the host key $wanted, which this sshd does not have; give tctl its public key"

folder=$(cd "$(dirname "$config")" && pwd)/teleport
mkdir -p "$folder"
put() {
    cp "$1" "$2.new"
    chmod 644 "$2.new"
    mv -f "$2.new" "$2"
}
for name in user_ca.pub host-cert.pub; do
    [ -f "$folder/$name" ] && cp -p "$folder/$name" "$work/former-$name"
    put "$work/$name" "$folder/$name"
done
give_back() {
    for name in user_ca.pub host-cert.pub; do
        if [ -f "$work/former-$name" ]; then
            cp -p "$work/former-$name" "$folder/$name"
        else
            rm -f "$folder/$name"
        fi
    done
    rm -f "$config.new"
    fail "$1; nothing was changed"
}

# At the beginning: the first value of a setting counts, and a Match block lasts until the end.
{
    echo "# teleport: begin (of the cluster $cluster; the next run of its script writes this anew)"
    echo "TrustedUserCAKeys \"$folder/user_ca.pub\""
    echo "AuthorizedPrincipalsFile none"
    echo "AuthorizedPrincipalsCommand $echo %u@$host"
    echo "AuthorizedPrincipalsCommandUser nobody"
    echo "HostCertificate \"$folder/host-cert.pub\""
    echo "# teleport: end"
    cat "$work/plain"
} >"$work/new"
cp -p "$config" "$config.new"
cat "$work/new" >"$config.new"
"$sshd" -t -f "$config.new" 2>"$work/error" ||
    give_back "sshd would not take its new configuration: $(head -n 1 "$work/error")"
"$sshd" -T -f "$config.new" >"$work/settings" 2>/dev/null || give_back "sshd would not take its new configuration"
[ "$(setting trustedusercakeys)" = "$folder/user_ca.pub" ] ||
    give_back "something in $config sets TrustedUserCAKeys before it can be set"
[ -f "$config.before-teleport" ] || cp -p "$config" "$config.before-teleport"
mv -f "$config.new" "$config"

reload() {
    if [ -n "${SSHD_RELOAD:-}" ]; then
        sh -c "$SSHD_RELOAD"
    elif [ -n "${SSHD_CONFIG:-}" ]; then
        return 1
    elif [ -d /run/systemd/system ]; then
        systemctl reload ssh 2>/dev/null || systemctl reload sshd
    elif [ -s /run/sshd.pid ]; then
        kill -HUP "$(cat /run/sshd.pid)"
    elif [ -s /var/run/sshd.pid ]; then
        kill -HUP "$(cat /var/run/sshd.pid)"
    else
        return 1
    fi
}
if reload; then
    printf 'teleport: sshd serves the cluster %s as the host %s\n' "$cluster" "$host"
else
    printf 'teleport: %s is set up for the cluster %s, host %s; let sshd read it again\n' "$config" "$cluster" "$host"
fi
ssh-keygen -L -f "$folder/host-cert.pub" |
    awk '$1 == "Valid:" {print "teleport: run this again with a new script before " $5}'
"""
