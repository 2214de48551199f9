#!/bin/sh
# The element contract on elements of every kind, through a node: each is taken away and brought back by what holds it.
. "$(dirname "$0")/../begin.sh"
. "$folder/../node.sh"
. "$folder/../kinds.sh"

# The test asks for `SEID away` and `SEID back`, one line each, and waits for a line.
mkfifo "$work/asked" "$work/done"
away() {
    case $1 in
    tpm) kill "$swtpm"; wait "$swtpm" || : ;;
    hsm) mv "$work/tokens" "$work/tokens.away"; mkdir "$work/tokens" ;;
    reader) kill "$card"; wait "$card" || :; until_ready empty 00 ;;
    opensc) kill "$known"; wait "$known" || :; until_ready empty 01 ;;
    remote) kill "$far"; wait "$far" || :; rm -f "$work/far/admin.sock" ;;
    esac
}
back() {
    case $1 in
    tpm) tpm ;;
    hsm) rmdir "$work/tokens"; mv "$work/tokens.away" "$work/tokens" ;;
    reader) plug card 35963; card=${daemons##* }; until_ready holds_card 00 ;;
    opensc) plug known 35964; known=${daemons##* }; until_ready holds_card 01 ;;
    remote) start far; far=${daemons##* } ;;
    esac
}
empty() { ! holds_card "$1"; }
export GOSE_TEST_SOCKET="$socket" GOSE_TEST_ASKED="$work/asked" GOSE_TEST_DONE="$work/done"
for seid in software tpm hsm reader opensc remote; do
    # Both lines stay open on both ends, so that nobody waits for an end.
    exec 7<>"$work/asked" 8<>"$work/done"
    {
        GOSE_TEST_ELEMENT=$seid cargo test --offline --quiet --package gosed --features __judges --test kinds -- --nocapture \
            >"$work/$seid.log" 2>&1 && echo good >"$work/$seid.end" || echo bad >"$work/$seid.end"
        echo "$seid ended" >&7
    } &
    while read -r which what <&7; do
        case $what in
        away | back) "$what" "$which"; echo >&8 ;;
        ended) break ;;
        esac
    done
    exec 7<&- 8<&-
    check "contract: $seid, through a node" sh -c "cat $work/$seid.log; grep -q good $work/$seid.end"
done
finish
