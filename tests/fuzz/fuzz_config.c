/* The configuration comes from root, but a typo must never be more than a message. */
#include "base/mem.h"
#include "config/config.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const char *__lsan_default_suppressions(void);

/* libconfig 1.5 forgets a string when a syntax error follows it. */
const char *__lsan_default_suppressions(void)
{
	return "leak:libconfig.so\n";
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size > 65536)
		return 0;
	char *text = malloc(size + 1);
	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	struct err e = ERR_INIT;
	struct config *c = config_load_text(text, "fuzz", NULL, NULL, &e);
	/* Either a configuration or a reason, never both or none. */
	if ((c == NULL) != err_is_set(&e))
		abort();
	if (c) {
		MEM_AUTO char *described = config_describe(c);
		if (!described || config_reload_diff(c, c, NULL, 0) != 0)
			abort();
	}
	config_free(c);
	free(text);
	return 0;
}
