#!/bin/sh
# Install the RabbitMQ that the tests start (Debian's package), unless it is there.
#
# No service is started, no configuration is touched: the tests run the program on their own ports and folders.
# Without the right to install (neither root nor sudo) the tests that need it are skipped; with CI=true that is an error.
set -eu
cd "$(dirname "$0")/.."
. tools/packages.sh

is_complete() {
    [ -x "${LEVERET_RABBITMQ_SCRIPTS:-/usr/lib/rabbitmq/bin}/rabbitmq-server" ] || return 1
    for program in erl epmd erl_call; do
        command -v "$program" > /dev/null || return 1
    done
}

give_up() {
    printf 'setup: RabbitMQ is not installed: %s\n' "$1" >&2
    if [ "${CI:-}" = true ]; then
        exit 1
    fi
    printf 'setup: the tests that need it will be skipped\n' >&2
    exit 0
}

if ! is_complete; then
    can_install || give_up "as root: apt-get install rabbitmq-server"
    printf 'setup: installing rabbitmq-server for the tests (its service stays off)\n'
    install_packages rabbitmq-server || give_up "apt-get could not install rabbitmq-server; see above"
    disable_services rabbitmq-server.service epmd.service epmd.socket
    is_complete || give_up "rabbitmq-server is installed, but not where the tests look for it"
fi
