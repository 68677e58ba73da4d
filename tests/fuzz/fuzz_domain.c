/*
 * fuzz_domain - domain XML as a peer may send it: parsed, or refused; what was parsed can be listed and edited, and
 * parses again.
 */
#include "migrator/domain.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct err e = ERR_INIT;
	char label[128];
	char *xml = malloc(size + 1);

	if (!xml)
		return 0;
	if (size > 0)
		memcpy(xml, data, size);
	xml[size] = 0;
	struct domain *d = domain_parse(xml, &e);
	if (!d && e.cls != ERR_CORRUPT)
		abort();
	if (d) {
		json_decref(domain_disks_json(d));
		for (size_t i = 0; i < d->n_disks; i++)
			if (!domain_disk_label(&d->disks[i], label, sizeof(label))[0] && d->disks[i].target[0])
				abort();
		const struct domain_disk_edit edit = { .target = d->n_disks ? d->disks[0].target : "",
						       .format = "raw",
						       .flatten = true };
		char *edited = domain_for_define(xml, d->n_disks ? &edit : NULL, d->n_disks ? 1 : 0, &e);
		struct domain *again = edited ? domain_parse(edited, &e) : NULL;
		if (edited && !again)
			abort();
		domain_free(again);
		free(edited);
	}
	domain_free(d);
	free(xml);
	return 0;
}
