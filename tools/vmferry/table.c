#include "tools/vmferry/table.h"

#include "base/mem.h"
#include "tools/vmferry/cli.h"
#include "tools/vmferry/screen.h"

#include <libsmartcols.h>
#include <stdlib.h>
#include <string.h>

struct table {
	struct libscols_table *scols;
	size_t columns;
	size_t rows;
	struct libscols_line *last;
};

struct table *table_new(const char *const headings[])
{
	struct table *t = mem_alloc(sizeof(*t));
	scols_init_debug(0);
	t->scols = scols_new_table();
	if (!t->scols)
		abort();
	for (; headings[t->columns]; t->columns++) {
		const char *h = headings[t->columns];
		int right = *h == '>';
		/* Wrapping the last column keeps long reasons readable on a narrow terminal. */
		int flags = right ? SCOLS_FL_RIGHT : headings[t->columns + 1] ? 0 : SCOLS_FL_WRAP;
		if (!scols_table_new_column(t->scols, h + right, 0, flags))
			abort();
	}
	return t;
}

void table_row(struct table *t, const char *const cells[])
{
	struct libscols_line *line = scols_table_new_line(t->scols, NULL);
	if (!line)
		abort();
	for (size_t i = 0; i < t->columns; i++) {
		char clean[1000];
		if (scols_line_set_data(line, i, cells[i] ? cli_clean(cells[i], clean, sizeof(clean)) : "-") != 0)
			abort();
	}
	t->last = line;
	t->rows++;
}

void table_mark_cell(struct table *t, size_t column, enum table_mark mark)
{
	struct libscols_cell *cell = t->last ? scols_line_get_cell(t->last, column) : NULL;
	if (!cell || mark == TABLE_PLAIN)
		return;
	scols_cell_set_color(cell, mark == TABLE_BAD ? "red" : "yellow");
	scols_table_enable_colors(t->scols, screen_has_colour());
}

size_t table_rows(const struct table *t)
{
	return t->rows;
}

void table_print(struct table *t)
{
	if (table_rows(t) > 0)
		scols_print_table(t->scols);
	scols_unref_table(t->scols);
	free(t);
}

char *table_text(struct table *t, unsigned width)
{
	char *text = NULL;
	scols_table_set_termforce(t->scols, SCOLS_TERMFORCE_ALWAYS);
	scols_table_set_termwidth(t->scols, width);
	if (table_rows(t) > 0 && scols_print_table_to_string(t->scols, &text) != 0)
		text = NULL;
	scols_unref_table(t->scols);
	free(t);
	return text ? text : mem_strdup("");
}
