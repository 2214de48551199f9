#!/bin/sh
# pcscd with virtual readers (vsmartcard): the element contract and everything that can happen to a reader.
. "$(dirname "$0")/../begin.sh"

mkdir "$work/readers"
cat >"$work/readers/vpcd" <<EOF
FRIENDLYNAME "Virtual PCD (70D7E2EE)"
DEVICENAME /dev/null:0x8C7B
LIBPATH /usr/lib/pcsc/drivers/serial/libifdvpcd.so
CHANNELID 0x8C7B
EOF
mkdir "$work/many"
for driver in 0 1 2 3 4 5 6 7 8; do
    # The driver keeps its two slots in static memory: each pair has a library of its own.
    cp /usr/lib/pcsc/drivers/serial/libifdvpcd.so "$work/$driver.so"
    port=$(printf '0x%04X' $((35963 + 2 * driver)))
    name="Place $driver"
    [ "$driver" != 8 ] || name=Last
    cat >>"$work/many/vpcd" <<EOF
FRIENDLYNAME "$name"
DEVICENAME /dev/null:$port
LIBPATH $work/$driver.so
CHANNELID $port
EOF
done
export GOSE_TEST_READERS="$work/readers" GOSE_TEST_MANY_READERS="$work/many"
check "contract, names, numbers of cards, owners, comings and goings, restart, every place taken" \
    cargo test --offline --quiet --package gose-backend --features pcsc,vpcd,__judges --test pcsc -- --nocapture
finish
