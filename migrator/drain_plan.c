#include "migrator/drain_plan.h"

#include <string.h>

static bool before(const struct drain_plan_vm *a, const struct drain_plan_vm *b)
{
	if (a->memory_bytes != b->memory_bytes)
		return a->memory_bytes > b->memory_bytes;
	return strcmp(a->name, b->name) < 0;
}

void drain_plan_order(const struct drain_plan *p, size_t *order)
{
	for (size_t i = 0; i < p->n_vms; i++) {
		size_t at = i;
		while (at > 0 && before(&p->vms[i], &p->vms[order[at - 1]])) {
			order[at] = order[at - 1];
			at--;
		}
		order[at] = i;
	}
}

/* The host with the most to spare that has not been tried for this VM. */
static size_t best(const struct drain_plan *p, const struct drain_plan_vm *vm)
{
	size_t found = DRAIN_PLAN_NOWHERE;
	for (size_t h = 0; h < p->n_hosts; h++) {
		if (!p->hosts[h].usable || vm->tried[h])
			continue;
		if (found == DRAIN_PLAN_NOWHERE || p->hosts[h].spare_bytes > p->hosts[found].spare_bytes)
			found = h;
	}
	return found;
}

bool drain_plan_place(struct drain_plan *p, size_t vm)
{
	struct drain_plan_vm *v = &p->vms[vm];

	v->host = DRAIN_PLAN_NOWHERE;
	for (size_t h = best(p, v); h != DRAIN_PLAN_NOWHERE; h = best(p, v)) {
		v->tried[h] = true;
		if (v->memory_bytes > p->hosts[h].spare_bytes) {
			if (p->too_small)
				p->too_small(p->ctx, vm, h);
			continue;
		}
		if (p->possible && !p->possible(p->ctx, vm, h))
			continue;
		p->hosts[h].spare_bytes -= v->memory_bytes;
		v->host = h;
		return true;
	}
	return false;
}

void drain_plan_release(struct drain_plan *p, size_t vm)
{
	struct drain_plan_vm *v = &p->vms[vm];
	if (v->host == DRAIN_PLAN_NOWHERE)
		return;
	p->hosts[v->host].spare_bytes += v->memory_bytes;
	v->host = DRAIN_PLAN_NOWHERE;
}
