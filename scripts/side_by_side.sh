#!/usr/bin/env bash
# side_by_side.sh COMMAND...: runs all at the same time and fails if one fails. What each prints is seen as it comes, in
# whole lines behind its number ("2| "): where a list of tests stands, or hangs, is seen while it does.
set -muo pipefail # -m: what runs in the background heeds Ctrl-C, so that tests end what they started

said=$(mktemp -d)
running=()
shown=()
trap 'kill -INT "${running[@]}" 2>/dev/null; wait; rm -rf "$said"; exit 130' INT TERM
trap 'rm -rf "$said"' EXIT

for command in "$@"; do
	number=$((${#running[@]} + 1))
	: >"$said/$number"
	bash -c "$command" >"$said/$number" 2>&1 &
	running+=($!)
	# no pipe from the command itself: a process that it left behind would hold that one open, and us with it
	tail -n +1 -s 0.5 -f --pid=$! "$said/$number" | sed -u "s/^/$number| /" &
	shown+=($!)
done

failed=0
for one in "${running[@]}"; do wait "$one" || failed=1; done
wait "${shown[@]}"
[ "$failed" = 0 ]
