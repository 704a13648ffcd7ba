# Becomes the program: $1 is the run's folder, the rest the program and its arguments. A session of its own,
# so that it can be ended with all that it started.
dir=$1
shift
echo $$ >"$dir/pid"
if [ -e "$dir/in" ]; then exec <"$dir/in"; else exec </dev/null; fi
exec >"$dir/out" 2>"$dir/err"
if command -v setsid >/dev/null; then exec setsid "$@"; fi
exec "$@"
