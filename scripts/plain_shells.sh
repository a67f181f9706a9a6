#!/usr/bin/env bash
# plain_shells.sh COMMAND...: runs it where this user's shells have no start-up files.
# Sessions of the tests are real login shells. What people put into ~/.bashrc makes each of thousands of them slow, and
# some of it breaks when a test kills a shell: `pyenv init` leaves a lock behind, for which every later shell waits a
# minute. So the command gets a mount namespace of its own, with an empty file in the place of each of them; nothing is
# changed outside. Where that is not allowed, it runs with the shells as they are.
set -euo pipefail

if [ "${1-}" != --within ]; then
	if unshare --mount true 2>/dev/null; then
		exec unshare --mount "$0" --within "$@"
	fi
	exec "$@"
fi
shift
home=$(getent passwd "$(id -u)" | cut -d: -f6) # where login shells look, whatever HOME says
for file in .bashrc .bash_profile .bash_login .bash_logout .profile .zshenv .zshrc .zprofile; do
	[ ! -f "$home/$file" ] || mount --bind /dev/null "$home/$file" || true
done
exec "$@"
