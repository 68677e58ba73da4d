#include "migrator/qemu_conf.h"

#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* libvirt's format (virconf): KEY = "VALUE", one a line; the last one counts. */
char *qemu_conf_string(const char *path, const char *key)
{
	FILE *f = fopen(path, "re");
	const size_t n = strlen(key);
	char line[1024];
	char *value = NULL;

	while (f && fgets(line, sizeof(line), f)) {
		const char *p = line + strspn(line, " \t");
		if (strncmp(p, key, n) != 0)
			continue;
		p += n;
		p += strspn(p, " \t");
		if (*p++ != '=')
			continue;
		p += strspn(p, " \t");
		const char *end = *p == '"' ? strchr(p + 1, '"') : NULL;
		if (!end)
			continue;
		free(value);
		value = mem_printf("%.*s", (int)(end - p - 1), p + 1);
	}
	if (f)
		fclose(f);
	return value;
}
