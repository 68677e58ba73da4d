#include "migrator/jobstats.h"

#include <string.h>

static const struct {
	const char *field;
	size_t offset;
} u64_fields[] = {
	{ VIR_DOMAIN_JOB_TIME_ELAPSED, offsetof(struct jobstats, elapsed_ms) },
	{ VIR_DOMAIN_JOB_DOWNTIME, offsetof(struct jobstats, downtime_ms) },
	{ VIR_DOMAIN_JOB_MEMORY_TOTAL, offsetof(struct jobstats, memory_total) },
	{ VIR_DOMAIN_JOB_MEMORY_PROCESSED, offsetof(struct jobstats, memory_processed) },
	{ VIR_DOMAIN_JOB_MEMORY_REMAINING, offsetof(struct jobstats, memory_remaining) },
	{ VIR_DOMAIN_JOB_MEMORY_BPS, offsetof(struct jobstats, memory_bps) },
	{ VIR_DOMAIN_JOB_MEMORY_DIRTY_RATE, offsetof(struct jobstats, memory_dirty_rate) },
	{ VIR_DOMAIN_JOB_MEMORY_PAGE_SIZE, offsetof(struct jobstats, page_size) },
	{ VIR_DOMAIN_JOB_MEMORY_ITERATION, offsetof(struct jobstats, iteration) },
	{ VIR_DOMAIN_JOB_MEMORY_CONSTANT, offsetof(struct jobstats, memory_constant) },
	{ VIR_DOMAIN_JOB_MEMORY_NORMAL, offsetof(struct jobstats, memory_normal) },
	{ VIR_DOMAIN_JOB_DISK_TOTAL, offsetof(struct jobstats, disk_total) },
	{ VIR_DOMAIN_JOB_DISK_PROCESSED, offsetof(struct jobstats, disk_processed) },
	{ VIR_DOMAIN_JOB_DISK_REMAINING, offsetof(struct jobstats, disk_remaining) },
	{ VIR_DOMAIN_JOB_DISK_BPS, offsetof(struct jobstats, disk_bps) },
};

static void take(struct jobstats *s, const virTypedParameter *p)
{
	if (p->type == VIR_TYPED_PARAM_INT && strcmp(p->field, VIR_DOMAIN_JOB_AUTO_CONVERGE_THROTTLE) == 0)
		s->auto_converge_throttle = p->value.i;
	if (p->type != VIR_TYPED_PARAM_ULLONG)
		return;
	if (strcmp(p->field, VIR_DOMAIN_JOB_DOWNTIME) == 0)
		s->has_downtime = true;
	for (size_t i = 0; i < sizeof u64_fields / sizeof u64_fields[0]; i++) {
		if (strcmp(p->field, u64_fields[i].field) != 0)
			continue;
		uint64_t v = p->value.ul;
		memcpy((char *)s + u64_fields[i].offset, &v, sizeof v);
	}
}

int jobstats_get(virDomainPtr dom, unsigned flags, struct jobstats *out, struct err *e)
{
	virTypedParameterPtr params = NULL;
	struct jobstats s = { 0 };
	int n = 0;

	if (virDomainGetJobStats(dom, &s.type, &params, &n, flags) != 0)
		return virt_err(e, "statistics of the migration");
	for (int i = 0; i < n; i++)
		take(&s, &params[i]);
	virTypedParamsFree(params, n);
	*out = s;
	return 0;
}
