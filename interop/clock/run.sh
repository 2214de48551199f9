#!/bin/sh
# A node whose clock is wrong, or set while it runs: libfaketime gives it one of its own.
. "$(dirname "$0")/../begin.sh"
. "$folder/../elements.sh"

authority good
slots SE1 >"$work/gosed.toml"
file_key node p256
sign good server "$pki/node.csr" "$pki/node.pem"
openssl ca -config "$pki/good/ca.cnf" -gencrl -out "$pki/crl.pem" -crl_lastupdate "$(date -u -d '-3 hours' +%Y%m%d%H%M%SZ)" \
    -crl_nextupdate "$(date -u -d '+1 hour' +%Y%m%d%H%M%SZ)" 2>/dev/null
cat >>"$work/gosed.toml" <<EOF
[listen]
address = "127.0.0.1:7777"
[tls]
certificate-file = "$pki/node.pem"
key = { file = "$pki/node.key" }
client-anchor-files = ["$pki/good/ca.pem"]
user-anchor-files = ["$pki/good/ca.pem"]
[[user]]
cn = "hour"
seid = ["*"]
[[user]]
cn = "week"
seid = ["*"]
EOF

# user NAME FROM UNTIL: a certificate for these times.
user() {
    [ -f "$pki/$1.key" ] || file_key "$1" p256
    sign good client "$pki/$1.csr" "$pki/$1.pem" -startdate "$(date -u -d "$2" +%Y%m%d%H%M%SZ)" \
        -enddate "$(date -u -d "$3" +%Y%m%d%H%M%SZ)"
}
user hour "-1 hour" "+1 hour"
user week "-7 days" "+7 days"

# clock OFFSET: what the node's clock is set to from now on, in seconds beside this machine's.
clock() { printf '%+d\n' "$1" >"$work/offset.new" && mv "$work/offset.new" "$work/offset"; }

library=$(dpkg -L libfaketime | grep '/libfaketimeMT.so.1$')
# run: the node, by that clock; intervals are measured by the machine's.
run() {
    [ -z "${gosed:-}" ] || { kill "$gosed"; wait "$gosed" || :; }
    : >"$work/daemons.log"
    daemon env LD_PRELOAD="$library" FAKETIME_TIMESTAMP_FILE="$work/offset" FAKETIME_NO_CACHE=1 \
        FAKETIME_DONT_FAKE_MONOTONIC=1 "$bin/gosed" run --config "$work/gosed.toml"
    gosed=$!
    until_ready sh -c 'ss -ltn | grep -q 127.0.0.1:7777'
}

# list NAME: what the node answers to LIST.
list() {
    { printf 'BEGIN\r\nLIST\r\nEND\r\n'; sleep 0.5; } | timeout 10 openssl s_client -connect 127.0.0.1:7777 -quiet -no_ign_eof \
        -CAfile "$pki/good/ca.pem" -cert "$pki/$1.pem" -key "$pki/$1.key" 2>"$work/told" || :
}
served() { list "$1" | tee "$work/answer" && grep -q '^+004 001 SE1' "$work/answer"; }
# refused NAME REASON: nothing of RACS, and the log has the reason.
refused() {
    list "$1" >"$work/answer"
    cat "$work/answer" "$work/told"; tail -2 "$work/daemons.log"
    [ ! -s "$work/answer" ] && log_has "$2"
}

clock 0
run
check "clock right: certificate of an hour" served hour
check "clock right: certificate of weeks" served week
clock 7200
check "clock set forward: the certificate has expired" refused hour 'certificate expired'
check "clock set forward: another one is good" served week
clock 0
check "clock right again" served hour
clock -7200
check "clock set back below the start: judged by the time that passed" served hour
check "clock set back: the log says so" log_has "the system's clock was set back"

clock 7200
run
check "started by a clock two hours fast: expired" refused hour 'certificate expired'
clock 0
check "set back where it was wrong before: nothing is revived" refused hour 'certificate expired'
check "… and the log tells to restart" log_has 'restart the node if the clock was wrong before'
run
check "after the restart" served hour

clock -7200
run
check "started by a clock two hours slow: not yet valid" refused hour 'certificate not valid yet'
check "started by a clock two hours slow: others are served" served week
clock 0
check "set right: it is valid" served hour

sed -i "s|^\[tls\]|[tls]\ncrl-files = [\"$pki/crl.pem\"]|" "$work/gosed.toml"
clock 0
run
check "a revocation list in force" served week
clock 7200
check "by a clock two hours fast it is stale: nobody comes in" refused week 'revocation list expired'
clock 0
check "set right: served" served week
finish
