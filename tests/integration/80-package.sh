# The Debian package.
# shellcheck shell=bash

# limit debian 600
test_debian() { # package.sh says each step
	"$here/package.sh"
}
