/*
 * notify.h - what systemd is told (sd_notify's protocol: one datagram to $NOTIFY_SOCKET). Nothing happens where there
 * is none.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_NOTIFY_H
#define VMFERRY_TOOLS_VMFERRYD_NOTIFY_H

#include <stdint.h>

void notify_ready(const char *status);
/* Followed by notify_ready when it is over. */
void notify_reloading(void);
void notify_stopping(const char *status);
void notify_watchdog(void);
/* How often notify_watchdog must be called (half of what systemd allows), 0 for never. */
int64_t notify_watchdog_interval_ns(void);

#endif
