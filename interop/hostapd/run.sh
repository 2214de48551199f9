#!/bin/sh
# hostapd's EAP server behind RADIUS: client elements of GoSE authenticate to it.
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
printf '* TLS\n' >"$work/users"
printf '127.0.0.1/32 testing123\n' >"$work/clients"

server=127.0.0.1:1822 attempts=2
# hostapd_with KEY
hostapd_with() {
    sed "s#@DIR@#$work#g; s#@KEY@#$pki/server-$1.key#; s#@CERTIFICATE@#$pki/server-$1.pem#; s#@CA@#$pki/ca-and-crl.pem#" \
        "$folder/hostapd.conf" >"$work/hostapd.conf"
    server_name="hostapd $1"
    daemon hostapd "$work/hostapd.conf"
    hostapd=$!
    # It knows no Status-Server.
    until_ready sh -c 'ss -lun | grep -q :1822'
}

hostapd_with p256
matrix p256 rsa2048 p384 rsa3072
refusals
# Its exit status says nothing: 2.10 may abort with a double free on SIGTERM.
kill "$hostapd"
wait "$hostapd" || :
hostapd_with rsa2048
matrix p256 rsa2048
finish
