#!/bin/sh
# curl, openssl, keytool and python-pkcs11 with a key in an element: docs/guide/curl.md as it is written, and what a server
# says to others.
. "$(dirname "$0")/../begin.sh"
. "$folder/../pkcs11/world.sh"
. "$folder/../recipes.sh"
PATH="$root/target/python/bin:$PATH"
guest me
recipe curl
cd "$work/curl"
export PKCS11_MODULE_PATH=/usr/lib/x86_64-linux-gnu/pkcs11/libgose_pkcs11.so
key='pkcs11:token=me;object=9A;type=private'
daemon openssl s_server -accept 8446 -cert server.pem -key server.key -CAfile /etc/gose/ca.pem -Verify 2 -verify_return_error -www
until_ready sh -c 'ss -ltn | grep -q :8446'
gets() { curl --silent --show-error --max-time 10 --cacert /etc/gose/ca.pem "$@" https://localhost:8446/ | grep 'CN *= *me'; }
with_key() { gets --engine pkcs11 --key-type ENG --key "$key" --cert /etc/gose/me.pem; }
check "curl with the element's key" with_key
check "curl without a key is turned away" sh -c "! curl --silent --max-time 10 --cacert /etc/gose/ca.pem https://localhost:8446/"
check "another's key with this certificate is turned away" sh -c \
    "! curl --silent --max-time 10 --cacert /etc/gose/ca.pem --key server.key --cert /etc/gose/me.pem https://localhost:8446/"
check "TLS 1.2" gets --tls-max 1.2 --engine pkcs11 --key-type ENG --key "$key" --cert /etc/gose/me.pem
stop_grid; start_grid
check "the grid restarts: the next one is served" with_key
finish
