# Sourced by build: QEMU's guest agent with the shared libraries that it needs, out of Debian's packages.

# fetch_agent: fills $out/parts/agent with a root folder's bin and lib.
fetch_agent() {
    local package root=$out/parts/agent unpacked=$work/agent-unpacked wanted library path
    mkdir -p "$root/bin" "$root/lib" "$unpacked"
    # Its own libraries, and those of glib that are no part of the agent's list.
    for package in qemu-guest-agent $(libraries_of qemu-guest-agent '.*') \
        $(libraries_of "$(libraries_of qemu-guest-agent 'libglib.*')" 'libpcre2.*\|libatomic1'); do
        unpack "$package"
        cp -a "$work/$package/." "$unpacked/"
    done
    path=$(find "$unpacked" -path '*/sbin/qemu-ga' -type f | head -n 1)
    [[ -n $path ]] || fail "qemu-guest-agent has no qemu-ga"
    install -m 755 "$path" "$root/bin/qemu-ga"
    # The loader's path is part of the program; what each file needs is found until nothing is missing.
    wanted=("$root/bin/qemu-ga")
    while [[ ${#wanted[@]} -gt 0 ]]; do
        for library in $(readelf -d "${wanted[0]}" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'); do
            [[ ! -e $root/lib/$library ]] || continue
            path=$(find "$unpacked" -name "$library" | head -n 1)
            [[ -n $path ]] || fail "no package of the guest agent has $library"
            install -m 755 "$(readlink -f "$path")" "$root/lib/$library"
            wanted+=("$root/lib/$library")
        done
        wanted=("${wanted[@]:1}")
    done
}

# libraries_of PACKAGE PATTERN: the library packages that it depends on and whose names fit.
libraries_of() {
    apt-cache depends "$1" | sed -n 's/^ *Depends: *\(lib[^ ]*\)$/\1/p' | grep -x "$2" || true
}
