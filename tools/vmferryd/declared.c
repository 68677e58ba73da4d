#include "tools/vmferryd/declared.h"

#include "base/clock.h"

#include <stdio.h>

static json_t *time_of_day(unsigned minutes)
{
	return json_sprintf("%02u:%02u", minutes / 60, minutes % 60);
}

static json_t *window(const struct config_window *w)
{
	json_t *o = json_pack("{s:o, s:o}", "from", time_of_day(w->from), "to", time_of_day(w->to));
	if (w->every)
		json_object_set_new(o, "every_ms", json_integer(w->every / NS_PER_MS));
	if (w->bandwidth != CONFIG_AS_OUTSIDE)
		json_object_set_new(o, "bandwidth", json_integer((json_int_t)w->bandwidth));
	return o;
}

static json_t *schedule(const struct config_protection *p)
{
	json_t *o = json_object();
	if (p->every)
		json_object_set_new(o, "every_ms", json_integer(p->every / NS_PER_MS));
	if (p->n_windows)
		json_object_set_new(o, "windows", json_array());
	for (size_t i = 0; i < p->n_windows; i++)
		json_array_append_new(json_object_get(o, "windows"), window(&p->windows[i]));
	return o;
}

json_t *declared_args(const struct config_protection *p)
{
	json_t *o = json_pack("{s:s, s:s, s:I, s:s, s:{s:i, s:i, s:i, s:I}, s:b}", "vm", p->vm, "host", p->to, "rpo_ms",
			      (json_int_t)(p->rpo / NS_PER_MS), "mode", p->mode, "keep", "last", (int)p->keep.last,
			      "hourly", (int)p->keep.hourly, "daily", (int)p->keep.daily, "max_bytes",
			      (json_int_t)p->keep.size, "quiesce", p->quiesce);
	if (p->max_pause)
		json_object_set_new(o, "max_pause_ms", json_integer(p->max_pause / NS_PER_MS));
	if (p->bandwidth != CONFIG_AS_OUTSIDE)
		json_object_set_new(o, "bandwidth", json_integer((json_int_t)p->bandwidth));
	if (p->every || p->n_windows)
		json_object_set_new(o, "schedule", schedule(p));
	return o;
}
