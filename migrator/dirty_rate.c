#include "migrator/dirty_rate.h"

#include "base/clock.h"

#include <string.h>
#include <time.h>

#define MEASURE_S 1
#define LIMIT_NS (4 * NS_PER_S)
#define POLL_NS (50 * NS_PER_MS)

int dirty_rate_start(virDomainPtr dom, struct err *e)
{
	if (virDomainStartDirtyRateCalc(dom, MEASURE_S, VIR_DOMAIN_DIRTYRATE_MODE_PAGE_SAMPLING) < 0)
		return virt_err(e, "measure how fast the guest dirties its memory");
	return 0;
}

/* 1 measured, 0 not yet, -1 error. */
static int ask(virDomainPtr dom, uint64_t *bytes_per_s, struct err *e)
{
	virDomainPtr doms[] = { dom, NULL };
	virDomainStatsRecordPtr *records = NULL;
	int status = 0;
	long long mib = 0;

	if (virDomainListGetStats(doms, VIR_DOMAIN_STATS_DIRTYRATE, &records, 0) < 1)
		return virt_err(e, "ask how fast the guest dirties its memory");
	(void)virTypedParamsGetInt(records[0]->params, records[0]->nparams, "dirtyrate.calc_status", &status);
	(void)virTypedParamsGetLLong(records[0]->params, records[0]->nparams, "dirtyrate.megabytes_per_second", &mib);
	virDomainStatsRecordListFree(records);
	if (status != VIR_DOMAIN_DIRTYRATE_MEASURED)
		return 0;
	*bytes_per_s = mib > 0 ? (uint64_t)mib << 20 : 0;
	return 1;
}

int dirty_rate_finish(virDomainPtr dom, uint64_t *bytes_per_s, struct err *e)
{
	const struct timespec pause = { .tv_nsec = POLL_NS };
	int64_t deadline = clock_mono_ns() + LIMIT_NS;

	do {
		int rc = ask(dom, bytes_per_s, e);
		if (rc != 0)
			return rc < 0 ? -1 : 0;
		(void)nanosleep(&pause, NULL);
	} while (clock_mono_ns() < deadline);
	return err_set(e, ERR_LIBVIRT, "QEMU did not finish measuring how fast the guest dirties its memory");
}
