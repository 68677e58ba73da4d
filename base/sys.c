#include "base/sys.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static int sys_open(const char *path, int flags, mode_t mode)
{
	return open(path, flags | O_CLOEXEC, mode);
}

struct sys_calls sys = {
	.open = sys_open,
	.read = read,
	.write = write,
	.writev = writev,
	.pread = pread,
	.pwrite = pwrite,
	.fallocate = fallocate,
	.fsync = fsync,
	.fdatasync = fdatasync,
	.rename = rename,
	.unlink = unlink,
	.ftruncate = ftruncate,
	.close = close,
};
