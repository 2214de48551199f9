#!/bin/sh
# pyscard, and Yubico's library yubikit over it, on an element that `gose element plug` puts into a reader of pcscd.
# Debian's Python, whose packages they are.
. "$(dirname "$0")/../begin.sh"
. "$folder/../node.sh"

cat >"$work/slots.toml" <<EOF
[[slot]]
seid = "EC"
kind = "software"
EOF
node node "$work/slots.toml"
equip EC p256 9A 9C
gose key generate EC F9 --socket "$socket" --secrets "$work/EC.secrets" >/dev/null
readers
plug() {
    daemon gose element plug EC --socket "$socket" --vpcd 127.0.0.1:35963
    plugged=$!
    until_ready sh -c 'opensc-tool --list-readers | grep -q Yes'
}
plug
judge() { /usr/bin/python3 "$folder/judge.py" "$1" "$work/EC.secrets"; }
check "pyscard: reader, ATR, SELECT" judge recognises
check "pyscard: long answers by 61xx and by extended length" judge long_answers
check "pyscard: PIN and signature by hand" judge signs
check "pyscard: a reset forgets the PIN" judge resets
check "pyscard: one program alone" judge excludes

# The card leaves and comes back under a program that watches.
watches() {
    mkfifo "$work/said"
    judge monitors >"$work/said" 2>"$work/monitor.log" &
    monitor=$!
    read -r said <"$work/said" && test "$said" = ready || { cat "$work/monitor.log"; return 1; }
    kill "$plugged" && wait "$plugged" || :
    until_ready sh -c '! opensc-tool --list-readers | grep -q Yes'
    # pyscard looks once in a while only.
    sleep 2
    plug
    wait "$monitor" || { cat "$work/monitor.log"; return 1; }
}
check "pyscard: a card leaves and comes back" watches
check "yubikit: version, serial number, metadata" judge introduces
check "yubikit: PIN and PUK" judge pins
check "yubikit: makes keys and uses them" judge generates
check "yubikit: takes keys in and uses them" judge imports
check "yubikit: attestation" judge attests
check "yubikit: certificates" judge certificates
check "yubikit: another management key" judge rekeys

# What `gosed readers` tells of the card is all that another node needs: the slot is called by the number.
by_number() {
    number=$(gosed readers | sed -n 's/^    card = "\(.\{32\}\)"$/\1/p')
    gosed readers --json | grep -q "\"$number\"" || return 1
    printf '[[slot]]\nkind = "pcsc"\ncard = "%s"\n' "$number" >"$work/number.toml"
    # The secrets name the element that they are of.
    (umask 077 && sed "s/\"EC\"/\"$number\"/" "$work/EC.secrets" >"$work/second.secrets")
    node second "$work/number.toml"
    gose element list --socket "$work/second/admin.sock" | grep -q "$number" &&
        gose key csr "$number" 9A --name second --out "$work/second.csr" --socket "$work/second/admin.sock" \
            --secrets "$work/second.secrets" &&
        openssl req -in "$work/second.csr" -verify -noout &&
        openssl req -in "$work/second.csr" -pubkey -noout | cmp - "$work/EC.9A.pem"
}
check "gosed readers tells the card's number, and a slot that is called by it signs" by_number
finish
