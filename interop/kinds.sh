# Sourced after begin.sh and node.sh: a node called node with elements of every kind, another one behind it called far,
# and how each kind is taken away and brought back.

# A TPM.
mkdir "$work/tpm"
swtpm_setup --tpm2 --tpmstate "$work/tpm" --createek --overwrite >"$work/daemons.log" 2>&1
tpm() {
    daemon swtpm socket --tpm2 --tpmstate "dir=$work/tpm" \
        --ctrl type=tcp,port=2322,bindaddr=127.0.0.1 --server type=tcp,port=2321,bindaddr=127.0.0.1 \
        --flags not-need-init,startup-clear
    swtpm=${daemons##* }
    until_ready sh -c 'ss -ltn | grep -q 127.0.0.1:2321'
}
tpm
# An HSM.
mkdir "$work/tokens"
printf 'directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n' "$work/tokens" >"$work/softhsm2.conf"
export SOFTHSM2_CONF="$work/softhsm2.conf"
softhsm2-util --init-token --free --label gose --pin 1234 --so-pin 5678 >/dev/null

# A remote grid, which knows this node by its certificate.
mkdir "$work/far" "$work/node"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj "/CN=test root" \
    -keyout "$work/root.key" -out "$work/root.pem" 2>/dev/null
for name in far node; do
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$name" \
        -keyout "$work/$name/node.key" -out "$work/$name.csr" 2>/dev/null
    printf 'subjectAltName = DNS:localhost\nextendedKeyUsage = serverAuth, clientAuth\n' >"$work/extensions"
    openssl x509 -req -in "$work/$name.csr" -CA "$work/root.pem" -CAkey "$work/root.key" -days 30 \
        -extfile "$work/extensions" -out "$work/$name/node.pem" 2>/dev/null
    chmod 600 "$work/$name/node.key"
    cp "$work/root.pem" "$work/$name/"
done
tls='[tls]
certificate-file = "node.pem"
key = { file = "node.key" }
client-anchor-files = ["root.pem"]
user-anchor-files = ["root.pem"]
node-anchor-files = ["root.pem"]'
cat >"$work/far.toml" <<EOF
[listen]
address = "127.0.0.1:7777"
$tls
[[slot]]
seid = "card"
kind = "software"
[[slot]]
seid = "there"
kind = "software"
[[slot]]
seid = "known"
kind = "software"
[[user]]
cn = "node"
seid = ["there"]
role = "admin"
EOF
node far "$work/far.toml"
far=${daemons##* }
(socket="$work/far/admin.sock" equip known p256 9A)

# A card in a reader: another element of the far node plays it. In the other reader a card that OpenSC knows, whose keys
# are those of a card of the near node; OpenSC leaves the first reader alone.
readers
pcscd=${daemons##* }
plug() { daemon gose reader "$1" --socket "$work/far/admin.sock" --vpcd "127.0.0.1:$2"; }
holds_card() { opensc-tool --list-readers | grep -q "Yes .*Virtual PCD 00 $1"; }
plug card 35963
card=${daemons##* }
plug known 35964
known=${daemons##* }
until_ready holds_card 00
until_ready holds_card 01
printf 'app default { ignored_readers = "Virtual PCD 00 00"; }\n' >"$work/opensc.conf"
pin known >"$work/node/known.pin"
chmod 600 "$work/node/known.pin"

printf 1234 >"$work/node/hsm.pin"
printf 'known to this node alone' >"$work/node/tpm.auth"
chmod 600 "$work/node/hsm.pin" "$work/node/tpm.auth"
cat >"$work/node.toml" <<EOF
$tls
[[key-store]]
name = "chip"
kind = "tpm"
swtpm = "127.0.0.1:2321"
auth-file = "tpm.auth"
[[key-store]]
name = "hsm"
kind = "pkcs11"
uri = "pkcs11:token=gose?module-path=/usr/lib/softhsm/libsofthsm2.so"
pin-file = "hsm.pin"
[[key-store]]
name = "known"
kind = "pkcs11"
uri = "pkcs11:slot-id=0?module-path=/usr/lib/x86_64-linux-gnu/opensc-pkcs11.so"
pin-file = "known.pin"
sessions = 1
[[slot]]
seid = "software"
kind = "software"
[[slot]]
seid = "tpm"
kind = "software"
keys = "chip"
[[slot]]
seid = "hsm"
kind = "software"
keys = "hsm"
[[slot]]
seid = "reader"
kind = "pcsc"
reader = "^Virtual PCD 00 00"
[[slot]]
seid = "remote"
kind = "remote"
node = "localhost:7777"
remote-seid = "there"
[[slot]]
seid = "opensc"
kind = "software"
keys = "known"
adopt = { 9A = "01" }
EOF
OPENSC_CONF="$work/opensc.conf" node node "$work/node.toml" chip
running=${daemons##* }
