#!/bin/sh
# A daemon with four elements in readers of a real pcscd (vsmartcard) and one in software, under load: one card is
# removed, mute, slow, lies, answers junk; then pcscd is killed. GOSE_TEST_LONG=1 asks for the long form.
. "$(dirname "$0")/../begin.sh"

mkdir "$work/readers"
for reader in "First 0x8C7B" "Second 0x8C7D"; do
    set -- $reader
    # The driver keeps its two slots in static memory: each pair has a library of its own.
    cp /usr/lib/pcsc/drivers/serial/libifdvpcd.so "$work/$1.so"
    cat >>"$work/readers/vpcd" <<CONF
FRIENDLYNAME "$1"
DEVICENAME /dev/null:$2
LIBPATH $work/$1.so
CHANNELID $2
CONF
done
export GOSE_TEST_READERS="$work/readers"
check "one reader that fails, pcscd killed: errors there alone, and back in time" \
    cargo test --offline --quiet --package gosed --features __judges --test readers -- --nocapture
grep -E ' ms  | us$|back after|^fault' "$work/case.log" || :
finish
