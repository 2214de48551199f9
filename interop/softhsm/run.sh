#!/bin/sh
# SoftHSM2: keys in an HSM by PKCS#11, the element contract on them, the token taken away; pkcs11-tool as the judge.
. "$(dirname "$0")/../begin.sh"

module=/usr/lib/softhsm/libsofthsm2.so
mkdir "$work/tokens"
cat >"$work/softhsm2.conf" <<EOF
directories.tokendir = $work/tokens
objectstore.backend = file
log.level = ERROR
EOF
export SOFTHSM2_CONF="$work/softhsm2.conf" GOSE_TEST_TOKENS="$work/tokens" GOSE_TEST_OUTPUT="$work"
softhsm2-util --init-token --free --label gose --pin 1234 --so-pin 5678 >/dev/null
export GOSE_TEST_PKCS11="pkcs11:token=gose?module-path=$module&pin-value=1234"

# A key pair that the token has before any card comes.
pkcs11-tool --module "$module" --token-label gose --login --pin 1234 --keypairgen --key-type EC:prime256v1 \
    --id AD01 --label "there before" --usage-sign >/dev/null 2>&1
export GOSE_TEST_ADOPT=AD01

check "keys, import, secret keys, contract, adopted key, many signatures, threads, token taken away, wrong PIN" \
    cargo test --offline --quiet --package gose-backend --features pkcs11,__judges --test pkcs11 -- --nocapture

pkcs11-tool --module "$module" --token-label gose --login --pin 1234 --list-objects >"$work/objects" 2>/dev/null
# objects KIND ACCESS: how many of a kind there are, and how many of them have this access.
objects() {
    awk -v kind="$1" -v access="$2" '/ Object;/ { in_kind = index($0, kind) == 1; all += in_kind }
        in_kind && /Access:/ { with += index($0, access) > 0 } END { print all + 0, with + 0 }' "$work/objects"
}
all() { set -- $(objects "$1" "$2"); [ "$1" -gt 0 ] && [ "$1" = "$2" ]; }
some() { set -- $(objects "$1" "$2"); [ "$2" -gt 0 ]; }
before() {
    for object in "Private Key Object" "Public Key Object"; do
        grep -A 4 "^$object" "$work/objects" | grep -c 'there before' | grep -qx 1 || return 1
    done
}
check "what the token had before the cards is there after them" before
check "pkcs11-tool sees the keys" grep -q 'GoSE ' "$work/objects"
check "every private key is sensitive" all "Private Key Object" sensitive
check "those that were made there were never extractable" some "Private Key Object" "always sensitive, never extractable"
check "every secret key is sensitive" all "Secret Key Object" sensitive
# private ATTRIBUTE VALUE: every private key has it, in SoftHSM's own files.
private() {
    for file in "$work"/tokens/*/*.object; do
        softhsm2-dump-file "$file" | grep -q CKO_PRIVATE_KEY || continue
        softhsm2-dump-file "$file" | grep -A 2 " $1\$" | tail -n 1 | grep -q " $2\$" || return 1
    done
}
check "softhsm2-dump-file: every private key is sensitive" private CKA_SENSITIVE TRUE
check "softhsm2-dump-file: no private key is extractable" private CKA_EXTRACTABLE FALSE
check "openssl verifies a signature" \
    openssl dgst -sha256 -verify "$work/key.pem" -signature "$work/signature" "$work/message"
finish
