/* watch.h - `guest-client watch`: how long the guest's service was away, and whether it is still the same guest. */
#ifndef GUEST_WATCH_H
#define GUEST_WATCH_H

#include <netinet/in.h>

#define WATCH_PORT 7007

/* Until SIGINT or SIGTERM. Then prints, in lines of key=value:
 *   seconds answers gap_ms gap_at              of new connections; gap_at in seconds since the start
 *   connection_gap_ms connection_lost          of the one that stays open
 *   counter_first counter_last backwards       of the guest's counter, seen over that one
 *   boots                                      how many different boots were seen: 1
 */
int watch(const struct sockaddr_in *addr, const char *log);

#endif
