#!/usr/bin/env bash
# side_by_side.sh COMMAND...: runs all at the same time and fails if one fails. What each prints is seen line by line as it
# comes, from the second on behind its number ("2| "): where a list of tests stands, or hangs, is seen while it does.
set -uo pipefail

said=$(mktemp -d)
others=()
shown=()
trap 'kill "${others[@]}" 2>/dev/null; wait; rm -rf "$said"; exit 130' INT TERM
trap 'rm -rf "$said"' EXIT

first=$1
shift
for command in "$@"; do
	number=$((${#others[@]} + 2))
	: >"$said/$number"
	bash -c "$command" >"$said/$number" 2>&1 &
	others+=($!)
	# no pipe from the command itself: a process that it left behind would hold that one open, and us with it
	tail -n +1 -s 0.5 -f --pid=$! "$said/$number" | sed -u "s/^/$number| /" &
	shown+=($!)
done

bash -c "$first"
failed=$?
for other in "${others[@]}"; do wait "$other" || failed=1; done
wait "${shown[@]}"
[ "$failed" = 0 ]
