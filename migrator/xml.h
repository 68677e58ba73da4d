/*
 * xml.h - reading libvirt's XML with libxml2: elements by name, attributes and text as heap strings of our own.
 *
 * Every function takes a NULL node and then gives NULL, so that paths can be written without checks in between.
 */
#ifndef VMFERRY_MIGRATOR_XML_H
#define VMFERRY_MIGRATOR_XML_H

#include "base/err.h"

#include <libxml/tree.h>
#include <stdbool.h>
#include <stddef.h>

/* No network, no external entities, no DTD; over `max` bytes or malformed is ERR_CORRUPT with `what` in the text. */
xmlDocPtr xml_parse(const char *text, size_t max, const char *what, struct err *e);
void xml_doc_free(xmlDocPtr *doc);
#define XML_DOC_AUTO __attribute__((cleanup(xml_doc_free)))

bool xml_is(xmlNodePtr node, const char *name);
/* First child element, next element; any name or that name. */
xmlNodePtr xml_first(xmlNodePtr parent);
xmlNodePtr xml_following(xmlNodePtr node);
xmlNodePtr xml_child(xmlNodePtr parent, const char *name);
xmlNodePtr xml_next(xmlNodePtr node, const char *name);

/* Heap copies; NULL when missing. Text is trimmed. */
char *xml_attr(xmlNodePtr node, const char *name);
char *xml_text(xmlNodePtr node);
bool xml_attr_is(xmlNodePtr node, const char *name, const char *value);
/* The element with everything in it, as text. */
char *xml_dump(xmlNodePtr node);
char *xml_dump_doc(xmlDocPtr doc);
/* Replaces *slot by value, which is taken over. */
void xml_take(char **slot, char *value);

#endif
