# Sourced by every run.sh, as root: what the daemons of a test share lies in namespaces of its own, so that
# fixed ports and sockets meet no others. Cases are counted; skips.toml names those that cannot pass, with the
# reason; one of them that passes fails the run.
set -eu
folder=$(cd "$(dirname "$0")" && pwd)
if [ -z "${GOSE_NAMESPACE:-}" ]; then
    GOSE_NAMESPACE=1 exec unshare --mount --net --propagation private "$0" "$@"
fi
ip link set lo up
mount -t tmpfs tmpfs /run
mkdir -p /run/pcscd /run/lock
work=$(mktemp -d)
daemons=
passed=0 failed=0 skipped=0
end() {
    for daemon in $daemons; do kill "$daemon" 2>/dev/null || :; done
    wait
    rm -rf "$work"
}
trap end EXIT

# daemon COMMAND …: runs in the background until the end; its output is kept.
daemon() {
    "$@" >>"$work/daemons.log" 2>&1 &
    daemons="$daemons $!"
}

# until_ready COMMAND …: waits up to ten seconds until the command succeeds.
until_ready() {
    for _ in $(seq 200); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.05
    done
    echo "not ready in time: $*"; cat "$work/daemons.log"; exit 1
}

# check NAME COMMAND …: one case.
check() {
    name=$1; shift
    if "$@" >"$work/case.log" 2>&1; then result=0; else result=$?; fi
    if reason=$(grep -F "\"$name\" = " "$folder/skips.toml" 2>/dev/null); then
        if [ $result = 0 ]; then
            echo "FAILED $name: passes, but skips.toml says it cannot"; failed=$((failed + 1))
        else
            echo "skip   $reason"; skipped=$((skipped + 1))
        fi
    elif [ $result = 0 ]; then
        echo "ok     $name"; passed=$((passed + 1))
        grep -oE '[A-Za-z].*signatures, .*|contract: .* \| .*' "$work/case.log" || :
    else
        echo "FAILED $name"; sed 's/^/       /' "$work/case.log"; failed=$((failed + 1))
    fi
}

# finish: the closing line, and the exit status.
finish() {
    echo "$passed passed, $failed failed, $skipped skipped"
    [ $failed = 0 ]
}
