#!/usr/bin/env bash
# apt.sh WHO PACKAGE...: installs packages of Debian and Ubuntu as root. Where another apt or dpkg runs (of a person, of a
# timer, of tests beside these) it waits for that one, for ten minutes at most, and WHO says so on stderr.
# apt's own DPkg::Lock::Timeout is for dpkg's lock, not for that of the lists of packages: an update would still fail at once.
set -euo pipefail
who=$1
shift
patience=${TELEPORT_APT_PATIENCE:-600}   # seconds
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

fail() { echo "$who: $*" >&2; exit 1; }
waited=
apt() {
  local said
  while ! said=$(apt-get -qq "$@" 2>&1); do
    case $said in
      *"Could not get lock"* | *"Unable to lock"*) ;;
      *) fail "apt-get $1 failed: $(tail -n 4 <<<"$said")" ;;
    esac
    [ -n "$waited" ] || echo "$who: another apt or dpkg runs: waiting until it has ended" >&2
    waited=yes
    [ "$SECONDS" -lt "$patience" ] ||
      fail "another apt or dpkg has run for $patience s; see who (fuser -v /var/lib/dpkg/lock-frontend), and run this again"
    sleep 1
  done
}

apt update
apt install -y --no-install-recommends "$@"
