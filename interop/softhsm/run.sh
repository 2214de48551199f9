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

check "keys, contract, 70,000 signatures, threads, token taken away, wrong PIN" \
    cargo test --offline --quiet --package gose-backend --features pkcs11,__judges --test pkcs11 -- --nocapture

pkcs11-tool --module "$module" --token-label gose --login --pin 1234 --list-objects --type privkey \
    >"$work/private" 2>/dev/null
check "pkcs11-tool sees the keys" grep -q 'GoSE ' "$work/private"
check "every one is sensitive and was never extractable" sh -c \
    "test \$(grep -c 'Private Key Object' $work/private) = \$(grep -c 'sensitive, always sensitive, never extractable' $work/private)"
check "openssl verifies a signature" \
    openssl dgst -sha256 -verify "$work/key.pem" -signature "$work/signature" "$work/message"
finish
