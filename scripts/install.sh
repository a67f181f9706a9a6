#!/usr/bin/env bash
# make install PREFIX=/usr/local DESTDIR= EXTRAS="etcd postgresql dynamodb s3 hsm": puts this release into a directory of its own below
# $PREFIX/lib/teleport/versions, and turns one link, `current`, to it: a daemon that runs goes on with the release that it
# was started from, and its next process is of the new one. make uninstall takes the links and every release away.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-install}
prefix=${PREFIX:-/usr/local}
destdir=${DESTDIR:-}
extras=${EXTRAS:-}
programs=(teleport tctl tsh)

fail() { echo "$what: $*" >&2; exit 1; }
case $prefix in /?*) ;; *) fail "PREFIX is an absolute path, not '$prefix'" ;; esac
case $destdir in "" | /?*) ;; *) fail "DESTDIR is an absolute path, not '$destdir'" ;; esac
prefix=${prefix%/} destdir=${destdir%/}
base=$prefix/lib/teleport
top=$destdir$base

if [ "$what" = uninstall ]; then
  # a process that runs from there would miss what it has not imported yet
  for exe in /proc/[0-9]*/exe; do
    pid=${exe#/proc/} pid=${pid%/exe}
    first=$(tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | head -n 1) || continue
    case $first in "$top"/versions/*) fail "process $pid still runs from $first; stop it first (systemctl stop teleport)" ;; esac
  done
  for program in "${programs[@]}"; do
    link=$destdir$prefix/bin/$program
    if [ "$(readlink "$link" 2>/dev/null)" = "../lib/teleport/current/bin/$program" ]; then rm "$link"; fi
  done
  rm -rf "$top/versions" "$top/current"
  rmdir "$top" 2>/dev/null || true
  exit 0
fi

umask 022
# The same content is the same release, whenever it is installed.
digest=$({ find src -type f ! -path '*/__pycache__/*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum; cat requirements/*.txt; echo "$extras"; } | sha256sum)
version=$(.venv/bin/python -c 'from teleport import __version__; print(__version__)')
release=$version-${digest:0:10}
place=$top/versions/$release

if [ ! -e "$place/.complete" ]; then
  echo "$what: release $release into $place"
  rm -rf "$place"
  mkdir -p "$place"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  # shellcheck disable=SC2086 # a list of words
  .venv/bin/python scripts/dist/locked.py $extras > "$work/extras.txt" || fail "EXTRAS is a list of words, see above"
  "${PYTHON:-python3}" -m venv --without-pip "$place"
  pip=(.venv/bin/python -m pip --quiet --disable-pip-version-check)
  "${pip[@]}" wheel --no-deps --no-build-isolation --wheel-dir "$work" .
  into=("${pip[@]}" --python "$place/bin/python" install --no-compile --no-warn-script-location)
  "${into[@]}" --require-hashes -r requirements/runtime.txt
  if [ -s "$work/extras.txt" ]; then "${into[@]}" --no-deps --require-hashes -r "$work/extras.txt"; fi
  "${into[@]}" --no-deps "$work"/*.whl
  if [ -n "$destdir" ]; then # programs and settings name the directory in which they will be
    grep -rlI --null "$place" "$place/bin" "$place/pyvenv.cfg" | xargs -0 -r sed -i "s|$destdir$base|$base|g"
  fi
  "$place/bin/python" -m compileall -q ${destdir:+-s "$destdir"} "$place/lib"
  touch "$place/.complete"
fi

mkdir -p "$destdir$prefix/bin"
for program in "${programs[@]}"; do
  link=$destdir$prefix/bin/$program
  if [ -e "$link" ] && [ ! -L "$link" ]; then fail "$link is there and no link of ours: remove it first"; fi
  ln -sfn "../lib/teleport/current/bin/$program" "$link"
done
ln -sfn "versions/$release" "$top/current.new"
mv -T "$top/current.new" "$top/current"
echo "$what: $prefix/bin/{teleport,tctl,tsh} are of release $release; running daemons take it up with systemctl reload teleport"
