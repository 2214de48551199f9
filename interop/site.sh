# Sourced after node.sh by judges of a whole site: an authority whose key is in an element, nodes' keys and certificates,
# elements with identities.
# The site's authority: its key is in an element.
mkdir "$work/pki"
printf '[[slot]]\nseid = "CA"\nkind = "software"\n' >"$work/pki.toml"
node pki "$work/pki.toml"
ca="--socket $work/pki/admin.sock --secrets $work/CA.secrets"
{
    gose element init CA --socket "$work/pki/admin.sock" --secrets-file "$work/CA.secrets"
    gose key generate CA 9C $ca
} >/dev/null
gose pki init "$work/authority" --seid CA --name "Test site" $ca >"$work/ca.pem"

# issue KIND NAME REQUEST OPTIONS: a certificate from the authority.
issue() { kind=$1 name=$2 request=$3; shift 3; gose pki issue "$work/authority" "$request" --kind "$kind" --out "$work/$name.pem" "$@" $ca >/dev/null; }
# with_file NODE KIND OPTIONS: a node's TLS key in a file.
with_file() {
    at=$1 kind=$2; shift 2
    mkdir -p "$work/$at"
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -subj "/CN=$at" \
        -keyout "$work/$at/node.key" -out "$work/$at.csr" 2>/dev/null
    chmod 600 "$work/$at/node.key"
    issue "$kind" "$at" "$work/$at.csr" "$@"
    cp "$work/$at.pem" "$work/$at/node.pem"
    cp "$work/ca.pem" "$work/$at/ca.pem"
}
tls='[tls]
certificate-file = "node.pem"
key = { file = "node.key" }
client-anchor-files = ["ca.pem"]
user-anchor-files = ["ca.pem"]
node-anchor-files = ["ca.pem"]
trust-domain = "test.site"'

# init NODE SEID; identity NODE SEID KIND LABEL ROLE: a key made in the element, its certificate, an identity.
init() { gose element init "$2" --socket "$work/$1/admin.sock" --secrets-file "$work/$2.secrets" >/dev/null; }
identity() {
    at="--socket $work/$1/admin.sock --secrets $work/$2.secrets"
    gose key generate "$2" 9A $at >/dev/null
    gose key csr "$2" 9A --name "$2" $at --out "$work/$2.csr"
    case $3 in
    eap-server) issue eap-server "$2" "$work/$2.csr" --san auth.test.site ;;
    *) issue "$3" "$2" "$work/$2.csr" ;;
    esac
    gose identity add "$2" "$4" --role "$5" --chain "$work/$2.pem" --anchors "$work/ca.pem" $at >/dev/null
    sed -n 's/^bearer-pin = "\(.*\)"/\1/p' "$work/$2.secrets" >"$work/$2.pin"
    chmod 600 "$work/$2.pin"
}
