#!/bin/sh
# nginx, Apache httpd and stunnel of the distribution with a key in an element: docs/guide/nginx.md as it is written, then
# what a server does in its life: reloads, workers that die, a grid and a service that go away.
. "$(dirname "$0")/../begin.sh"
. "$folder/../pkcs11/world.sh"
. "$folder/../recipes.sh"
guest web
recipe nginx
cd "$work/nginx"
master=$(cat nginx.pid)
daemons="$daemons $master"
gets() { curl --silent --show-error --max-time 15 --retry 8 --retry-connrefused --retry-delay 1 --cacert /etc/gose/ca.pem https://localhost:8443/ | grep 'not here'; }
shown() { openssl s_client -connect localhost:8443 -CAfile /etc/gose/ca.pem -verify_return_error </dev/null 2>/dev/null | openssl x509 -noout -serial; }
check "the certificate's key is the element's" sh -c \
    "test \"\$(openssl x509 -in /etc/gose/web.pem -noout -pubkey)\" = \"\$(gose key show web 9A --socket /run/gose/guest.sock)\""
check "the workers are another user's" sh -c "ps -o user= --ppid $master | grep -qx www-data"
descriptors() { ls "/proc/$master/fd" | wc -l; }
resident() { sed -n 's/^VmRSS:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$master/status"; }
reloads() {
    for _ in $(seq "$1"); do
        before=$(ps -o pid= --ppid "$master" | sort | tail -1)
        kill -HUP "$master"
        for _ in $(seq 100); do
            after=$(ps -o pid= --ppid "$master" | sort | tail -1)
            [ "$after" = "$before" ] || break
            sleep 0.02
        done
        gets >/dev/null || return 1
    done
}
check "10 reloads" reloads 10
files=$(descriptors) memory=$(resident)
check "90 more: each is followed by a page" reloads 90
unchanged() {
    echo "descriptors $files then $(descriptors), resident $memory kB then $(resident) kB"
    [ "$(descriptors)" -le "$files" ] && [ "$(resident)" -le $((memory + memory / 10)) ]
}
check "100 reloads leave no descriptor, and within a tenth the same memory" unchanged
tail -1 "$work/case.log"
check "no worker is left over" sh -c "sleep 1; test \$(ps -o pid= --ppid $master | wc -l) -le 3"
new_certificate() {
    was=$(shown)
    openssl x509 -req -in web.csr -CA /etc/gose/ca.pem -CAkey /etc/gose/ca.key -days 60 -extfile names -out /etc/gose/web.pem 2>/dev/null &&
        kill -HUP "$master" && sleep 1 && [ -n "$was" ] && [ "$(shown)" != "$was" ] && gets
}
check "a new certificate counts after a reload" new_certificate
worker_dies() { kill -9 "$(ps -o pid= --ppid "$master" | head -1)" && gets && gets; }
check "a worker is killed: the next one serves" worker_dies
service_restarts() { stop_service; start_service; gets && gets && gets; }
check "the guest service restarts" service_restarts
grid_restarts() { stop_grid; start_grid; gets && gets && gets; }
check "the grid restarts" grid_restarts
load() {
    for _ in 1 2 3 4 5 6 7 8; do
        (for _ in $(seq 25); do curl --silent --max-time 20 --cacert /etc/gose/ca.pem https://localhost:8443/ | grep -q 'not here' || exit 1; done) &
        loading="${loading:-} $!"
    done
    for process in $loading; do wait "$process" || return 1; done
}
check "eight clients, 200 handshakes: none fails" load
check "nginx logged nothing grave" sh -c "! grep -E 'emerg|alert|crit' logs/error.log | grep -v 'signal 9'"
finish
