#include "transport/tcp_busy.h"

/* Not netinet/tcp.h: glibc's struct tcp_info ends before these fields. */
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

int64_t tcp_busy_ns(int fd)
{
	struct tcp_info info;
	socklen_t len = sizeof(info);

	memset(&info, 0, sizeof(info));
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0 || info.tcpi_busy_time < info.tcpi_rwnd_limited)
		return 0;
	return (int64_t)(info.tcpi_busy_time - info.tcpi_rwnd_limited) * 1000;
}
