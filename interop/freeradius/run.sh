#!/bin/sh
# FreeRADIUS 3: client elements of GoSE authenticate to it.
. "$(dirname "$0")/../begin.sh"
. "$folder/../elements.sh"
. "$folder/../clients.sh"

authority good
authority other
client_elements
for key in p256 rsa2048; do
    file_key "server-$key" $key
    sign good server "$pki/server-$key.csr" "$pki/server-$key.pem"
done

server=127.0.0.1:1812 attempts=3
# freeradius_with KEY
freeradius_with() {
    rm -rf "$work/raddb"
    mkdir -p "$work/raddb/run" "$work/raddb/sessions"
    echo '$INCLUDE /usr/share/freeradius/dictionary' >"$work/raddb/dictionary"
    sed "s#@DIR@#$work/raddb#g; s#@KEY@#$pki/server-$1.key#; s#@CERTIFICATE@#$pki/server-$1.pem#; s#@CA@#$pki/ca-and-crl.pem#" \
        "$folder/radiusd.conf" >"$work/raddb/radiusd.conf"
    server_name="FreeRADIUS $1"
    daemon freeradius -f -d "$work/raddb"
    radiusd=$!
    until_ready "$bin/gose" eap status --server $server --secret "file:$work/secret" --timeout-s 1
}

freeradius_with p256
matrix p256 rsa2048 p384 rsa3072
refusals
kill "$radiusd"
wait "$radiusd" || :
freeradius_with rsa2048
matrix p256 rsa2048
finish
