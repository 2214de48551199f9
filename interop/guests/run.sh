#!/bin/sh
# The guest service before a grid node over mutual TLS: programs of two users, processes that fork, are killed and hold
# on, a node and a service that go away. Judges: OpenSC through the module and through pcscd, the kernel's users.
. "$(dirname "$0")/../begin.sh"
. "$folder/../pkcs11/world.sh"
unset GOSE_PKCS11_CONF
export HOME="$work/home"
mkdir "$HOME"
socket=/run/gose/guest.sock
mkdir -p /etc/gose && mount -t tmpfs -o mode=755 tmpfs /etc/gose
for program in fork restart start; do
    gcc -Wall -Wextra -Werror -I/usr/include/p11-kit-1 "$folder/../pkcs11/$program.c" -o "$work/$program" -ldl -lpthread
done
# What every user may read and run.
cp "$module" "$work/module.so"; module="$work/module.so"
cp "$(command -v gose)" "$folder/turns.py" "$work/"
chmod 711 "$work"; chmod 755 "$work/module.so" "$work/fork" "$work/gose" "$work/turns.py"
grid ec rsa
equip ec p256 9A
equip rsa rsa2048 9A
printf 'message\n' >"$work/message"
p11() { pkcs11-tool --module "$module" "$@"; }
on() { seid=$1; shift; p11 --token-label "$seid" --login --pin "$(pin "$seid")" "$@"; }
says() { pattern=$1; shift; "$@" >"$work/said" 2>&1 || :; cat "$work/said"; grep -q -e "$pattern" "$work/said"; }
fails() { ! "$@"; }
nobody() { setpriv --reuid nobody --regid nogroup --clear-groups env HOME=/nonexistent "$@"; }
sessions() { sed 's/\x1b\[[0-9;]*m//g' "$work/daemons.log" | grep 'session begins' | grep -c 'guest'; }

check "without service and configuration: an error and what to do" says 'name another file in GOSE_PKCS11_CONF' p11 -L
service
check "the socket is its user's alone" says '^600$' stat -c %a $socket
check "a second service does not take its place" says 'another service runs there' \
    gose guest serve --config "$work/client/guest.toml"
check "the module finds the service without a configuration" says 'token label *: rsa' p11 -L
check "pkcs11-tool --test, P-256" on ec --test
check "pkcs11-tool --test, RSA" on rsa --test
verifies() {
    p11 --token-label "$1" --login --pin "$(pin "$1")" --sign --mechanism "$2" --label 9A \
        --signature-format openssl -i "$work/message" -o "$work/signature" &&
        openssl dgst -sha256 -verify "$work/$1.9A.pub" -signature "$work/signature" "$work/message"
}
check "openssl verifies what an element signed" verifies ec ECDSA-SHA256
check "gose uses it by --socket" says '^rsa' gose element list --socket $socket

# Processes
check "fork before use" "$work/fork" "$module" before "$(pin ec)" 5
check "fork after use: eight processes sign with one element" "$work/fork" "$module" shared "$(pin ec)" 8
check "fork while threads sign" "$work/fork" "$module" threads "$(pin ec)" 5
at_once() {
    for _ in 1 2 3 4 5 6 7 8; do
        "$work/fork" "$module" unload "$(pin ec)" 3 &
        running="${running:-} $!"
    done
    for process in $running; do wait "$process" || return 1; done
}
check "eight programs sign with one element at once" at_once
starts() { for _ in $(seq 16); do timeout 60 "$work/start" "$module" 32 || return 1; done; }
check "1,024 starts, 64 at a time: each sees its token, none hangs" starts
for kind in processes threads; do grep " $kind: longest" "$work/case.log" | sort -k4 -n | tail -1; done
check "the node saw one session of this guest" says '^1$' sessions

# Transactions
turns() { case=$1; shift; python3 "$folder/turns.py" "$case" "$@"; }
check "a second user cannot sign after another's PIN" turns pin "$(pin ec)"
check "who holds an element keeps it, who waits is told in time" turns hold
check "who holds an element and rests gives way" turns rest
check "a program that ends leaves nothing powered up" turns ends "$(pin ec)"
check "those who wait come in their order" turns order
check "nonsense, half requests, long lines: only their sender is left" turns nonsense
check "a program killed in the middle: the next one goes on at once" turns killed "$(pin ec)"

# Users
check "a user who is not named is turned away" says 'Permission denied' nobody "$work/gose" element list --socket $socket
stop_service
service '[listen]
group = "nogroup"
[limits]
clients = 8
queue = 2
wait-ms = 2000
hold-ms = 4000
[[user]]
user = "root"
seid = ["*"]
[[user]]
user = "nobody"
seid = ["rsa"]' 2>/dev/null
check "the socket is its group's too" says '^660$' stat -c %a $socket
check "a user sees what it may use" says '^rsa' nobody "$work/gose" element list --socket $socket
check "and nothing else" fails says '^ec' nobody "$work/gose" element list --socket $socket
nobodys() { nobody pkcs11-tool --module "$module" --token-label rsa --login --pin "$(pin rsa)" --test; }
check "its programs sign" nobodys
refused() {
    nobody "$work/gose" racs --socket $socket "$1" >"$work/one" 2>&1 || :
    nobody "$work/gose" racs --socket $socket "$2" >"$work/other" 2>&1 || :
    cat "$work/one" "$work/other"
    sed -i 's/ec/rs/; s/no/rs/' "$work/one" "$work/other"
    grep -q -e '-60' "$work/one" && cmp "$work/one" "$work/other"
}
printf 'BEGIN\nPOWERON ec\nEND\n' >"$work/theirs"
printf 'BEGIN\nPOWERON no\nEND\n' >"$work/nothing"
chmod 644 "$work/theirs" "$work/nothing"
check "an element of another user is as unknown as one that is not there" refused "$work/theirs" "$work/nothing"
check "clients of one user are bounded, others are served" turns crowd
check "a queue that is full: told at once" turns full
stop_service
service

# The service and the grid go and come back
few_errors() {
    sed -n 's/.* \([0-9]*\) errors .* good at the end/\1/p' "$work/restarted" | grep -qx '[01]'
}
comes_back() {
    rm -f "$work/restarted"
    "$work/restart" "$module" "$(pin ec)" 8 >"$work/restarted" 2>/dev/null &
    restarting=$!
    until_ready grep -q ready "$work/restarted"
    "$@"
    wait $restarting || { cat "$work/restarted"; return 1; }
    cat "$work/restarted"
    few_errors
}
killed() { stop_service -KILL; sleep 1; start_service; }
stopped() { stop_service; sleep 1; start_service; }
regrids() { stop_grid; sleep 1; start_grid; }
check "the service is killed while an application signs: at most one error" comes_back killed
check "the grid restarts while an application signs: at most one error" comes_back regrids
check "the service is stopped and started while an application signs: at most one error" comes_back stopped

# The reader
mkdir -p "$work/readers"
cat >"$work/readers/vpcd" <<CONF
FRIENDLYNAME "Virtual PCD"
DEVICENAME /dev/null:0x8C7B
LIBPATH /usr/lib/pcsc/drivers/serial/libifdvpcd.so
CHANNELID 0x8C7B
CONF
daemon pcscd -f -c "$work/readers"
until_ready sh -c 'ss -ltn | grep -q :35963'
daemon gose reader rsa --socket $socket
until_ready sh -c 'opensc-tool -r 0 --atr'
check "gose reader: stock OpenSC finds the card through the service" says 'Identity Verification' opensc-tool -r 0 -n
card() {
    pkcs11-tool --login --pin "$(pin rsa)" --sign --id 01 --mechanism SHA256-RSA-PKCS -i "$work/message" -o "$work/signature" &&
        openssl dgst -sha256 -verify "$work/rsa.9A.pub" -signature "$work/signature" "$work/message"
}
check "stock OpenSC signs with the card" card
check "the module uses the same element meanwhile" on rsa --test
check "and the card goes on" card
units() {
    for unit in gose-guest.service gose-reader@.service; do
        sed "s#/usr/bin/gose #$work/gose #" "$root/packaging/$unit" >"$work/$unit"
    done
    systemd-analyze verify "$work/gose-guest.service" "$work/gose-reader@.service"
}
check "systemd reads the units" units
check "no line of the service's is a panic" fails grep -a panicked "$work/daemons.log"
finish
