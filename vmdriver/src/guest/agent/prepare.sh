# Makes a folder for one run and prints its name. At most one program runs at a time, so that a folder that
# is there already is left over: from before a restore, or from an agent that was started anew. Its program,
# should it still run, would work for nobody: it is ended, if the process is the one that began there.
# TMPDIR in the agent's environment names a place with more room.
umask 077
for base in "${TMPDIR:-/var/tmp}" /var/tmp /tmp /run; do
    [ -d "$base" ] && [ -w "$base" ] || continue
    for old in "$base"/sustain-run.*; do
        [ -d "$old" ] || continue
        pid=$(cat "$old/pid" 2>/dev/null)
        case $pid in
        '' | *[!0-9]*) ;;
        *) tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | grep -qx "SUSTAIN_RUN=$old" &&
            kill -KILL "-$pid" ;;
        esac
        rm -rf "$old"
    done
    if dir=$(mktemp -d "$base/sustain-run.XXXXXX"); then
        : >"$dir/out" && : >"$dir/err" && printf %s "$dir"
        exit
    fi
done
echo 'no folder to work in' >&2
exit 1
