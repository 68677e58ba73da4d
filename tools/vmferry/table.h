/*
 * table.h - tables for people, by libsmartcols: headings, columns that line up and shrink to the terminal.
 */
#ifndef VMFERRY_TOOLS_VMFERRY_TABLE_H
#define VMFERRY_TOOLS_VMFERRY_TABLE_H

#include <stddef.h>

struct table;

/* Heading per column; one that starts with '>' is aligned to the right (and shown without it). Ends with NULL. */
struct table *table_new(const char *const headings[]);
/* One cell per column; NULL: empty. Cells are copied and cleaned of control characters. */
void table_row(struct table *t, const char *const cells[]);
size_t table_rows(const struct table *t);
/* Prints it, unless it has no rows, and frees it. */
void table_print(struct table *t);

#endif
