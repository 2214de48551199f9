#!/bin/sh
# docs/guide/pkcs11.md as it is written: each block of commands is a case; they share a shell's variables and folder.
. "$(dirname "$0")/../begin.sh"
. "$folder/world.sh"
unset GOSE_PKCS11_CONF
grid web
equip web p256 9A
mkdir -p /etc/gose "$work/guide"
mount -t tmpfs tmpfs /etc/gose
mount -t tmpfs tmpfs /usr/lib/x86_64-linux-gnu/pkcs11
cp "$module" /usr/lib/x86_64-linux-gnu/pkcs11/libgose_pkcs11.so
cp "$work/guest.pem" "$work/guest.key" "$work/root.pem" /etc/gose/
cp "$work/web.9A.pem" /etc/gose/web.pem
pin web >/etc/gose/web.pin
chmod 711 "$work" "$work/guide"
awk -v folder="$work" '
    /^```sh$/ { block++; name = folder "/block" block ".sh"; printf "" >name; inside = 1; next }
    /^```$/ { inside = 0 }
    inside { print >>name }
    /^## / && !inside { print substr($0, 4) >(folder "/title" block + 1) }
' "$root/docs/guide/pkcs11.md"
cd "$work/guide"
umask 022
number=1
while [ -f "$work/block$number.sh" ]; do
    title=$(tail -1 "$work/title$number" 2>/dev/null || echo 'the same')
    # Each block goes on where the last one ended.
    cat "$work/before" "$work/block$number.sh" >"$work/run.sh" 2>/dev/null || cp "$work/block$number.sh" "$work/run.sh"
    check "$number. $title" sh -euc ". $work/run.sh"
    grep -hE '^(export )?[A-Z][A-Z0-9_]*=' "$work/block$number.sh" >>"$work/before" || :
    number=$((number + 1))
done
cat "$work/guide/logs/error.log" 2>/dev/null | grep -i 'emerg\|alert' || :
finish
