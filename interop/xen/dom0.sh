# Run in dom0, which is root on the machine.
case_() { name=$1; shift; echo "at $(cut -d. -f1 /proc/uptime) s"; if "$@" >/tmp/case.log 2>&1; then echo "case ok dom0: $name"; else echo "case FAILED dom0: $name"; sed 's/^/| /' /tmp/case.log; fi; }
fails() { ! "$@"; }
stopped() { what=$1 by=$2; shift 2; if "$@" >/tmp/case.log 2>&1; then echo "case FAILED dom0: attack: $what"; sed 's/^/| /' /tmp/case.log; else echo "case ok dom0: attack: $what"; echo "attack $what | $by | Xen, dom0"; fi; }
now() { cut -d' ' -f1 /proc/uptime | tr -d .; }
timed() { name=$1; shift; begun=$(now); "$@"; status=$?; echo "time dom0, $name $((($(now) - begun) * 10))"; return $status; }
# soon SECONDS COMMAND …
soon() { limit=$1; shift; for _ in $(seq "$limit"); do if "$@" >/dev/null 2>&1; then return 0; fi; sleep 1; done; return 1; }
log=/var/log/gosed.log
start() {
    rm -f /run/hv/admin.sock
    gosed run --config /run/hv/gosed.toml >>$log 2>&1 &
    hv=$!
    for _ in $(seq 300); do if gose vm list --socket $socket >/dev/null 2>&1; then return 0; fi; sleep 0.2; done
    cat $log; return 1
}
socket=/run/hv/admin.sock
cp /host/gosed /host/gose /usr/local/bin/
cp -r /host/hv /run/hv
# What lies on the host's share is read slowly.
cp /host/vmlinux /run/vmlinux
chmod 700 /run/hv; chmod 600 /run/hv/master.key /run/hv/pin /run/hv/node.key /run/hv/pool/*
cp /host/alice.key /run/alice.key; chmod 600 /run/alice.key
case_ "the hypervisor node starts in dom0" start
A=00000000-0000-4000-8000-00000000000a
B=00000000-0000-4000-8000-00000000000b
said() { grep -q "$2" "/var/log/xen/console/guest-gose-$1.log" 2>/dev/null; }
logged() { sed 's/\x1b\[[0-9;]*m//g' $log | grep -q "$1"; }
domid() { xl domid "gose-$1"; }
alice() { verb=$1; shift; gose vm "$verb" --node hv.test:7797 --ca /host/ca.pem --cert /host/alice.pem --key /run/alice.key "$@"; }
keep_ticket() { while ! cp "/run/gose/domains/$1/ticket" /run/ticket 2>/dev/null; do sleep 0.05; done; }

# Somebody at xl, without a ticket.
config() {
    cat >/run/$1.cfg <<END
type = "pv"
name = "$1"
uuid = "$2"
kernel = "/run/vmlinux"
memory = 192
vif = [ "script=$3,mac=00:16:3e:01:01:01,ip=169.254.200.2" ]
on_crash = "destroy"
END
}
config rogue bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb /run/gose/domains/vif-gose
stopped "xl create without a ticket" "the vif's script asks the gate" xl create /run/rogue.cfg
cp /tmp/case.log /tmp/rogue.log
case_ "it was the gate that refused" grep "nobody authorised domain bbbbbbbb" /tmp/rogue.log
case_ "nothing is left of it" fails xl domid rogue

# Two guests.
keep_ticket $A &
create_a() { gose vm create guest --seid SE-A --uuid $A --memory-mib 256 --socket $socket -- role=a >/tmp/a.log 2>&1; }
create_b() { gose vm create guest --seid SE-B --uuid $B --memory-mib 256 --socket $socket -- role=b >/tmp/b.log 2>&1; }
# What Xen's own tool takes for the same guest, beside what gose vm create takes.
timed "gose vm create A, with hashes of kernel and image" create_a && echo "case ok dom0: guest A is created" || { echo "case FAILED dom0: guest A is created"; cat /tmp/a.log; tail -20 $log; }
timed "gose vm create B, hashed before" create_b && echo "case ok dom0: guest B is created" || { echo "case FAILED dom0: guest B is created"; cat /tmp/b.log; tail -20 $log; }
case_ "xl knows A by the UUID" sh -c "xl list -v | grep -q $A"
boots() { gose vm show $A --json --socket $socket | grep -q "\"kernel\":\"$(sha256sum /host/vmlinux | cut -d' ' -f1)\""; }
case_ "the kernel that booted is the one that was hashed" boots
stopped "a ticket again" "used once, durably" gose vm admit $A --ticket /run/ticket --socket $socket
stopped "a ticket for another domain" "the UUID is signed" gose vm admit $B --ticket /run/ticket --socket $socket
case_ "guest A is ready" soon 90 said $A "guest a is ready"
case_ "guest B is ready" soon 60 said $B "guest b is ready"
a=$(domid $A) b=$(domid $B)
rights() { xenstore-ls -p "/local/domain/$a/vm-data" | grep gose | grep -q "(n0,r$a)"; }
case_ "A's join record is dom0's, and A's to read" rights
xenstore-write "/local/domain/$a/vm-data/other" "$b $(cat /run/gose/domains/$B/host) $(xenstore-read /local/domain/0/backend/vif/$b/0/ip) $(xenstore-read /local/domain/0/backend/vif/$b/0/mac)"
case_ "A has tried everything" soon 120 said $A "guest a has attacked"
xenstore-write "/local/domain/$b/vm-data/go" rest
case_ "B has worked all the time" soon 60 said $B "guest b has worked"
case_ "the refusals are in the log" logged "vm=$A.*secret\|attach refused"

# Somebody at xl who goes round the gate's script.
cat >/run/open <<'END'
#!/bin/sh
xenstore-write "$XENBUS_PATH/hotplug-status" connected
END
chmod +x /run/open
config round cccccccc-cccc-4ccc-8ccc-cccccccccccc /run/open
xl create -p /run/round.cfg >/tmp/round.log 2>&1 &
case_ "the watch sees a domain whose script lets everybody in" soon 120 logged "unauthorised domain is destroyed.*cccccccc"
# xl takes a moment to end it.
stays() { for _ in $(seq 20); do xl domid "$1" || return 1; sleep 0.5; done; }
stopped "xl create round the vif's script" "the watch on new domains destroys it" stays round

# Its life.
state() { xl list "gose-$1" | tail -1 | awk '{print $5}'; }
case_ "B is paused" gose vm pause $B --socket $socket
case_ "Xen holds it" sh -c "xl list gose-$B | tail -1 | grep -q 'p---'"
case_ "B goes on" gose vm resume $B --socket $socket
case_ "Xen lets it" fails sh -c "xl list gose-$B | tail -1 | grep -q 'p---'"

# The middleware is killed; the guests go on and are found again.
kill -9 $hv; wait $hv 2>/dev/null
case_ "both guests outlive the middleware" sh -c "xl domid gose-$A && xl domid gose-$B"
case_ "it starts again" start
sed 's/\x1b\[[0-9;]*m//g' $log | tail -25
running() { gose vm show $1 --json --socket $socket | grep -q '"state":"running"'; }
case_ "A is found again" soon 20 running $A
case_ "B is found again" soon 20 running $B
case_ "the domains are the same" test "$a $b" = "$(domid $A) $(domid $B)"
xenstore-write "/local/domain/$a/vm-data/go" again
case_ "A has attached again" soon 60 said $A "guest a is done"

# A snapshot put back is another life: it needs a ticket.
xenstore-write "/local/domain/$b/vm-data/go" end
case_ "B is done" soon 60 said $B "guest b is done"
case_ "B is saved by xl" xl save "gose-$B" /run/b.save
gone() { ! gose vm show $1 --socket $socket; }
case_ "B is gone for the middleware" soon 20 gone $B
stopped "restore a snapshot" "the vif's script asks the gate: no ticket" xl restore /run/b.save
rm -f /run/b.save
case_ "nothing of it runs" fails xl domid "gose-$B"

# The end.
case_ "A is destroyed" gose vm destroy $A --socket $socket
case_ "its domain is gone" fails xl domid "gose-$A"
case_ "no machine is left" sh -c "test \"\$(gose vm list --json --socket $socket)\" = '[]'"
stopped "an image that was not authorised, by alice" "policy" alice create other
stopped "more memory than allowed, by alice" "policy" alice create guest --memory-mib 512
case_ "alice creates a guest over TLS" alice create guest --name web --seid SE-A -- role=a
case_ "alice destroys it" alice destroy web
counted() { sed 's/\x1b\[[0-9;]*m//g' $log | grep -c "$1"; }
sed 's/^memory.*/memory = 256/; s/^uuid.*/uuid = "dddddddd-dddd-4ddd-8ddd-dddddddddddd"/; s/^name.*/name = "plain"/; s#^vif.*#vif = [ "script=/run/open,mac=00:16:3e:01:01:02" ]#' /run/round.cfg >/run/plain.cfg
echo 'ramdisk = "/host/guest.cpio"' >>/run/plain.cfg
kill $hv; wait $hv 2>/dev/null
timed "xl create alone" xl create -q /run/plain.cfg
xl destroy plain
echo "dom0: $(counted 'gate: admitted') admitted, $(counted 'gate: refused') refused at the gate"
for guest in $A $B; do cat "/var/log/xen/console/guest-gose-$guest.log"; done
echo "--- log of the hypervisor node"
tail -60 $log
exit 0
