# Installing Debian packages, for the scripts beside this one; read with `.`, not run.
# No service is started or left enabled by what is installed here.

_policy=/usr/sbin/policy-rc.d
_policy_mark="# leveret: no service starts during an installation; safe to delete"

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo > /dev/null && { sudo -n true 2> /dev/null || [ -t 0 ]; }; then
        sudo "$@"
    else
        return 77
    fi
}

can_install() {
    command -v apt-get > /dev/null && as_root true
}

_forbid_service_starts() {
    # /usr/sbin/policy-rc.d is Debian's documented switch (invoke-rc.d(8)); exit code 101 means "do not".
    # One that is already there belongs to somebody else (container images have one) and stays as it is.
    if [ -e "$_policy" ] && ! grep -qsF "$_policy_mark" "$_policy"; then
        return 0
    fi
    trap '_allow_service_starts' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    printf '#!/bin/sh\n%s\nexit 101\n' "$_policy_mark" | as_root tee "$_policy" > /dev/null
    as_root chmod 755 "$_policy"
}

_allow_service_starts() {
    if grep -qsF "$_policy_mark" "$_policy"; then
        as_root rm -f "$_policy"
    fi
}

_apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get --quiet --quiet \
        -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@"
}

# install_packages NAME...: returns 0 once all are installed; the lists of packages are fetched anew only when needed.
install_packages() {
    _forbid_service_starts
    _status=0
    _apt_get install --no-install-recommends --yes "$@" > /dev/null 2>&1 || {
        _apt_get update > /dev/null && _apt_get install --no-install-recommends --yes "$@" > /dev/null || _status=$?
    }
    _allow_service_starts
    return $_status
}

# disable_services NAME...: what this script has installed shall not start at the next boot either.
disable_services() {
    if command -v systemctl > /dev/null; then
        as_root systemctl disable --quiet "$@" > /dev/null 2>&1 || true # a unit that this release does not have
    fi
}
