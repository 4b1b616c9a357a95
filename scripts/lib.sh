# shellcheck shell=bash
# What the scripts share: counted checks, users, packages. Sourced, not run.
#
# A check's result is a line in the file $RESULTS: pass, fail or skip, the lane
# ($LANE: who ran it, and how), its name, and why it was skipped. scripts/test
# sets RESULTS and adds all lanes up; a script that runs alone counts for itself.

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# missing NAME...: those of the programs that are not on PATH.
missing() {
	local name
	for name; do
		command -v "$name" >/dev/null || printf '%s ' "$name"
	done
}

begin() { # LANE: results of what follows
	LANE=$1
	if [ -z "${RESULTS-}" ]; then
		RESULTS=$(mktemp)
		RESULTS_OWN=1
	fi
}

record() { # pass|fail|skip NAME [REASON]
	printf '%s\t%s\t%s\t%s\n' "$1" "$LANE" "$2" "${3-}" >>"$RESULTS"
}

# check NAME COMMAND...: passes when the command does; otherwise shows what it
# said. After $LIMIT seconds (60) it and what it started are killed.
check() {
	local name=$1 log status=0 job dog
	shift
	log=$(mktemp) || exit
	set -m # a process group of its own for each of the two
	"$@" >"$log" 2>&1 </dev/null &
	job=$!
	(sleep "${LIMIT:-60}" && echo "after ${LIMIT:-60} seconds: killed" >>"$log" && kill -KILL -- "-$job") >/dev/null 2>&1 &
	dog=$!
	set +m
	wait $job 2>/dev/null || status=$?
	kill -KILL -- "-$dog" 2>/dev/null
	wait $dog 2>/dev/null
	if [ "$status" -eq 0 ]; then
		record pass "$name"
	else
		record fail "$name"
		say "FAIL $LANE: $name (status $status)"
		tail -n 40 "$log" | sed 's/^/     /'
	fi
	rm -f "$log"
	return "$status"
}

skip() { # NAME REASON
	record skip "$1" "$2"
	say "skip $LANE: $1: $2"
}

# totals: alone, the last line, "N passed, N failed, N skipped". Fails if a
# check of this lane did, or if none ran.
totals() {
	if [ -n "${RESULTS_OWN-}" ]; then
		sum "$RESULTS"
		set -- $?
		rm -f "$RESULTS"
		return "$1"
	fi
	! grep -q "^fail	$LANE	" "$RESULTS" && grep -q "^[ps][a-z]*	$LANE	" "$RESULTS"
}

sum() { # FILE
	local passed failed skipped
	passed=$(grep -c ^pass "$1")
	failed=$(grep -c ^fail "$1")
	skipped=$(grep -c ^skip "$1")
	say "$passed passed, $failed failed, $skipped skipped"
	[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}

# need_go: Go, or a word on how to get it. A toolchain in its usual place counts.
need_go() {
	local dir
	for dir in "$(command -v go || true)" /usr/local/go/bin/go "$HOME/sdk/go/bin/go" /usr/lib/go/bin/go; do
		if [ -x "$dir" ]; then
			PATH=${dir%/*}:$PATH
			return
		fi
	done
	say "Go is needed to build moss and was not found."
	say "  Debian, Ubuntu: apt-get install golang-go   (needs $(sed -n 's/^go //p' go.mod) or newer, or a way to fetch it)"
	say "  elsewhere:      https://go.dev/doc/install"
	exit 1
}

# apt_fresh: brings the package lists up to date once, when that is possible.
apt_fresh() {
	[ -z "${APT_FRESH-}" ] || return 0
	APT_FRESH=1
	if [ "$(id -u)" -eq 0 ]; then
		apt-get update -qq >/dev/null 2>&1 || true
	fi
}

# apt_install PACKAGE...: as root on Debian; fails otherwise.
apt_install() {
	[ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null || return 1
	apt_fresh
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1
}

# unpacked PACKAGE FILE DIR: prints where FILE of a Debian package is: on the
# machine, or else below DIR, without installing it. No root needed, and no
# service of the package's starts.
unpacked() {
	local package=$1 file=$2 dir=$3/$1
	if [ -x "$file" ]; then
		echo "$file"
		return
	fi
	if [ ! -x "$dir$file" ]; then
		command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
		mkdir -p "$dir"
		(cd "$dir" && apt-get download "$package" >/dev/null 2>&1) ||
			{ apt_fresh && (cd "$dir" && apt-get download "$package" >/dev/null 2>&1); } || return 1
		dpkg-deb -x "$dir/${package}_"*.deb "$dir" || return 1
	fi
	[ -x "$dir$file" ] && echo "$dir$file"
}

# static_busybox DIR: the path of a busybox that runs in an empty root.
static_busybox() {
	local bb
	bb=$(command -v busybox || true)
	if [ -n "$bb" ] && ! ldd "$bb" >/dev/null 2>&1; then
		echo "$bb"
		return
	fi
	unpacked busybox-static /bin/busybox "$1"
}

# free_port: a loopback port nobody listens on.
free_port() {
	local port
	while :; do
		port=$((20000 + RANDOM % 20000))
		(exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
	done
	echo "$port"
}

# make_user NAME [ids]: an ordinary user, as root; with a range of subordinate
# ids or without any.
make_user() {
	id "$1" >/dev/null 2>&1 || useradd -m -s /bin/bash "$1" || adduser -D "$1" || die "cannot make the user $1"
	local file first
	for file in /etc/subuid /etc/subgid; do
		if [ "${2-}" != ids ]; then
			[ ! -e $file ] || sed -i "/^$1:/d" $file
		elif ! grep -qs "^$1:" $file; then
			touch $file
			first=$(awk -F: 'BEGIN { top = 100000 } { end = $2 + $3; if (end > top) top = end } END { print top }' $file)
			echo "$1:$first:65536" >>$file # above all ranges that are given
		fi
	done
}
