/*
 * exit_code.h - what the command tells scripts. Stable; vmferry(1) lists them.
 */
#ifndef VMFERRY_TOOLS_VMFERRY_EXIT_CODE_H
#define VMFERRY_TOOLS_VMFERRY_EXIT_CODE_H

#include "base/err.h"

enum exit_code {
	EXIT_CODE_OK = 0,
	EXIT_CODE_FAILED = 1,        /* it was tried and did not work; the VM is where the message says */
	EXIT_CODE_USAGE = 2,         /* command line or configuration is wrong; nothing was done */
	EXIT_CODE_REFUSED = 3,       /* preflight, roles or policy said no; nothing was done */
	EXIT_CODE_UNREACHABLE = 4,   /* the agent or a peer cannot be reached, or was lost on the way */
	EXIT_CODE_CANCELLED = 5,     /* somebody cancelled it */
	EXIT_CODE_NOT_CONVERGED = 6, /* the guest writes faster than the link carries; it runs where it was */
};

static inline enum exit_code exit_code_of(enum err_class cls)
{
	switch (cls) {
	case ERR_NONE:
		return EXIT_CODE_OK;
	case ERR_CONFIG:
		return EXIT_CODE_USAGE;
	case ERR_REFUSED:
		return EXIT_CODE_REFUSED;
	case ERR_PEER:
		return EXIT_CODE_UNREACHABLE;
	case ERR_CANCELLED:
		return EXIT_CODE_CANCELLED;
	case ERR_SYS:
	case ERR_PROTOCOL:
	case ERR_CORRUPT:
	case ERR_LIBVIRT:
		break;
	}
	return EXIT_CODE_FAILED;
}

#endif
