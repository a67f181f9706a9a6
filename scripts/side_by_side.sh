#!/usr/bin/env bash
# side_by_side.sh COMMAND COMMAND: runs both at the same time and fails if one fails. What the first prints is seen as it
# comes, what the second prints when both are done: two lists of tests in one would be read by nobody.
set -uo pipefail

second=$(mktemp)
trap 'rm -f "$second"' EXIT
bash -c "$2" >"$second" 2>&1 &
other=$!
trap 'kill "$other" 2>/dev/null; wait "$other"; rm -f "$second"; exit 130' INT TERM

bash -c "$1"
first_code=$?
wait "$other"
second_code=$?
cat "$second"
[ "$first_code" = 0 ] && [ "$second_code" = 0 ]
