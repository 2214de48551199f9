#!/bin/bash
# Guests of Debian's libvirt and QEMU (TCG), each with a tap: created by a user with a certificate, attached from their
# first boot by what the firmware device tells them. Judges: libvirt's daemon, the kernel's network, openssl. Somebody at
# virsh and a guest that is root in itself try what a list says.
[ -n "${GOSE_NAMESPACE:-}" ] || "$(dirname "$0")/testbed.sh"
. "$(dirname "$0")/../begin.sh"
. "$folder/../node.sh"
# Guests outlive libvirt's daemon; not this stage, however it ends.
trap 'kill $(cat /run/libvirt/qemu/*.pid 2>/dev/null) 2>/dev/null || :; end' EXIT
unset GOSE_SECRETS
chmod 711 "$work"
bed=$(cd "$folder/../.." && pwd)/target/libvirt
begun=$(date +%s)
ms() { echo $(($(date +%s%N) / 1000000)); }
fails() { ! "$@"; }
log_has() { sed 's/\x1b\[[0-9;]*m//g' "$work/daemons.log" | grep -q "$1"; }

# libvirt's daemon, with nothing of this machine's configuration.
for place in /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt; do mkdir -p $place; mount -t tmpfs -o mode=755 tmpfs $place; done
printf 'stdio_handler = "file"\n' >/etc/libvirt/qemu.conf
virsh() { LC_ALL=C command virsh --quiet --connect qemu:///system "$@"; }
libvirt() {
    if [ -n "${libvirtd:-}" ]; then kill "$libvirtd"; wait "$libvirtd" 2>/dev/null || :; fi
    libvirtd >>"$work/libvirt.log" 2>&1 &
    daemons="$daemons $!"
    libvirtd=${daemons##* }
    until_ready virsh version
}
libvirt
virsh version | sed 's/^/       /'

# The site: an authority, a grid with the guests' elements, a hypervisor whose element signs tokens and tickets.
. "$folder/../site.sh"
with_file grid server --san localhost
with_file hv hv --spiffe spiffe://test.site/hv/hv-1 --san localhost
with_file alice client
{
    printf '[listen]\naddress = "127.0.0.1:7777"\n%s\n' "$tls"
    for seid in SE-P SE-Q; do printf '[[slot]]\nseid = "%s"\nkind = "software"\ndefault = "allow"\n' $seid; done
    printf '[[user]]\nid = "spiffe://test.site/hv/hv-1"\nseid = ["SE-P", "SE-Q"]\nrole = "admin"\n'
} >"$work/grid.toml"
node grid "$work/grid.toml"
mkdir -p "$work/hv/pool"
for seid in SE-P SE-Q; do init grid "$seid"; cp "$work/$seid.secrets" "$work/hv/pool/"; done
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

# The image: Debian's kernel; an initramfs to which the command line is appended. It holds no key.
extra=$work/extra
mkdir -p "$extra/usr/local/bin"
strip -o "$extra/usr/local/bin/gose" "$(command -v gose)"
{ cat "$bed/guest.cpio"; (cd "$extra" && find . | sort | cpio --quiet -o -H newc -R 0:0); } >"$work/hv/guest.cpio"
cp "$bed/vmlinuz" "$work/hv/vmlinuz"
cat >>"$work/hv/gosed.toml" <<END
[listen]
address = "127.0.0.1:7797"
$tls
$(for seid in SE-P SE-Q; do printf '[[slot]]\nseid = "%s"\nkind = "remote"\nnode = "localhost:7777"\ndefault = "allow"\n' $seid; done)
[hypervisor]
driver = "libvirt"
ca-certificate-file = "hv-ca.pem"
ca-key = { seid = "HV", slot = "9C", pin = "file:pin" }
name = "localhost"
guest-anchor-files = ["ca.pem"]
generation-file = "generations.json"
[[hypervisor.image]]
name = "guest"
kernel = "vmlinuz"
kernel-sha256 = "$(sha256sum "$bed/vmlinuz" | cut -d' ' -f1)"
ramdisk = "guest.cpio"
command = ["console=ttyS0", "quiet"]
[[hypervisor.image]]
name = "other"
kernel = "vmlinuz"
kernel-sha256 = "$(printf 0 | sha256sum | cut -d' ' -f1)"
command = ["console=ttyS0"]
[[hypervisor.pool]]
name = "cards"
seid = ["SE-P", "SE-Q"]
secrets-folder = "pool"
[[hypervisor.creator]]
user = "alice"
quota = 3
image = ["guest", "other"]
pool = ["cards"]
memory-mib = 256
END
# Where the hook looks unless it is told otherwise.
mkdir -m 755 /run/gose
ln -s "$work/hv/admin.sock" /run/gose/admin.sock
start hv
hv=${daemons##* }
alice() {
    verb=$1; shift
    gose vm "$verb" "$@" --node localhost:7797 --ca "$work/ca.pem" --cert "$work/alice/node.pem" --key "$work/alice/node.key"
}
uuid_of() { gose vm show "$1" --json --socket "$work/hv/admin.sock" | sed 's/.*"uuid":"\([^"]*\)".*/\1/'; }
guest_a=169.254.1.2 host_a=169.254.1.1 guest_b=169.254.1.6 host_b=169.254.1.5
# guest ADDRESS SCRIPT: as root of the guest.
guest() {
    curl -sS --max-time 90 --data-binary "$2" "http://$1/cgi-bin/run" >"$work/told" || return 9
    sed '$d' "$work/told"
    test "$(tail -n 1 "$work/told")" = status=0
}
# attached ADDRESS: waits up to two minutes for a guest that attached by itself.
attached() {
    for _ in $(seq 240); do
        if curl -s --max-time 5 --data-binary 'test -e /tmp/attached' "http://$1/cgi-bin/run" | grep -q status=0; then return 0; fi
        sleep 0.5
    done
    return 1
}
state_of() { virsh domstate "gose-$1" 2>/dev/null; }
none_runs() { [ -z "$(virsh list --name)" ]; }
rogue() {
    cat <<END
<domain type='qemu'><name>rogue</name><uuid>$1</uuid><memory unit='MiB'>256</memory>
<os><type arch='x86_64'>hvm</type><kernel>$bed/vmlinuz</kernel></os><devices><console type='pty'/></devices></domain>
END
}

# Before the hook is installed.
check "without the hook no guest is created" fails alice create guest --pool cards
check "the error says what to install" log_has 'install packaging/libvirt-hook'
check "and none was left" none_runs
rogue 00000000-0000-4000-8000-0000000000ff >"$work/rogue.xml"
# The watch may be quicker than virsh.
virsh create "$work/rogue.xml" >/dev/null 2>&1 || :
check "a domain that somebody starts past the gate is reported" until_ready log_has 'nobody authorised.*00000000-0000-4000-8000-0000000000ff'
check "and destroyed" until_ready none_runs
install -D -m 755 "$folder/../../packaging/libvirt-hook" /etc/libvirt/hooks/qemu.d/gose
# A second hook looks, while a guest is built, at what others on this machine could read.
cat >/etc/libvirt/hooks/qemu.d/look <<END
#!/bin/sh
[ "\$2" = start ] || exit 0
uuid=\${1#gose-}
at=/run/gose/join/\$uuid
cp \$at/ticket $work/ticket-\$uuid 2>/dev/null
stat -c '%U %a %n' \$at \$at/* >$work/files-\$uuid 2>&1
for user in nobody libvirt-qemu; do
    for file in join.json ticket kernel; do
        setpriv --reuid=\$user --regid=nogroup --clear-groups cat \$at/\$file >/dev/null 2>&1 && echo "\$user \$file" >>$work/read-\$uuid
    done
    setpriv --reuid=\$user --regid=nogroup --clear-groups sh -c "echo x >>\$at/kernel" 2>/dev/null && echo "\$user changes" >>$work/read-\$uuid
done
exit 0
END
chmod 755 /etc/libvirt/hooks/qemu.d/look
libvirt

# A user creates: two guests.
before=$(ms)
check "alice creates guest A by her certificate, with an element of the pool" alice create guest --name a --pool cards --keep
A=$(uuid_of a)
created=$(ms)
check "A attaches from its first boot, without a person" attached "$guest_a"
echo "       created in $((created - before)) ms, attached after $(($(ms) - before)) ms"
check "alice creates guest B" alice create guest --name b --pool cards
B=$(uuid_of b)
check "while A was built its join record was open to QEMU's user alone, and what boots to nobody's change" sh -c \
    "printf 'nobody kernel\nlibvirt-qemu join.json\nlibvirt-qemu kernel\n' | cmp - $work/read-$A"
check "what QEMU had read is gone from the host" test ! -e "/run/gose/join/$A"
qemu_a=$(pgrep -f "^[^ ]*qemu-system.*guest=gose-$A" | head -n 1)
check "its command line names the join record and does not have it" sh -c "
    tr '\0' '\n' </proc/$qemu_a/cmdline >$work/line && grep -q opt/gose/join $work/line && ! grep -q 'secret\":' $work/line"
check "QEMU runs without root's rights" test "$(stat -c %U "/proc/$qemu_a")" = libvirt-qemu
guest "$guest_a" 'cat /tmp/token.pem' >"$work/token-a.pem" || :
check "openssl verifies A's token, which names it" sh -c "
    openssl verify -CAfile $work/ca.pem -untrusted $work/token-a.pem $work/token-a.pem &&
    openssl x509 -in $work/token-a.pem -noout -ext subjectAltName | grep -q spiffe://test.site/hv/hv-1/vm/$A"
check "A powers its element" guest "$guest_a" 'gose element info SE-P'
check "A signs in its element by the PIN that it was told" guest "$guest_a" \
    'gose guest pin SE-P >/tmp/pin && chmod 600 /tmp/pin && gose key csr SE-P 9A --name a --pin-source file:/tmp/pin --out /tmp/a.csr'
guest "$guest_a" 'cat /tmp/a.csr' >"$work/a.csr" || :
guest "$guest_a" 'gose guest identity' >"$work/identity-a.pem" || :
check "openssl verifies that signature, under the key of A's identity token" sh -c "
    openssl req -in $work/a.csr -noout -verify &&
    test \"\$(openssl req -in $work/a.csr -noout -pubkey)\" = \"\$(openssl x509 -in $work/identity-a.pem -noout -pubkey)\""
check "only A's root reads what its firmware device tells" guest "$guest_a" \
    'raw=/sys/firmware/qemu_fw_cfg/by_name/opt/gose/join/raw; grep -q secret $raw && su nobody -c "cat /proc/version" && ! su nobody -c "cat $raw"'
check "an image whose hash is another one does not boot" fails alice create other --pool cards

# Somebody at virsh.
check "attack: a domain that is defined and started at virsh" sh -c "
    virsh='virsh -q -c qemu:///system'; \$virsh define $work/rogue.xml && ! \$virsh start rogue 2>$work/said"
check "the hook's refusal is what virsh shows" grep -q 'GoSE: nobody authorised' "$work/said"
virsh undefine rogue >/dev/null
virsh dumpxml "gose-$A" | sed "s/$A/00000000-0000-4000-8000-0000000000cc/" >"$work/clone.xml"
check "attack: a clone of A's domain under another UUID" fails virsh create "$work/clone.xml"
virsh dumpxml "gose-$A" | sed "s/<name>.*</<name>twin</" >"$work/twin.xml"
check "attack: a second domain with A's UUID" fails virsh create "$work/twin.xml"
check "attack: A is saved and restored at virsh" sh -c "
    virsh='virsh -q -c qemu:///system'; \$virsh save gose-$B /var/lib/libvirt/b.save && ! \$virsh restore /var/lib/libvirt/b.save"
check "its element is free again" until_ready sh -c "! gose vm list --socket $work/hv/admin.sock | grep -q $B"
check "alice creates guest B again" alice create guest --name b --pool cards
B=$(uuid_of b)
check "B attaches" attached "$guest_b"

# A is root in itself.
reaches='reaches() { nc -w 3 "$1" "$2" </dev/null >/dev/null 2>&1; };'
check "A reaches its own listener" guest "$guest_a" "$reaches reaches $host_a 7778"
check "attack: B's listener by its address" guest "$guest_a" "$reaches ip route add default via $host_a; ! reaches $host_b 7778"
check "attack: B's attach endpoint by its address" guest "$guest_a" "$reaches ! reaches $host_b 7779"
check "attack: B itself" guest "$guest_a" "$reaches ! reaches $guest_b 80"
check "attack: with B's address" guest "$guest_a" "$reaches ip address add $guest_b/30 dev eth0; reaches $host_b 7779; got=\$?; ip address del $guest_b/30 dev eth0; test \$got != 0"
mac_b=$(virsh domiflist "gose-$B" | grep -o '52:54:[0-9a-f:]*')
check "attack: with B's MAC address" guest "$guest_a" "$reaches
    mac=\$(cat /sys/class/net/eth0/address)
    be() { ip link set eth0 down; ip link set eth0 address \$1; ip link set eth0 up; }
    be $mac_b; reaches $host_b 7779; got=\$?; be \$mac; test \$got != 0"
guest "$guest_b" 'cat /run/gose/join.json' | sed "s/$host_b/$host_a/" >"$work/stolen.json" || :
check "attack: B's join record, taken to A" grep -q '"secret":"[0-9A-Fa-f]' "$work/stolen.json"
check "B's join secret is worth nothing on A's link" guest "$guest_a" "echo '$(cat "$work/stolen.json")' >/tmp/stolen.json; chmod 600 /tmp/stolen.json
    ! gose guest token --join /tmp/stolen.json"
check "the refusal is in the log" log_has "attach refused.*$A.*secret"
check "attack: B's element, with the answer of one that is not there" guest "$guest_a" '
    ! gose element power SE-Q 2>/tmp/q && ! gose element power SE-X 2>/tmp/x && test -s /tmp/q && cmp /tmp/q /tmp/x'
check "attack: A manages no node" guest "$guest_a" '! gose vm list'
check "B works" guest "$guest_b" 'gose element info SE-Q'

# Life.
check "alice pauses A" alice pause a
check "libvirt says that it is paused" test "$(state_of "$A")" = paused
check "alice resumes A" alice resume a
check "libvirt says that it runs" test "$(state_of "$A")" = running
check "A's element answers again" guest "$guest_a" 'gose element info SE-P'
guest "$guest_a" '(sleep 1; reboot -f) >/dev/null 2>&1 &' || :
ended() { [ "$(gose vm show a --json --socket "$work/hv/admin.sock" | sed 's/.*"state":"\([^"]*\)".*/\1/')" = stopped ]; }
check "A, which restarts itself, is stopped: a start needs a ticket" until_ready ended
check "alice starts it" alice start a
check "it attaches in its second life" attached "$guest_a"
check "its generation is 2" sh -c "gose vm list --socket $work/hv/admin.sock | grep $A | grep -q 'generation 2'"
check "alice destroys A" alice destroy a
gone() { [ -z "$(state_of "$A")" ] && [ "$(ip -o link | grep -c ': gv')" = 1 ]; }
check "its domain and link are gone" until_ready gone
mkdir -p "/run/gose/join/$A"; cp "$work/ticket-$A" "/run/gose/join/$A/ticket"; cp "$bed/vmlinuz" "/run/gose/join/$A/kernel"
rogue "$A" | sed "s#$bed/vmlinuz#/run/gose/join/$A/kernel#" >"$work/replay.xml"
check "attack: A's ticket again, at virsh" sh -c "! virsh -q -c qemu:///system create $work/replay.xml 2>$work/said; cat $work/said; grep -q 'GoSE: .* is not admitted' $work/said"
rm -rf "/run/gose/join/$A"

# Faults.
kill -9 "$hv"; wait "$hv" 2>/dev/null || :
check "while the node is away nothing starts" fails virsh create "$work/rogue.xml"
rm -f "$work/hv/admin.sock"
start hv
check "B, whom the node that was killed left behind, is ended" until_ready none_runs
check "and its link is gone" sh -c "! ip -o link | grep -q ': gv'"
check "and its element is free: alice creates another guest with it" alice create guest --name c --pool cards
check "libvirt's daemon is started again" libvirt
check "the guest is still known to both" sh -c "test \$(virsh -q -c qemu:///system list --uuid | wc -l) = 1 && gose vm list --socket $work/hv/admin.sock | grep -q running"
kill "${daemons##* }" 2>/dev/null || :
echo "       the whole took $(($(date +%s) - begun)) s"
[ $failed = 0 ] || { echo "--- log"; sed "s/\x1b\[[0-9;]*m//g" "$work/daemons.log" | tail -n 60; }
finish
