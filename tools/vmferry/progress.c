#include "tools/vmferry/progress.h"

#include "base/units.h"
#include "tools/vmferry/cli.h"

#include <stdio.h>
#include <string.h>
#include <wchar.h>

#define WORTH_SAYING 1.05 /* times smaller */

static const struct {
	const char *phase, *shown;
} phases[] = {
	{ "preflight", "checking" },
	{ "begin", "preparing" },
	{ "disks", "disks" },
	{ "memory", "memory" },
	{ "switchover", "switching over" },
	{ "undecided", "asking the target" },
	{ "post-copy", "post-copy" },
	{ "seed", "first copy" },
	{ "compare", "comparing" },
	{ "adopt", "reading the old copy" },
	{ "tidy", "tidying up" },
	{ "verify", "verifying" },
	{ "look", "checking" },
	{ "hand", "last checkpoint" },
	{ "epoch", "raising the epoch" },
	{ "fence", "fencing" },
	{ "restore", "restoring" },
	{ "start", "starting" },
	{ "export", "writing" },
	{ "done", "done" },
};

static const char *phase_shown(const char *phase)
{
	for (size_t i = 0; i < sizeof(phases) / sizeof(phases[0]); i++)
		if (strcmp(phases[i].phase, phase) == 0)
			return phases[i].shown;
	return phase;
}

static void forget_figures(struct progress *p)
{
	p->percent = -1;
	p->ratio = -1;
	p->rate = p->dirty_rate = p->remaining = p->eta_ms = p->iteration = -1;
	p->text[0] = '\0';
}

void progress_init(struct progress *p, const char *vm, const char *to)
{
	memset(p, 0, sizeof(*p));
	cli_clean(vm, p->vm, sizeof(p->vm));
	cli_clean(to, p->to, sizeof(p->to));
	forget_figures(p);
}

static void take_int(const json_t *note, const char *key, int64_t *to)
{
	if (json_is_number(json_object_get(note, key)))
		*to = cli_int(note, key, -1);
}

bool progress_note(struct progress *p, const json_t *note)
{
	bool changed = false;
	char phase[sizeof(p->phase)];
	cli_clean(cli_str(note, "phase", p->phase), phase, sizeof(phase));
	if (strcmp(phase, p->phase) != 0) {
		forget_figures(p);
		memcpy(p->phase, phase, sizeof(phase));
		changed = true;
	}
	p->percent = cli_real(note, "percent", p->percent);
	p->ratio = cli_real(note, "ratio", p->ratio);
	take_int(note, "rate", &p->rate);
	take_int(note, "dirty_rate", &p->dirty_rate);
	take_int(note, "remaining_bytes", &p->remaining);
	take_int(note, "eta_ms", &p->eta_ms);
	take_int(note, "iteration", &p->iteration);
	cli_clean(cli_str(note, "text", ""), p->text, sizeof(p->text)); /* what is said holds until the next note */
	if (json_is_string(json_object_get(note, "host")))              /* drain: the next one goes elsewhere */
		cli_clean(cli_str(note, "host", ""), p->to, sizeof(p->to));
	if (json_is_string(json_object_get(note, "vm")))
		cli_clean(cli_str(note, "vm", ""), p->vm, sizeof(p->vm));
	return changed;
}

bool progress_at_source(const struct progress *p)
{
	static const char *const later[] = { "switchover", "undecided", "post-copy", "done" };
	for (size_t i = 0; i < sizeof(later) / sizeof(later[0]); i++)
		if (strcmp(p->phase, later[i]) == 0)
			return false;
	return true;
}

/* Parts in the order in which they are shown; rank says what is left out last. */
struct part {
	unsigned rank;
	char text[220];
};
enum { PART_WHO, PART_PHASE, PART_PERCENT, PART_RATE, PART_DIRTY, PART_RATIO, PART_PASS, PART_ETA, PART_TEXT, PARTS };

/* Columns on the terminal; bytes where the text is not valid in this locale. */
static size_t columns_of(const char *text)
{
	mbstate_t state = { 0 };
	size_t columns = 0;
	while (*text) {
		wchar_t wc;
		size_t n = mbrtowc(&wc, text, strlen(text), &state);
		if (n == (size_t)-1 || n == (size_t)-2 || n == 0) {
			memset(&state, 0, sizeof(state));
			n = 1;
			columns++;
		} else {
			int w = wcwidth(wc);
			columns += w > 0 ? (size_t)w : 0;
		}
		text += n;
	}
	return columns;
}

static void fill_parts(const struct progress *p, struct part parts[PARTS])
{
	char a[32];
	static const unsigned ranks[PARTS] = {
		[PART_PHASE] = 0, [PART_PERCENT] = 1, [PART_ETA] = 2,  [PART_RATE] = 3, [PART_WHO] = 4,
		[PART_DIRTY] = 5, [PART_RATIO] = 6,   [PART_TEXT] = 7, [PART_PASS] = 8
	};
	for (int i = 0; i < PARTS; i++) {
		parts[i].rank = ranks[i];
		parts[i].text[0] = '\0';
	}
	if (p->vm[0])
		snprintf(parts[PART_WHO].text, sizeof(parts[0].text), "%s%s%s", p->vm, p->to[0] ? " -> " : "", p->to);
	snprintf(parts[PART_PHASE].text, sizeof(parts[0].text), "%s", p->phase[0] ? phase_shown(p->phase) : "starting");
	if (p->percent >= 0)
		snprintf(parts[PART_PERCENT].text, sizeof(parts[0].text), "%3.0f %%",
			 p->percent > 100 ? 100.0 : p->percent);
	if (p->rate >= 0)
		snprintf(parts[PART_RATE].text, sizeof(parts[0].text), "%s",
			 units_format_rate((uint64_t)p->rate, a, sizeof(a)));
	/* In the first pass it is 0 because nobody has looked yet. */
	if (p->dirty_rate > 0 || (p->dirty_rate == 0 && p->iteration > 1))
		snprintf(parts[PART_DIRTY].text, sizeof(parts[0].text), "dirty %s/s",
			 units_format_size((uint64_t)p->dirty_rate, a, sizeof(a)));
	if (p->ratio >= WORTH_SAYING)
		snprintf(parts[PART_RATIO].text, sizeof(parts[0].text), "%.1fx smaller", p->ratio);
	if (p->iteration > 1)
		snprintf(parts[PART_PASS].text, sizeof(parts[0].text), "pass %lld", (long long)p->iteration);
	if (p->eta_ms >= 0)
		snprintf(parts[PART_ETA].text, sizeof(parts[0].text), "%s left", cli_duration(p->eta_ms, a, sizeof(a)));
	snprintf(parts[PART_TEXT].text, sizeof(parts[0].text), "%s", p->text);
}

const char *progress_line(const struct progress *p, unsigned width, char *buf, size_t size)
{
	struct part parts[PARTS];
	bool shown[PARTS] = { false };
	size_t used = 0, bytes = 1;
	fill_parts(p, parts);
	for (unsigned rank = 0; rank < PARTS; rank++) {
		for (int i = 0; i < PARTS; i++) {
			if (parts[i].rank != rank || !parts[i].text[0])
				continue;
			size_t gap = used ? 2 : 0, columns = columns_of(parts[i].text), n = strlen(parts[i].text);
			if (used + gap + columns > width || bytes + gap + n > size)
				continue;
			shown[i] = true;
			used += gap + columns;
			bytes += gap + n;
		}
	}
	size_t len = 0;
	buf[0] = '\0';
	for (int i = 0; i < PARTS; i++)
		if (shown[i])
			len += (size_t)snprintf(buf + len, size - len, "%s%s", len ? "  " : "", parts[i].text);
	return buf;
}
