#!/usr/bin/env bash
# Builds what `make test-kube` runs, once: the API server, the controller manager, the scheduler and the kubelet of
# Kubernetes 1.20.2, out of Debian's source package (no package has the programs). Only Debian's archive is asked.
# They are kept in ~/.cache/teleport-tests/kubernetes/1.20.2 (360 MB); building takes up to 3 GB in the same place, which go
# again. Why it failed is kept beside them, for the tests to say.
set -euo pipefail
version=1.20.2
programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet)
to_build=(golang-go rsync jq patch make gcc libc6-dev dpkg-dev)
to_run=(etcd-server containerd runc containernetworking-plugins busybox-static iptables iproute2)
kept=${XDG_CACHE_HOME:-$HOME/.cache}/teleport-tests/kubernetes
to=$kept/$version
mkdir -p "$kept"

say() { echo "kube-cluster: $*" >&2; }
fail() { say "$*"; printf '%s\n' "$*" > "$kept/why-not"; exit 1; }
all_there() { for one in "${programs[@]}"; do [ -x "$to/$one" ] || return 1; done; }
installed() { dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }
install() {
  local missing=()
  for one in "$@"; do installed "$one" || missing+=("$one"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing ${missing[*]}"
  "$apt" kube-cluster "${missing[@]}" 2>&1 | tee "$kept/log" >&2 ||
    fail "the packages ${missing[*]} cannot be installed: $(tail -1 "$kept/log")"
}

apt=$(cd "$(dirname "$0")" && pwd)/apt.sh
[ "$(id -u)" = 0 ] || fail "a Kubernetes cluster is built and run by root"
command -v apt-get >/dev/null || fail "there is no apt-get here: a Kubernetes cluster is built out of Debian's source package"
exec 8>"$kept/lock"
flock 8
rm -f "$kept/why-not"
install "${to_run[@]}"
if all_there; then say "Kubernetes $version is in $to"; exit 0; fi

began=$SECONDS
install "${to_build[@]}"
work=$(mktemp -d "$kept/building.XXXXXX")
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work"
log=$kept/log
: > "$log"

# A copy of the lists of packages that names sources, so that the system's own stays as it is.
mkdir -p apt/lists/partial apt/sources apt/cache/archives/partial
for file in /etc/apt/sources.list.d/*.sources; do
  [ -f "$file" ] && sed 's/^Types:.*/Types: deb-src/' "$file" > "apt/sources/$(basename "$file")"
done
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
  [ -f "$file" ] && sed -n 's/^deb\(-src\)\? /deb-src /p' "$file" > "apt/sources/$(basename "$file" .list).list"
done
apt=(-o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$work/apt/sources" -o "Dir::State::Lists=$work/apt/lists"
  -o "Dir::Cache=$work/apt/cache" -o APT::Sandbox::User=root)
say "fetching Debian's source package of Kubernetes $version"
apt-get "${apt[@]}" update >>"$log" 2>&1 || fail "Debian's lists of sources cannot be read: $(tail -1 "$log")"
full=$(apt-cache "${apt[@]}" showsrc kubernetes 2>>"$log" | sed -n 's/^Version: //p' | grep -F -m1 -- "$version" || true)
[ -n "$full" ] || fail "the Debian release of this machine has no source package kubernetes $version (Debian 12 has)"
apt-get "${apt[@]}" source --download-only "kubernetes=$full" >>"$log" 2>&1 || fail "the source package cannot be fetched: $(tail -1 "$log")"
tar xf kubernetes_*.orig.tar.gz
tar xf kubernetes_*.debian.tar.xz
cd "kubernetes-$version"
while read -r patch; do
  case $patch in ''|'#'*) continue ;; esac
  patch -sp1 < "../debian/patches/$patch" >>"$log" 2>&1 || fail "Debian's patch $patch does not apply: $(tail -1 "$log")"
done < ../debian/patches/series
mkdir -p .go/src/k8s.io
ln -s ../../.. .go/src/k8s.io/kubernetes   # by GOPATH, as Debian builds it; its tree is no module that builds
[ "${1:-}" != --until-make ] || { say "the sources are ready ($((SECONDS - began)) s)"; exit 0; }

say "building ${programs[*]}: six minutes on two processors, with output in $log"
make=(nice -n 5 make "WHAT=${programs[*]/#/cmd/}" GOFLAGS=-p=2)
env -u GOFLAGS GOPATH="$PWD/.go" HOME="$work" GOCACHE="$work/gocache" CGO_ENABLED=0 PATH="/usr/lib/go/bin:$PATH" \
  "${make[@]}" >>"$log" 2>&1 || fail "make ended with $?: $(grep -v '^$' "$log" | tail -1) (all of it: $log)"
mkdir -p ready
cp "${programs[@]/#/_output/local/bin/linux/$(go env GOARCH)/}" ready/
rm -rf "$to"
mv ready "$to"
say "Kubernetes $version is in $to ($((SECONDS - began)) s)"
