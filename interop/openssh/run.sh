#!/bin/sh
# ssh, sshd, ssh-keygen, ssh-add and git of the distribution with keys of elements, by gose ssh-agent and by the module:
# docs/guide/openssh.md as it is written, then what it does not tell of.
. "$(dirname "$0")/../begin.sh"
. "$folder/../pkcs11/world.sh"
. "$folder/../recipes.sh"
export HOME="$work/home"
mkdir "$HOME"
guest user host p384
recipe openssh
daemons="$daemons $(pgrep -f -- "--bind $work/openssh/" | tr '\n' ' ')"
rm /etc/gose/pkcs11.toml
says() { pattern=$1; shift; "$@" >"$work/said" 2>&1 || :; cat "$work/said"; grep -q -e "$pattern" "$work/said"; }
fails() { ! "$@"; }
agent() {
    seid=$1
    daemon gose ssh-agent "$seid" --socket /run/gose/guest.sock --pin-source "file:/etc/gose/$seid.pin" --bind "$work/$seid.sock"
    agent=$!
    export SSH_AUTH_SOCK="$work/$seid.sock"
    until_ready ssh-add -L
    ssh-add -L >"$work/key.pub"
    echo "me $(cut -d' ' -f1,2 "$work/key.pub")" >"$work/signers"
}
signs() {
    rm -f "$work/message.sig"
    echo message >"$work/message"
    ssh-keygen -Y sign -n file -f "$work/key.pub" "$work/message" &&
        ssh-keygen -Y verify -n file -f "$work/signers" -I me -s "$work/message.sig" <"$work/message"
}
gose key generate p384 9A --alg p384 --secrets /etc/gose/p384.secrets >/dev/null
for seid in user host p384; do
    agent $seid
    check "$seid: ssh-keygen verifies a signature of the agent's" signs
done
check "another user's program is turned away" fails setpriv --reuid nobody --clear-groups env SSH_AUTH_SOCK="$SSH_AUTH_SOCK" ssh-add -L
check "a key that the agent has not" sh -c "ssh-keygen -q -t ed25519 -N '' -f $work/other && mv $work/other $work/gone && ! ssh-keygen -Y sign -n file -f $work/other.pub $work/message"
check "an agent takes no keys in" fails ssh-add "$work/gone"
check "nonsense: only its sender is left" sh -c "printf '\\377\\377\\377\\377' | timeout 5 python3 -c '
import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(\"$SSH_AUTH_SOCK\"); s.sendall(sys.stdin.buffer.read()); assert s.recv(9) == b\"\"' && ssh-add -L"
stop_grid; start_grid
check "the grid restarts: the agent goes on" signs
stop_service; start_service
check "the guest service restarts: the agent goes on" signs
gose_pin() { pkcs11-tool --module "$module" --token-label p384 "$@"; }
check "the PIN changes" gose_pin --login --pin "$(cat /etc/gose/p384.pin)" --change-pin --new-pin 13579246
check "the agent shows the old one once, and says what to do" fails signs
check "and never again" sh -c "for _ in 1 2 3 4 5; do rm -f $work/message.sig; ssh-keygen -Y sign -n file -f $work/key.pub $work/message 2>/dev/null; done; grep -q 'start the agent again' $work/daemons.log"
check "the element counted one wrong PIN" gose_pin --login --pin 13579246 -O
check "an agent with a wrong PIN does not start" fails timeout 10 gose ssh-agent p384 --socket /run/gose/guest.sock --pin-source file:/etc/gose/p384.pin --bind "$work/wrong.sock"
check "a slot without a key: an error" says 'no key' timeout 10 gose ssh-agent user --slot 9C --socket /run/gose/guest.sock --pin-source file:/etc/gose/user.pin --bind "$work/none.sock"
finish
