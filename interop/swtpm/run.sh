#!/bin/sh
# swtpm: keys in a TPM 2.0, the element contract on them, and tpm2-tools as the judge.
. "$(dirname "$0")/../begin.sh"

mkdir "$work/tpm"
swtpm_setup --tpm2 --tpmstate "$work/tpm" --createek --overwrite >"$work/daemons.log" 2>&1
daemon swtpm socket --tpm2 --tpmstate "dir=$work/tpm" \
    --ctrl type=tcp,port=2322,bindaddr=127.0.0.1 --server type=tcp,port=2321,bindaddr=127.0.0.1 \
    --flags not-need-init,startup-clear
until_ready sh -c 'ss -ltn | grep -q 127.0.0.1:2321'
export GOSE_TEST_SWTPM=127.0.0.1:2321 GOSE_TEST_OUTPUT="$work"

check "keys, contract, sealing, certification, lockout" \
    cargo test --offline --quiet --package gose-backend --features tpm,__judges --test tpm -- --nocapture

# What the TPM signed and certified, judged by others than AWS-LC. The lockout is lifted first.
export TPM2TOOLS_TCTI=swtpm:host=127.0.0.1,port=2321
check "openssl verifies a signature" \
    openssl dgst -sha256 -verify "$work/key.pem" -signature "$work/signature" "$work/message"
check "openssl verifies the TPM's certification" \
    openssl dgst -sha256 -verify "$work/attestation.pem" -signature "$work/certified.signature" "$work/certified"
# tpm2_print names the fields that all statements have, then gives up at those of a certification.
check "tpm2-tools find the nonce in the certification" \
    sh -c "tpm2_print -t TPMS_ATTEST $work/certified 2>&1 | grep -q 'extraData: $(printf 'a nonce' | od -An -tx1 | tr -d ' \n')'"
check "tpm2-tools lift the lockout" tpm2_dictionarylockout --clear-lockout
check "tpm2-tools see three free places" \
    sh -c 'test -z "$(tpm2_getcap handles-transient)"'
finish
