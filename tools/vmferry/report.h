/*
 * report.h - results of what takes a while as text for people. Pure: JSON in, text out.
 */
#ifndef VMFERRY_TOOLS_VMFERRY_REPORT_H
#define VMFERRY_TOOLS_VMFERRY_REPORT_H

#include "base/buf.h"

#include <jansson.h>
#include <stdbool.h>

/* What a migration did: where the VM runs, how long it took, what travelled, warnings. */
void report_migration(const json_t *result, struct buf *out);
/* Findings of preflight: severity, text, remedy. Nothing for an empty list. */
void report_findings(const json_t *findings, struct buf *out);
/* The forecast of `plan`. */
void report_forecast(const json_t *forecast, struct buf *out);
/* The number of findings that refuse a migration. */
size_t report_refusals(const json_t *findings);

/* What a failover did: where the VM runs, from which point, what was lost (measured RPO), how long it took. */
void report_failover(const json_t *result, struct buf *out);
void report_failback(const json_t *result, struct buf *out);
/* What was read, and what does not verify. */
void report_verify(const json_t *result, struct buf *out);
/* True unless something did not verify. */
bool report_verified(const json_t *result);
void report_export(const json_t *result, struct buf *out);

#endif
