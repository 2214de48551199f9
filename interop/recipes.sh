# Sourced after begin.sh and world.sh: pages of docs/guide as they are written, in a guest whose service runs. The reader
# has a node, an element that is initialised and empty, and an authority that signs requests.
unset GOSE_PKCS11_CONF
engine=/usr/lib/x86_64-linux-gnu
# guest SEID …: what stands in /etc/gose before a page begins.
guest() {
    grid "$@"
    mkdir -p /etc/gose /run/gose
    mount -t tmpfs -o mode=755 tmpfs /etc/gose
    mount -t tmpfs -o mode=755 tmpfs "$engine/pkcs11"
    cp "$module" "$engine/pkcs11/libgose_pkcs11.so"
    cp "$work/root.pem" /etc/gose/ca.pem
    cp "$work/root.key" /etc/gose/ca.key
    ln -s "$grid/admin.sock" /run/gose/admin.sock
    for seid; do
        gose element init "$seid" --socket "$grid/admin.sock" --secrets-file "/etc/gose/$seid.secrets" >/dev/null
        sed -n 's/^piv-pin = "\(.*\)"$/\1/p' "/etc/gose/$seid.secrets" >"/etc/gose/$seid.pin"
    done
    service '[[user]]
user = "root"
seid = ["*"]
[[user]]
user = "www-data"
seid = ["web"]
[[user]]
user = "nobody"
seid = ["web"]
[listen]
group = "www-data"'
}

# recipe NAME: each block of commands of docs/guide/NAME.md is a case; they share a folder and exported variables.
recipe() {
    mkdir -p "$work/$1"
    chmod 711 "$work"; chmod 755 "$work/$1"
    awk -v folder="$work/$1" '
        /^```sh$/ { block++; name = folder "/block" block ".run"; printf "" >name; inside = 1; next }
        /^```$/ { inside = 0 }
        inside { print >>name }
        /^## / && !inside { print substr($0, 4) >(folder "/block" block + 1 ".title") }
    ' "$root/docs/guide/$1.md"
    number=1 title=
    while [ -f "$work/$1/block$number.run" ]; do
        title=$(tail -1 "$work/$1/block$number.title" 2>/dev/null || echo "$title")
        printf 'umask 022\ncd %s\n[ ! -f variables ] || . ./variables\n. ./block%s.run\nexport -p >variables\n' "$work/$1" $number >"$work/run.sh"
        check "$1.md $number. $title" sh -eu "$work/run.sh"
        number=$((number + 1))
    done
    [ $number -gt 1 ] || { echo "docs/guide/$1.md has no commands"; exit 1; }
}
