#include "snapshot/guest.h"

#include <stdlib.h>
#include <string.h>

void guest_info_fini(struct guest_info *i)
{
	for (size_t k = 0; k < i->n_disks; k++) {
		free(i->disks[k].path);
		free(i->disks[k].format);
		free(i->disks[k].node);
	}
	for (size_t k = 0; k < i->n_files; k++)
		free(i->files[k].path);
	free(i->disks);
	free(i->files);
	free(i->xml);
	memset(i, 0, sizeof(*i));
}

void guest_free(struct guest *g)
{
	if (!g)
		return;
	g->ops->free(g->ctx);
	free(g);
}
