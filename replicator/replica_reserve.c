/*
 * A little space that is kept back on the disk of the replicas, for the one thing that must be possible when it is full: a failover, which writes down that
 * it takes the VM over.
 */
#include "replicator/replica_internal.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"
#include "base/thread.h"

#include <fcntl.h>
#include <sys/statvfs.h>

#define RESERVE (INT64_C(4) << 20)

static char *path_of(const struct replicas *r)
{
	return mem_printf("%s/reserve", r->replica_dir);
}

void replica_reserve_make(struct replicas *r)
{
	MEM_AUTO char *path = path_of(r);
	{
		THREAD_LOCKED(&r->lock);
		if (r->reserved)
			return;
		r->reserved = true;
	}
	FD_AUTO int fd = sys.open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd >= 0 && sys.fallocate(fd, 0, 0, RESERVE) == 0)
		return;
	/* Not of every file system. */
	(void)sys.unlink(path);
	THREAD_LOCKED(&r->lock);
	r->reserved = false;
}

bool replica_reserve_give(struct replicas *r)
{
	MEM_AUTO char *path = path_of(r);

	THREAD_LOCKED(&r->lock);
	if (!r->reserved || sys.unlink(path) < 0)
		return false;
	r->reserved = false;
	log_warn("replica_reserve", "msg=%s",
		 LOG_Q("the disk of the replicas is full: what was kept back for a failover is used"));
	return true;
}

void replicas_make_room(struct replicas *r, bool full)
{
	struct statvfs st;

	if (full || (statvfs(r->replica_dir, &st) == 0 && (uint64_t)st.f_bavail * st.f_frsize < (uint64_t)RESERVE))
		replica_reserve_give(r);
}
