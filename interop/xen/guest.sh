# Sourced by a guest's first process. It is root in its domain.
say() { echo "$*"; }
# case_ NAME COMMAND …
case_() { name=$1; shift; if "$@" >/tmp/case.log 2>&1; then say "case ok $role: $name"; else say "case FAILED $role: $name"; sed 's/^/| /' /tmp/case.log; fi; }
fails() { ! "$@"; }
now() { cut -d' ' -f1 /proc/uptime | tr -d .; }
# timed NAME COMMAND …: tells how long it took, by the guest's clock of 10 ms.
timed() { name=$1; shift; begun=$(now); "$@"; status=$?; say "time $role, $name $((($(now) - begun) * 10))"; return $status; }
# refused WHAT BY: an attack that must fail, and what stops it.
stopped() { what=$1 by=$2; shift 2; if "$@" >/tmp/case.log 2>&1; then say "case FAILED $role: attack: $what"; sed 's/^/| /' /tmp/case.log; else say "case ok $role: attack: $what"; say "attack $what | $by | Xen, guest $role"; fi; }
reaches() { timeout 4 nc -w 3 "$1" "$2" </dev/null; }

attach() { gose guest token --out /tmp/token.pem >/tmp/case.log 2>&1; }
authenticate() { gose guest authenticate $seid guest --bearer-pin-source "file:/$seid.pin" "$@" >/tmp/phase2.log 2>&1; }
timed "phase 1: attach and token" attach && say "case ok $role: attaches from its first boot, without a person" || { say "case FAILED $role: attaches"; cat /tmp/case.log; }
seid=SE-A; [ "$role" = a ] || seid=SE-B
export GOSE_JOIN=/run/gose/join.json
case_ "joins again with the next secret" gose guest token
case_ "sees its own element alone" sh -c "test \"\$(gose element list)\" = $seid"
case_ "the used secret is gone from xenstore" fails xenstore-read vm-data/gose/secret
timed "phase 2: EAP-TLS in the element, full, then resumed" authenticate --count 2 && say "case ok $role: authenticates by EAP-TLS in its element, then resumes" || say "case FAILED $role: authenticates"
sed "s/^/$role| /" /tmp/phase2.log
sed -n 's/^authenticated: TLS \([0-9.]*\), \([a-z]*\),.* \([0-9.]*\) ms$/time '"$role"', phase 2, TLS \1 \2 \3/p' /tmp/phase2.log
if [ "$role" = b ]; then
    say "guest b is ready"
    # B works while A attacks: its times are told.
    for _ in $(seq 200); do
        if [ -n "$(xenstore-read vm-data/go 2>/dev/null)" ]; then break; fi
        timed "EAP-TLS while A attacks" authenticate || say "case FAILED b: works while A attacks"
        sleep 1
    done
    say "guest b has worked"
    for _ in $(seq 300); do if [ "$(xenstore-read vm-data/go 2>/dev/null)" = end ]; then break; fi; sleep 1; done
    case_ "works after it was paused and the middleware killed" authenticate
    say "guest b is done"
    return
fi
echo "token begins"; cat /tmp/token.pem; echo "token ends"
say "guest a is ready"
for _ in $(seq 300); do other=$(xenstore-read vm-data/other 2>/dev/null) && break; sleep 1; done
other_host=$(echo "$other" | cut -d' ' -f2) other_guest=$(echo "$other" | cut -d' ' -f3) other_mac=$(echo "$other" | cut -d' ' -f4) other=$(echo "$other" | cut -d' ' -f1)
case_ "reaches its own listener" reaches "$host" 7778
ip route add default via "$host"
stopped "B's listener by its address" "listener bound to B's vif" reaches "$other_host" 7778
stopped "B's attach endpoint by its address" "listener bound to B's vif" reaches "$other_host" 7779
stopped "B itself" "no forwarding between vifs" ping -c 2 -W 2 "$other_guest"
ip address add "$other_guest/30" dev eth0
stopped "B's attach endpoint with B's address" "listener bound to B's vif, rp_filter" reaches "$other_host" 7779
ip address del "$other_guest/30" dev eth0
ip link set eth0 down; ip link set eth0 address "$other_mac"; ip link set eth0 up
ip route add default via "$host" 2>/dev/null
stopped "B's attach endpoint with B's MAC address" "listener bound to B's vif" reaches "$other_host" 7779
case_ "reaches its own listener with another MAC address" reaches "$host" 7778
stopped "read B's join record" "xenstore: n0,r<domid of B>" xenstore-read "/local/domain/$other/vm-data/gose/token/0"
stopped "list B's join record" "xenstore: n0,r<domid of B>" xenstore-list "/local/domain/$other/vm-data/gose"
stopped "write B's join record" "xenstore: dom0 owns it" xenstore-write "/local/domain/$other/vm-data/gose/secret" x
stopped "write the own join record" "xenstore: dom0 owns it" xenstore-write vm-data/gose/secret x
stopped "write the own UUID" "xenstore: dom0 owns it" xenstore-write "/local/domain/$(xenstore-read domid)/vm" /vm/x
stopped "use B's element" "elements are bound to the domain of the channel" gose element power SE-B
gose element power SE-B 2>/tmp/b; gose element power SE-X 2>/tmp/x; sed -i 's/SE-X/SE-B/' /tmp/x
case_ "B's element and one that is not there are the same bytes" sh -c 'test -s /tmp/b && cmp /tmp/b /tmp/x'
stopped "manage the node over the own channel" "a guest's channel carries no management" gose vm list
sed 's/"secret":"../"secret":"00/' /run/gose/join.json >/tmp/guess.json; chmod 600 /tmp/guess.json
cp /run/gose/join.json /tmp/keep.json
mv /run/gose/join.json /run/gose/kept.json
stopped "join by a guessed secret" "compared in constant time; rate limit" gose guest token --join /tmp/guess.json
mv /run/gose/kept.json /run/gose/join.json
# All connections that it may have, and more.
for _ in $(seq 40); do nc "$host" 7778 </dev/zero >/dev/null 2>&1 & done
sleep 8
killall nc 2>/dev/null
say "attack a flood of 40 connections with rubbish | 32 sockets a domain; B's times stand above | Xen, guest a"
sleep 2
case_ "attaches after its flood" gose guest token
say "guest a has attacked"
# The middleware is killed and starts again: the guest finds a new record in xenstore.
for _ in $(seq 300); do if [ "$(xenstore-read vm-data/go 2>/dev/null)" = again ]; then break; fi; sleep 1; done
case_ "attaches again after the middleware was killed, by a new record in xenstore" gose guest token
say "guest a is done"
