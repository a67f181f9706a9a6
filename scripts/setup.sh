#!/usr/bin/env bash
# Makes .venv and installs what `make run` (runtime) or `make test` (dev) needs, once for each set of requirements.
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:-runtime}
python=${PYTHON:-python3}

missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
  echo "setup: Python 3.11 or newer is needed, $python is $("$python" --version 2>&1 || true); set PYTHON=/path/to/python3.11" >&2
  exit 1
}
"$python" -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
if [ "$kind" = dev ]; then
  PATH=$PATH:/usr/sbin
  need ssh openssh-client
  need sshd openssh-server
  need script bsdutils
  need jq jq
  need rsync rsync
  need zsh zsh
  need fish fish
  need mandoc mandoc
  need softhsm2-util softhsm2
  need p11-kit p11-kit
  compgen -G "/usr/lib/*/pkcs11/p11-kit-client.so" >/dev/null || missing+=(p11-kit-modules)
  need etcd etcd-server
  need etcdctl etcd-client
  need kubectl kubernetes-client
  compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || need postgres postgresql
  need chromedriver chromium-driver
  need chromium chromium
fi
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "setup: installing ${missing[*]}"
    scripts/apt.sh setup "${missing[@]}"
  elif printf '%s\n' "${missing[@]}" | grep -qx python3-venv; then
    echo "setup: missing: ${missing[*]}; run: sudo apt-get install ${missing[*]}" >&2
    exit 1
  else
    echo "setup: missing: ${missing[*]}; the tests that need them are skipped; run: sudo apt-get install ${missing[*]}" >&2
  fi
fi

# where sshd is installed and was never started, what its service makes is missing
if [ "$kind" = dev ] && [ "$(id -u)" = 0 ] && command -v sshd >/dev/null; then mkdir -p -m 0755 /run/sshd; fi

stamp=.venv/.installed-$kind
wanted=$(cat requirements/build.txt "requirements/$kind.txt" pyproject.toml | sha256sum)
if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then exec scripts/webui.sh build; fi
echo "setup: installing the pinned requirements into .venv; this takes a minute or two, once"
[ -x .venv/bin/python ] || "$python" -m venv .venv
pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" --require-hashes -r requirements/build.txt
"${pip[@]}" --require-hashes -r "requirements/$kind.txt"
"${pip[@]}" --no-deps --no-build-isolation --editable .
.venv/bin/python -m compileall -q src || true
printf '%s\n' "$wanted" > "$stamp"
exec scripts/webui.sh build
