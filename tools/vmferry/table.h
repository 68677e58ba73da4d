/*
 * table.h - tables for people, by libsmartcols: headings, columns that line up and shrink to the terminal.
 */
#ifndef VMFERRY_TOOLS_VMFERRY_TABLE_H
#define VMFERRY_TOOLS_VMFERRY_TABLE_H

#include <stdbool.h>
#include <stddef.h>

struct table;

enum table_mark { TABLE_PLAIN, TABLE_WARNING, TABLE_BAD };

/* Heading per column; one that starts with '>' is aligned to the right (and shown without it). Ends with NULL. */
struct table *table_new(const char *const headings[]);
/* One cell per column; NULL: empty. Cells are copied and cleaned of control characters. */
void table_row(struct table *t, const char *const cells[]);
size_t table_rows(const struct table *t);
/* Colours a cell of the last row, where the terminal has colours: the cell must say it in words or signs too. */
void table_mark_cell(struct table *t, size_t column, enum table_mark mark);
/* Prints it, unless it has no rows, and frees it. */
void table_print(struct table *t);
/* The same as text, for a terminal of that width; to be freed. "" without rows. */
char *table_text(struct table *t, unsigned width);

#endif
