#!/bin/sh
# pcscd with virtual readers (vsmartcard): the element contract and everything that can happen to a reader.
. "$(dirname "$0")/../begin.sh"

mkdir "$work/readers"
cat >"$work/readers/vpcd" <<EOF
FRIENDLYNAME "Virtual PCD"
DEVICENAME /dev/null:0x8C7B
LIBPATH /usr/lib/pcsc/drivers/serial/libifdvpcd.so
CHANNELID 0x8C7B
EOF
export GOSE_TEST_READERS="$work/readers"
check "contract, names, owners, comings and goings, restart" \
    cargo test --offline --quiet --package gose-backend --features pcsc,vpcd,__judges --test pcsc -- --nocapture
finish
