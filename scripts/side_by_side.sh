#!/usr/bin/env bash
# side_by_side.sh MOST COMMAND...: runs MOST at a time, the next when one has ended, and fails if one fails. What each
# prints is seen as it comes, in whole lines behind its number ("2| "): where a list of tests stands, or hangs, is seen
# while it does.
# -m: each that runs in the background is a group of its own, and heeds Ctrl-C, so that tests end what they started
set -muo pipefail

most=$1
shift
said=$(mktemp -d)
running=()
shown=()
trap 'for one in "${running[@]}"; do kill -INT -- "-$one" 2>/dev/null; done; wait; rm -rf "$said"; exit 130' INT TERM
trap 'rm -rf "$said"' EXIT

ended() { find "$said" -name '*.ended' | wc -l; }

for command in "$@"; do
	until ((${#running[@]} - $(ended) < most)); do sleep 0.5; done
	number=$((${#running[@]} + 1))
	: >"$said/$number"
	(
		bash -c "$command"
		echo $? >"$said/$number.ended"
	) >"$said/$number" 2>&1 &
	running+=($!)
	# no pipe from the command itself: a process that it left behind would hold that one open, and us with it
	tail -n +1 -s 0.5 -f --pid=$! "$said/$number" | sed -u "s/^/$number| /" &
	shown+=($!)
done

wait "${running[@]}" "${shown[@]}"
failed=()
for number in "${!running[@]}"; do
	[ "$(cat "$said/$((number + 1)).ended" 2>/dev/null)" = 0 ] || failed+=("$((number + 1))")
done
((${#failed[@]})) || exit 0

# Once more at the very end, in few lines: whoever sees the end alone of a long output sees what failed.
for number in "${failed[@]}"; do
	echo "== $number ended with $(cat "$said/$number.ended" 2>/dev/null || echo nothing)"
	if ! grep -E '^(FAILED|ERROR) ' "$said/$number" | cut -c -400 | head -n 8; then
		tail -n 12 "$said/$number" | cut -c -200
	fi
	grep -E '^E  ' "$said/$number" | cut -c -200 | head -n 6
done
exit 1
