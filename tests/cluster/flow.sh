#!/usr/bin/env bash
# A whole flow by exit codes and jq alone: no word of a sentence is looked at. In: TSH, TCTL (words of a command), NODE.
set -euo pipefail
err=$(mktemp)
trap 'rm -f "$err"' EXIT

step() { echo "- $*"; }
die() { echo "FAILED: $*" >&2; cat "$err" >&2; exit 1; }

# refused CODE STATUS COMMAND...: it fails so, prints nothing but JSON, and says so in one JSON object on stderr
refused() {
  local code=$1 status=$2 got=0 out
  shift 2
  out=$("$@" 2>"$err") || got=$?
  [ "$got" = "$status" ] || die "$*: exit status $got, not $status"
  jq -es 'length <= 1' >/dev/null <<<"$out" || die "$*: stdout is not JSON: $out"
  jq -es --arg code "$code" \
    'length == 1 and (.[0] | keys == ["code", "hint", "message"] and .code == $code and (.message | length > 0))' \
    >/dev/null <"$err" || die "$*: stderr is not the one object of $code"
}
zone='^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(\.[0-9]+)?Z$'

step users
name=script-$RANDOM$RANDOM
$TCTL users add "$name" --roles=access --logins=root --format=json 2>/dev/null |
  jq -e --arg name "$name" --arg zone "$zone" '.user == $name and (.expires | test($zone))' >/dev/null || die "users add"
refused already_exists 4 $TCTL users add "$name" --roles=access --format=json
refused bad_request 2 $TCTL users add "$name-2" --roles=access --ttl=soon --format=json
$TCTL users ls --format=json | jq -e --arg name "$name" 'any(.metadata.name == $name)' >/dev/null || die "users ls"
$TCTL get "user/$name" --format=json | jq -e '.[0].spec.roles == ["access"]' >/dev/null || die "get user"
$TCTL users update "$name" --set-roles=auditor --format=json | jq -e '.[0].done == "updated"' >/dev/null || die "users update"
$TCTL users rm "$name" --format=json | jq -e --arg name "$name" '. == [{kind: "user", name: $name, done: "deleted"}]' \
  >/dev/null || die "users rm"
refused not_found 3 $TCTL users rm "$name" --format=json
refused not_found 3 $TCTL get "user/$name" --format=json

step resources
role='{"kind": "role", "version": "v4", "metadata": {"name": "from-a-script"}, "spec": {}}'
$TCTL create --format=json <<<"$role" | jq -e '.[0] | .kind == "role" and .done == "created"' >/dev/null || die "create"
refused already_exists 4 $TCTL create --format=json <<<"$role"
$TCTL rm role/from-a-script --format=json | jq -e '.[0].done == "removed"' >/dev/null || die "rm"
refused not_found 3 $TCTL rm role/from-a-script --format=json

step tokens
id=$($TCTL tokens add --type=node --ttl=5m --format=json | jq -er '.id') || die "tokens add"
$TCTL tokens ls --format=json |
  jq -e --arg id "$id" --arg zone "$zone" '.[] | select(.id == $id) | .expires | test($zone)' >/dev/null || die "tokens ls"
$TCTL tokens rm "$id" --format=json | jq -e '.[0].done == "removed"' >/dev/null || die "tokens rm"
$TCTL tokens ls --format=json | jq -e --arg id "$id" 'all(.id != $id)' >/dev/null || die "tokens ls after rm"

step hosts
$TSH status --format=json | jq -e --arg zone "$zone" '.profiles[0] | .active and (.valid_until | test($zone))' >/dev/null ||
  die "tsh status"
$TSH ls --format=json | jq -e --arg node "$NODE" 'any(.spec.hostname == $node)' >/dev/null || die "tsh ls"
refused not_found 3 $TSH ls --cluster=nowhere --format=json
refused bad_request 2 $TSH ls --no-such-flag --format=json

step sessions
sid=$($TSH ssh "$NODE" 'echo "$SSH_SESSION_ID"') || die "tsh ssh"
got=0; $TSH ssh "$NODE" 'exit 37' || got=$?
[ $got = 37 ] || die "the remote status is $got"
got=0; $TSH ssh nobody-here true 2>/dev/null || got=$?
[ $got = 255 ] || die "the status of a failed connection is $got"

step audit
for _ in $(seq 60); do
  ended=$($TCTL audit ls --from=-1h --session="$sid" --format=json | jq -s 'map(select(.event == "session.end")) | length')
  [ "$ended" = 1 ] && break
done
[ "$ended" = 1 ] || die "no session.end of $sid"
$TCTL audit ls --from=-1h --session="$sid" --format=json | jq -es --arg zone "$zone" 'all(.time | test($zone))' >/dev/null ||
  die "times of events"
today=$(date -u +%F)
$TCTL audit ls --from="$today" --to=now --limit=1 --format=json 2>/dev/null | jq -es 'length == 1' >/dev/null || die "a date"
$TCTL audit ls --from="${today}T00:00:00+00:00" --limit=1 --format=json 2>/dev/null | jq -es 'length == 1' >/dev/null || die "zone"
refused bad_request 2 $TCTL audit ls --from=yesterday --format=json
$TCTL audit verify --format=json | jq -e '.ok' >/dev/null || die "audit verify"
$TCTL recordings ls --format=json | jq -e --arg sid "$sid" 'type == "array"' >/dev/null || die "recordings ls"

step errors
refused connection_problem 6 $TCTL_AWAY status --format=json
refused access_denied 5 $TCTL_NOBODY status --format=json
echo done
