#!/usr/bin/env bash
# side_by_side.sh COMMAND...: runs all at the same time and fails if one fails. What the first prints is seen as it comes,
# what the others print when all are done, one after the other: several lists of tests in one would be read by nobody.
set -uo pipefail

said=$(mktemp -d)
others=()
trap 'kill "${others[@]}" 2>/dev/null; wait; rm -rf "$said"; exit 130' INT TERM
trap 'rm -rf "$said"' EXIT

first=$1
shift
for command in "$@"; do
	bash -c "$command" >"$said/${#others[@]}" 2>&1 &
	others+=($!)
done

bash -c "$first"
failed=$?
for number in "${!others[@]}"; do
	wait "${others[number]}" || failed=1
	cat "$said/$number"
done
[ "$failed" = 0 ]
