/*
 * tcp_busy.h - for how long the network was what a TCP connection waited for.
 */
#ifndef VMFERRY_TRANSPORT_TCP_BUSY_H
#define VMFERRY_TRANSPORT_TCP_BUSY_H

#include <stdint.h>

/* Nanoseconds since the connection began with bytes on their way or waiting to be sent, less those in which the receiver had no room (Linux
 * TCP_INFO: tcpi_busy_time - tcpi_rwnd_limited). 0 for what is not TCP. */
int64_t tcp_busy_ns(int fd);

#endif
