#!/bin/sh
# Guests in network namespaces, each with a link to the hypervisor node and nothing else. Judges: the kernel's
# network, and openssl, which verifies what tokens say. A guest here is root in its namespace and tries what a list says.
. "$(dirname "$0")/../begin.sh"
. "$folder/../node.sh"
unset GOSE_SECRETS

. "$folder/../site.sh"

with_file grid server --san localhost
with_file auth server --san localhost
with_file hv hv --spiffe spiffe://test.site/hv/hv-1 --san localhost

# The grid with the guests' elements.
cat >"$work/grid.toml" <<END
[listen]
address = "127.0.0.1:7777"
$tls
[[slot]]
seid = "SE-A"
kind = "software"
default = "allow"
[[slot]]
seid = "SE-B"
kind = "software"
default = "allow"
[[slot]]
seid = "SE-P"
kind = "software"
default = "allow"
[[slot]]
seid = "SE-Q"
kind = "software"
default = "allow"
[[user]]
id = "spiffe://test.site/hv/hv-1"
seid = ["SE-A", "SE-B", "SE-P", "SE-Q"]
role = "admin"
END
node grid "$work/grid.toml"
for seid in SE-A SE-B; do init grid "$seid"; identity grid "$seid" eap-client guest peer; done
# Two more for a pool: what opens them is the hypervisor's.
mkdir -p "$work/hv/pool"
for seid in SE-P SE-Q; do init grid "$seid"; cp "$work/$seid.secrets" "$work/hv/pool/"; done

# The authentication server.
printf '[[slot]]\nseid = "AS1"\nkind = "software"\n' >"$work/auth.toml"
node auth "$work/auth.toml"
init auth AS1; identity auth AS1 eap-server server authenticator
cp "$work/AS1.pin" "$work/auth/pin"; chmod 600 "$work/auth/pin"
kill "${daemons##* }"; wait "${daemons##* }" || :
cat >>"$work/auth/gosed.toml" <<END
[listen]
address = "127.0.0.1:7787"
$tls
[authentication-server]
elements = ["AS1"]
identity = "server"
pin = "file:pin"
callers = ["spiffe://test.site/hv/hv-1"]
allow = ["SE-A", "SE-B"]
END
start auth

# The hypervisor: its element signs tokens.
printf '[[slot]]\nseid = "HV"\nkind = "software"\n' >"$work/hv.toml"
node hv "$work/hv.toml"
init hv HV
own="--socket $work/hv/admin.sock --secrets $work/HV.secrets"
gose key generate HV 9C $own >/dev/null
gose key csr HV 9C --name hv-1 $own --out "$work/hv-ca.csr"
issue hv-ca hv-ca "$work/hv-ca.csr" --spiffe spiffe://test.site/hv/hv-1
cp "$work/hv-ca.pem" "$work/hv/"
pin HV >"$work/hv/pin"; chmod 600 "$work/hv/pin"
kill "${daemons##* }"; wait "${daemons##* }" || :
cat >>"$work/hv/gosed.toml" <<END
[listen]
address = "127.0.0.1:7797"
$tls
[[slot]]
seid = "SE-A"
kind = "remote"
node = "localhost:7777"
default = "allow"
[[slot]]
seid = "SE-B"
kind = "remote"
node = "localhost:7777"
default = "allow"
[[slot]]
seid = "SE-P"
kind = "remote"
node = "localhost:7777"
default = "allow"
[[slot]]
seid = "SE-Q"
kind = "remote"
node = "localhost:7777"
default = "allow"
[hypervisor]
driver = "namespace"
join-folder = "join"
ca-certificate-file = "hv-ca.pem"
ca-key = { seid = "HV", slot = "9C", pin = "file:pin" }
name = "localhost"
guest-anchor-files = ["ca.pem"]
generation-file = "generations.json"
authentication-server = { node = "localhost:7787", name = "localhost" }
[[hypervisor.image]]
name = "idle"
command = ["sleep", "600"]
[[hypervisor.image]]
name = "measured"
kernel = "guest"
kernel-sha256 = "$(sha256sum /bin/sleep | cut -d' ' -f1)"
command = ["600"]
[[hypervisor.pool]]
name = "cards"
seid = ["SE-P", "SE-Q"]
secrets-folder = "pool"
[[hypervisor.creator]]
user = "alice"
quota = 2
image = ["measured"]
pool = ["cards"]
memory-mib = 512
END
cp /bin/sleep "$work/hv/guest"
start hv
hv=${daemons##* }

A=00000000-0000-4000-8000-00000000000a
B=00000000-0000-4000-8000-00000000000b
create() { gose vm create idle --seid "$1" --uuid "$2" --socket "$work/hv/admin.sock"; }
# in_guest UUID COMMAND …: as root of the guest.
in_guest() {
    uuid=$1; shift
    ip netns exec "gose-$uuid" env GOSE_JOIN="$work/hv/join/$uuid/join.json" "$@"
}
log_has() { sed 's/\x1b\[[0-9;]*m//g' "$work/daemons.log" | grep -q "$1"; }
fails() { ! "$@"; }

begun=$(date +%s%N)
check "the hypervisor creates guest A" create SE-A "$A"
echo "       created in $((($(date +%s%N) - begun) / 1000000)) ms, the command line's start included"
check "the hypervisor creates guest B" create SE-B "$B"
check "an element is bound to one guest" fails create SE-A 00000000-0000-4000-8000-00000000000c

# Phase 1: attach.
check "guest A attaches and shows its token" in_guest "$A" gose guest token --out "$work/token-a.pem"
check "openssl reads the token: its name is the guest's" sh -c \
    "openssl x509 -in $work/token-a.pem -noout -ext subjectAltName | grep -q spiffe://test.site/hv/hv-1/vm/$A"
check "openssl verifies the token's chain" openssl verify -CAfile "$work/ca.pem" -untrusted "$work/token-a.pem" "$work/token-a.pem"
check "guest A joins again with the next secret" in_guest "$A" gose guest token
check "guest A sees its own element alone" sh -c \
    "test \"\$(ip netns exec gose-$A gose element list --join $work/hv/join/$A/join.json)\" = SE-A"
check "guest A powers its element" in_guest "$A" gose element info SE-A
check "guest A gets an identity token for its element's key" in_guest "$A" gose guest identity --out "$work/identity-a.pem"
check "the identity token carries the key in the element" sh -c \
    "test \"\$(openssl x509 -in $work/identity-a.pem -noout -pubkey)\" = \"\$(openssl x509 -in $work/SE-A.pem -noout -pubkey)\""

# Phase 2: EAP-TLS inside the element, over the guest's channel.
check "guest A authenticates by EAP-TLS in its element, then resumes" sh -c \
    "ip netns exec gose-$A gose guest authenticate SE-A guest --count 2 --join $work/hv/join/$A/join.json \
 --bearer-pin-source file:$work/SE-A.pin | tee /dev/stderr | tr '\n' ' ' | grep -q ' full,.* resumed,'"

# The guest service joins, and programs of the guest come to it.
mkdir "$work/service"
cat >"$work/service/guest.toml" <<END
version = 1
join-file = "$work/hv/join/$A/join.json"
[listen]
socket = "guest.sock"
END
daemon ip netns exec "gose-$A" gose guest serve --config "$work/service/guest.toml"
until_ready test -S "$work/service/guest.sock"
check "guest A's service attaches and lists its element" sh -c \
    "test \"\$(gose element list --socket $work/service/guest.sock)\" = SE-A"
check "guest A's element signs through it" sh -c \
    "gose key csr SE-A 9A --name A --out $work/a.csr --socket $work/service/guest.sock --secrets $work/SE-A.secrets &&
     openssl req -in $work/a.csr -noout -verify"
check "and knows nothing of B's" fails gose element power SE-B --socket "$work/service/guest.sock"
kill "${daemons##* }"

# Isolation: A is root in its namespace.
host_a=169.254.1.1
host_b=169.254.1.5
guest_b=169.254.1.6
# reaches ADDRESS PORT: a TCP connection comes about.
reaches() { ip netns exec "gose-$A" timeout 3 bash -c "exec 3<>/dev/tcp/$1/$2"; }
check "A reaches its own listener" reaches "$host_a" 7778
ip -n "gose-$A" route add default via "$host_a"
check "A does not reach B's listener by its address" fails reaches "$host_b" 7778
check "A does not reach B's attach endpoint by its address" fails reaches "$host_b" 7779
ip -n "gose-$A" address add "$guest_b/30" dev eth0
check "nor with B's address" fails reaches "$host_b" 7779
mac=$(ip netns exec "gose-$B" cat /sys/class/net/eth0/address)
ip -n "gose-$A" link set eth0 down; ip -n "gose-$A" link set eth0 address "$mac"; ip -n "gose-$A" link set eth0 up
ip -n "gose-$A" route add default via "$host_a" 2>/dev/null || :
check "nor with B's MAC address" fails reaches "$host_b" 7779
# A has B's join record, as if B had leaked it, and takes it to the only endpoint that it reaches.
sed "s/$host_b/$host_a/" "$work/hv/join/$B/join.json" >"$work/stolen.json"; chmod 600 "$work/stolen.json"
check "B's join secret is worth nothing on A's link" fails ip netns exec "gose-$A" gose guest token --join "$work/stolen.json"
check "the refusal is in the log" log_has "vm=$A.*secret\|vm=$A.*join"
check "A asks for B's element" fails in_guest "$A" gose element power SE-B
check "A asks for an element that is not there, and gets the same answer" sh -c "
    ip netns exec gose-$A gose element power SE-B --join $work/hv/join/$A/join.json 2>$work/b
    ip netns exec gose-$A gose element power SE-X --join $work/hv/join/$A/join.json 2>$work/x
    test -s $work/b && cmp $work/b $work/x"
check "A does not manage the node" fails in_guest "$A" gose vm list
check "A reaches no other service of the node without a certificate" fails in_guest "$A" gose element list --node "$host_a:7797"
# A holds all the connections that it may and more.
flood() { ip netns exec "gose-$A" bash -c "for i in \$(seq 64); do eval \"exec \$((i + 9))<>/dev/tcp/$host_a/7778\"; done 2>/dev/null; sleep 20" & }
flood; flooding=$!
sleep 1
check "B works while A floods its own listener" in_guest "$B" gose element info SE-B
check "B authenticates meanwhile" in_guest "$B" gose guest authenticate SE-B guest --bearer-pin-source "file:$work/SE-B.pin"
kill "$flooding" 2>/dev/null || :; wait "$flooding" 2>/dev/null || :

# The end of a guest.
cp "$work/hv/join/$B/join.json" "$work/old.json"
check "guest B is destroyed" gose vm destroy "$B" --socket "$work/hv/admin.sock"
gone() { ! ip netns list | grep -q "$B" && [ ! -e "$work/hv/join/$B" ]; }
check "its namespace, link and join record are gone" until_ready gone
check "guest B is created again" create SE-B "$B"
sed "s/\"host\":\"[0-9.]*\"/\"host\":\"$host_b\"/" "$work/old.json" >"$work/old-b.json"
check "the secret of its former life does not count" fails ip netns exec "gose-$B" gose guest token --join "$work/old-b.json"
check "the new one does, with the next generation" in_guest "$B" gose guest token
check "generation 2 is listed" sh -c "gose vm list --socket $work/hv/admin.sock | grep '$B' | grep -q 'generation 2'"

# A user creates: she authenticates by mutual TLS, with a key that is in an element of her own.
printf '[[slot]]\nseid = "ALICE"\nkind = "software"\n' >"$work/alice.toml"
node alice "$work/alice.toml"
init alice ALICE
hers="--socket $work/alice/admin.sock --secrets $work/ALICE.secrets"
gose key generate ALICE 9A $hers >/dev/null
gose key csr ALICE 9A --name alice $hers --out "$work/alice.csr"
issue client alice "$work/alice.csr"
pin ALICE >"$work/alice.pin"; chmod 600 "$work/alice.pin"
cat >"$work/web.toml" <<END
image = "measured"
name = "web"
pool = "cards"
memory-mib = 512
END
alice() {
    verb=$1; shift
    gose vm "$verb" "$@" --node localhost:7797 --ca "$work/ca.pem" --cert "$work/alice.pem" \
        --key element:ALICE/9A --key-socket "$work/alice/admin.sock" --key-pin-source "file:$work/alice.pin"
}
uuid_of() { gose vm show "$1" --json --socket "$work/hv/admin.sock" | sed 's/.*"uuid":"\([^"]*\)".*/\1/'; }
state_of() { gose vm show "$1" --json --socket "$work/hv/admin.sock" 2>/dev/null | sed 's/.*"state":"\([^"]*\)".*/\1/'; }
check "alice creates a guest with an element of the pool, by a key in her own element" alice create "$work/web.toml"
web=$(uuid_of web)
check "what runs is the copy that was hashed" sh -c "
    pid=\$(ip netns pids gose-$web | head -1)
    test \$(sha256sum /proc/\$pid/exe | cut -d' ' -f1) = \$(sha256sum /bin/sleep | cut -d' ' -f1)
    readlink /proc/\$pid/exe | grep -q machines/boot"
check "its guest gets an identity token for the key that was made for it" in_guest "$web" gose guest identity --out "$work/web.pem"
check "openssl verifies the identity token's chain" openssl verify -purpose sslclient -CAfile "$work/ca.pem" -untrusted "$work/web.pem" "$work/web.pem"
in_guest "$web" gose guest pin SE-P >"$work/web.pin" 2>/dev/null; chmod 600 "$work/web.pin"
check "its guest signs by the PIN that it was told" in_guest "$web" gose key csr SE-P 9A --name web --pin-source "file:$work/web.pin" --out "$work/web.csr"
check "openssl verifies that signature, under the token's key" sh -c "
    openssl req -in $work/web.csr -noout -verify && test \"\$(openssl req -in $work/web.csr -noout -pubkey)\" = \"\$(openssl x509 -in $work/web.pem -noout -pubkey)\""
check "alice may not run another image" fails alice create idle --pool cards
check "alice may not bind an element that she was not given" fails alice create measured --seid SE-A
check "alice may not have more memory" fails alice create measured --memory-mib 1024
check "nobody has a second guest of one name" fails alice create "$work/web.toml"
check "the log says why" log_has 'may not run image "idle"\|may not run image'
with_file mallory client
check "a user whom no rule names creates nothing" fails gose vm create "$work/web.toml" --name other --node localhost:7797 \
    --ca "$work/ca.pem" --cert "$work/mallory/node.pem" --key "$work/mallory/node.key"
echo changed >>"$work/hv/guest"
check "an image that was changed does not boot" fails alice create "$work/web.toml" --name other
cp /bin/sleep "$work/hv/guest"

# Its life.
check "alice pauses it" alice pause web
in_state() { test "$(cut -d' ' -f3 /proc/"$(ip netns pids "gose-$web" | head -1)"/stat)" = "$1"; }
check "its processes are held" in_state T
check "it gets no session while it is paused" fails in_guest "$web" gose guest token
check "alice resumes it" alice resume web
check "it attaches again with the next secret" in_guest "$web" gose guest token
cp "$work/hv/join/$web/join.json" "$work/web.json"
check "alice stops it" alice stop web
check "nothing of it runs" fails ip netns exec "gose-$web" true
check "alice starts it: generation 2, the same element" sh -c "$(command -v gose) vm start web --socket $work/hv/admin.sock | grep 'generation 2' | grep -q SE-P"
sed "s/\"host\":\"[0-9.]*\"/\"host\":\"$(sed 's/.*"host":"\([0-9.]*\)".*/\1/' "$work/hv/join/$web/join.json")\"/" "$work/web.json" >"$work/old-web.json"; chmod 600 "$work/old-web.json"
check "a snapshot's secret does not count" fails ip netns exec "gose-$web" gose guest token --join "$work/old-web.json"
check "the new one does" in_guest "$web" gose guest token
check "alice destroys it" alice destroy web
check "another guest gets the element" alice create "$work/web.toml" --name next
next=$(uuid_of next)
check "the PIN of the guest before is worth nothing" fails in_guest "$next" gose key csr SE-P 9A --name web --pin-source "file:$work/web.pin" --out "$work/no.csr"
check "alice destroys that too" alice destroy next

# The middleware is killed at each step of create and destroy; after a restart nothing is half bound.
# killed STEP VERB …: runs a command of the command line and kills the node when its log tells the step.
killed() {
    step=$1; shift
    seen=$(wc -c <"$work/daemons.log")
    "$@" --socket "$work/hv/admin.sock" >/dev/null 2>&1 &
    asked=$!
    for _ in $(seq 4000); do
        if tail -c "+$((seen + 1))" "$work/daemons.log" | sed 's/\x1b\[[0-9;]*m//g' | grep -q "step=\"$step\""; then break; fi
        sleep 0.002
    done
    kill -9 "$hv"; wait "$hv" 2>/dev/null || :; wait "$asked" 2>/dev/null || :
    rm -f "$work/hv/admin.sock"
    start hv; hv=${daemons##* }
    tail -c "+$((seen + 1))" "$work/daemons.log" | sed 's/\x1b\[[0-9;]*m//g' | grep -q "step=\"$step\""
}
no_machine() { test "$(gose vm list --json --socket "$work/hv/admin.sock")" = "[]"; }
# nothing_left: within ten seconds of the restart no machine, no namespace, no join record, and both elements of the pool can be given.
nothing_left() {
    for _ in $(seq 200); do if no_machine; then break; fi; sleep 0.05; done
    no_machine && ! ip netns list | grep -q . && test -z "$(ls "$work/hv/join")" && test -z "$(ls "$work/hv/machines" | grep json)" &&
        gose vm create measured --name p --pool cards --socket "$work/hv/admin.sock" &&
        gose vm create measured --name q --pool cards --socket "$work/hv/admin.sock" &&
        gose vm destroy p --socket "$work/hv/admin.sock" && gose vm destroy q --socket "$work/hv/admin.sock"
}
for uuid in $(gose vm list --json --socket "$work/hv/admin.sock" | grep -o '"uuid":"[^"]*"' | cut -d'"' -f4); do
    gose vm destroy "$uuid" --socket "$work/hv/admin.sock" >/dev/null
done
for step in recorded counted bound ticketed built; do
    check "killed in create after \"$step\": the step was reached" killed "$step" gose vm create measured --name x --pool cards
    check "killed in create after \"$step\": nothing is half bound" nothing_left
done
for step in destroying revoked taken-down released; do
    gose vm create measured --name x --pool cards --socket "$work/hv/admin.sock" >/dev/null
    check "killed in destroy after \"$step\": the step was reached" killed "$step" gose vm destroy x
    check "killed in destroy after \"$step\": it is gone" nothing_left
done
gose vm create measured --name x --pool cards --socket "$work/hv/admin.sock" >/dev/null
check "killed in stop: the step was reached" killed stopping gose vm stop x
check "killed in stop: it is stopped and keeps its element" sh -c "gose vm show x --socket $work/hv/admin.sock | grep -A3 stopped | grep -q SE-P"
check "killed in start: the step was reached" killed starting gose vm start x
check "killed in start: it is stopped again" test "$(state_of x)" = stopped
check "and starts" gose vm start x --socket "$work/hv/admin.sock"
check "and is destroyed" gose vm destroy x --socket "$work/hv/admin.sock"
check "nothing is left" nothing_left

# The node is killed: what it left behind does not hinder its next life.
create SE-A "$A" >/dev/null
kill -9 "$hv"; wait "$hv" 2>/dev/null || :
rm -f "$work/hv/admin.sock"
start hv
check "after kill -9 the node creates guest A again" create SE-A "$A"
check "it attaches" in_guest "$A" gose guest token
finish
