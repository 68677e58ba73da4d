#include "migrator/guests.h"

#include "base/mem.h"
#include "migrator/domain.h"
#include "migrator/where.h"

#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define NEAREST_MAX 3
#define NAME_MAX_LEN 128 /* longer names are compared by their beginning */

static int minimum(int a, int b)
{
	return a < b ? a : b;
}

/* Edits between two names, swapped neighbours counting as one (restricted Damerau-Levenshtein), case aside. */
static int distance(const char *a, const char *b)
{
	int rows[3][NAME_MAX_LEN + 1];
	int la = (int)strnlen(a, NAME_MAX_LEN);
	int lb = (int)strnlen(b, NAME_MAX_LEN);
	int *before = rows[0];
	int *last = rows[1];
	int *now = rows[2];

	for (int j = 0; j <= lb; j++)
		last[j] = j;
	memcpy(before, last, sizeof(rows[0]));
	for (int i = 1; i <= la; i++) {
		int ca = tolower((unsigned char)a[i - 1]);
		now[0] = i;
		for (int j = 1; j <= lb; j++) {
			int cb = tolower((unsigned char)b[j - 1]);
			now[j] = minimum(minimum(last[j], now[j - 1]) + 1, last[j - 1] + (ca != cb));
			if (i > 1 && j > 1 && ca == tolower((unsigned char)b[j - 2]) &&
			    cb == tolower((unsigned char)a[i - 2]))
				now[j] = minimum(now[j], before[j - 2] + 1);
		}
		int *spare = before;
		before = last;
		last = now;
		now = spare;
	}
	return last[lb];
}

size_t guests_nearest(const char *wanted, const char *const *names, size_t n, const char **out, size_t max)
{
	size_t found = 0;
	int scores[NEAREST_MAX * 4];

	max = max < sizeof(scores) / sizeof(scores[0]) ? max : sizeof(scores) / sizeof(scores[0]);
	for (size_t i = 0; i < n; i++) {
		size_t lw = strlen(wanted);
		size_t ln = strlen(names[i]);
		size_t shorter = lw < ln ? lw : ln;
		bool prefix = shorter >= 2 && strncasecmp(wanted, names[i], shorter) == 0;
		int score = distance(wanted, names[i]);
		int limit = (int)(lw > ln ? lw : ln) / 3;
		if (!prefix && score > (limit > 1 ? limit : 1))
			continue;
		if (!prefix && (size_t)score >= shorter)
			continue; /* nothing in common */
		size_t at = found < max ? found : max;
		while (at > 0 && score < scores[at - 1])
			at--;
		if (at == max)
			continue;
		size_t move = (found < max ? found : max - 1) - at;
		memmove(&scores[at + 1], &scores[at], move * sizeof(scores[0]));
		memmove(&out[at + 1], &out[at], move * sizeof(out[0]));
		scores[at] = score;
		out[at] = names[i];
		found += found < max;
	}
	return found;
}

static int not_found(virConnectPtr conn, const char *wanted, struct err *e)
{
	virDomainPtr *doms = NULL;
	const char *near[NEAREST_MAX];
	int n = virConnectListAllDomains(conn, &doms, 0);
	const char **names = mem_alloc_array(n > 0 ? (size_t)n : 1, sizeof(*names));
	char text[300] = "";
	size_t len = 0;

	for (int i = 0; i < n; i++)
		names[i] = virDomainGetName(doms[i]);
	size_t found = guests_nearest(wanted, names, n > 0 ? (size_t)n : 0, near, NEAREST_MAX);
	for (size_t i = 0; i < found && len < sizeof(text); i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s", i ? ", " : "", near[i]);
	err_set(e, ERR_CONFIG, "there is no VM '%s' on this host", wanted);
	if (found)
		err_remedy(e, "did you mean: %s? vmferry vms lists all", text);
	else if (n <= 0)
		err_remedy(e, "this host has no VMs at all; vmferry hosts shows the others");
	else
		err_remedy(e, "vmferry vms lists the VMs of this host");
	for (int i = 0; i < n; i++)
		virDomainFree(doms[i]);
	free(doms);
	free(names);
	return -1;
}

virDomainPtr guests_find(virConnectPtr conn, const char *name_or_uuid, struct err *e)
{
	virDomainPtr dom = virDomainLookupByName(conn, name_or_uuid);
	if (dom)
		return dom;
	struct err first = ERR_INIT;
	(void)virt_err(&first, "look up VM '%s'", name_or_uuid);
	if (!virt_err_is(&first, VIR_ERR_NO_DOMAIN)) {
		*e = first;
		return NULL;
	}
	dom = virDomainLookupByUUIDString(conn, name_or_uuid);
	if (!dom)
		(void)not_found(conn, name_or_uuid, e);
	return dom;
}

static const char *paused_reason(int reason)
{
	switch (reason) {
	case VIR_DOMAIN_PAUSED_USER:
		return "user";
	case VIR_DOMAIN_PAUSED_MIGRATION:
		return "migration";
	case VIR_DOMAIN_PAUSED_SAVE:
		return "save";
	case VIR_DOMAIN_PAUSED_DUMP:
		return "dump";
	case VIR_DOMAIN_PAUSED_IOERROR:
		return "ioerror";
	case VIR_DOMAIN_PAUSED_WATCHDOG:
		return "watchdog";
	case VIR_DOMAIN_PAUSED_FROM_SNAPSHOT:
	case VIR_DOMAIN_PAUSED_SNAPSHOT:
		return "snapshot";
	case VIR_DOMAIN_PAUSED_SHUTTING_DOWN:
		return "shutting-down";
	case VIR_DOMAIN_PAUSED_CRASHED:
		return GUESTS_CRASHED;
	case VIR_DOMAIN_PAUSED_STARTING_UP:
		return "starting";
	case VIR_DOMAIN_PAUSED_POSTCOPY:
		return "postcopy";
	case VIR_DOMAIN_PAUSED_POSTCOPY_FAILED:
		return "postcopy-failed";
	default:
		return NULL;
	}
}

const char *guests_paused_reason(virDomainPtr dom)
{
	int state = 0;
	int reason = 0;
	if (virDomainGetState(dom, &state, &reason, 0) < 0)
		return NULL;
	return state == VIR_DOMAIN_CRASHED ? GUESTS_CRASHED : state == VIR_DOMAIN_PAUSED ? paused_reason(reason) : NULL;
}

/* NULL when the domain vanished meanwhile. */
static json_t *describe(virConnectPtr conn, virDomainPtr dom, const char *host)
{
	struct err ignored = ERR_INIT;
	enum where where;
	bool persistent;
	char uuid[VIR_UUID_STRING_BUFLEN];
	int autostart = 0;

	if (virDomainGetUUIDString(dom, uuid) < 0 || where_is(conn, uuid, &where, &persistent, &ignored) < 0 ||
	    where == WHERE_ABSENT)
		return NULL;
	VIRT_STR_AUTO char *xml = virDomainGetXMLDesc(dom, 0);
	DOMAIN_AUTO struct domain *d = xml ? domain_parse(xml, &ignored) : NULL;
	if (!d)
		return NULL;
	(void)virDomainGetAutostart(dom, &autostart); /* a transient one has none */
	return json_pack("{s:s,s:s,s:s,s:s?,s:i,s:I,s:b,s:b,s:s,s:o}", "name", d->name, "uuid", uuid, "state",
			 where_name(where), "reason", guests_paused_reason(dom), "vcpus", (int)d->vcpus, "memory_bytes",
			 (json_int_t)d->memory_bytes, "persistent", persistent, "autostart", autostart != 0, "host",
			 host, "disks", domain_disks_json(d));
}

static int by_name(const void *a, const void *b)
{
	const virDomainPtr *x = a;
	const virDomainPtr *y = b;
	return strcmp(virDomainGetName(*x), virDomainGetName(*y));
}

int guests_list(virConnectPtr conn, const char *host, json_t **list, struct err *e)
{
	virDomainPtr *doms = NULL;
	int n = virConnectListAllDomains(conn, &doms, 0);
	if (n < 0)
		return virt_err(e, "list the VMs of %s", host);
	if (n > 1)
		qsort(doms, (size_t)n, sizeof(doms[0]), by_name);

	json_t *out = json_array();
	for (int i = 0; i < n; i++) {
		json_t *vm = describe(conn, doms[i], host);
		if (vm)
			json_array_append_new(out, vm);
		virDomainFree(doms[i]);
	}
	free(doms);
	*list = out;
	return 0;
}
