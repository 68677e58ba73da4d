#include "migrator/xml.h"

#include "base/mem.h"

#include <ctype.h>
#include <libxml/parser.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* libxml2 wants its first use to be in one thread. */
static pthread_once_t once = PTHREAD_ONCE_INIT;

xmlDocPtr xml_parse(const char *text, size_t max, const char *what, struct err *e)
{
	size_t len = strlen(text);

	(void)pthread_once(&once, xmlInitParser);
	if (len == 0 || len > max) {
		err_set(e, ERR_CORRUPT, "%s is %s", what, len ? "too long" : "empty");
		return NULL;
	}
	/* libvirt never writes a DTD, and entities in attributes would be expanded. */
	if (strstr(text, "<!DOCTYPE") || strstr(text, "<!ENTITY")) {
		err_set(e, ERR_CORRUPT, "%s has a document type declaration", what);
		return NULL;
	}
	/* Entities are not substituted and DTDs not loaded (neither NOENT nor DTDLOAD), so that a peer's XML can't
	 * make us read files. */
	xmlDocPtr doc = xmlReadMemory(text, (int)len, NULL, NULL,
				      XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING | XML_PARSE_NOCDATA);
	if (!doc) {
		const xmlError *last = xmlGetLastError();
		const char *why = last && last->message ? last->message : "unknown error";
		err_set(e, ERR_CORRUPT, "%s is not well-formed: line %d: %.*s", what, last ? last->line : 0,
			(int)strcspn(why, "\n"), why);
	}
	return doc;
}

void xml_doc_free(xmlDocPtr *doc)
{
	if (*doc)
		xmlFreeDoc(*doc);
	*doc = NULL;
}

bool xml_is(xmlNodePtr node, const char *name)
{
	return node && node->type == XML_ELEMENT_NODE && strcmp((const char *)node->name, name) == 0;
}

static xmlNodePtr element_from(xmlNodePtr node, const char *name)
{
	for (; node; node = node->next)
		if (node->type == XML_ELEMENT_NODE && (!name || xml_is(node, name)))
			return node;
	return NULL;
}

xmlNodePtr xml_first(xmlNodePtr parent)
{
	return parent ? element_from(parent->children, NULL) : NULL;
}

xmlNodePtr xml_following(xmlNodePtr node)
{
	return node ? element_from(node->next, NULL) : NULL;
}

xmlNodePtr xml_child(xmlNodePtr parent, const char *name)
{
	return parent ? element_from(parent->children, name) : NULL;
}

xmlNodePtr xml_next(xmlNodePtr node, const char *name)
{
	return node ? element_from(node->next, name) : NULL;
}

static char *own_copy(xmlChar *value)
{
	char *copy = mem_strdup((const char *)value);
	xmlFree(value);
	return copy;
}

char *xml_attr(xmlNodePtr node, const char *name)
{
	return node ? own_copy(xmlGetNoNsProp(node, (const xmlChar *)name)) : NULL;
}

char *xml_text(xmlNodePtr node)
{
	if (!node)
		return NULL;
	char *text = own_copy(xmlNodeGetContent(node));
	if (!text)
		return NULL;
	size_t start = strspn(text, " \t\r\n");
	size_t len = strlen(text + start);
	while (len > 0 && isspace((unsigned char)text[start + len - 1]))
		len--;
	memmove(text, text + start, len);
	text[len] = 0;
	return text;
}

bool xml_attr_is(xmlNodePtr node, const char *name, const char *value)
{
	MEM_AUTO char *have = xml_attr(node, name);
	return have && strcmp(have, value) == 0;
}

char *xml_dump(xmlNodePtr node)
{
	if (!node)
		return NULL;
	xmlBufferPtr buffer = xmlBufferCreate();
	xmlNodeDump(buffer, node->doc, node, 0, 0);
	char *text = mem_strdup((const char *)xmlBufferContent(buffer));
	xmlBufferFree(buffer);
	return text;
}

char *xml_dump_doc(xmlDocPtr doc)
{
	return xml_dump(xmlDocGetRootElement(doc));
}

void xml_take(char **slot, char *value)
{
	free(*slot);
	*slot = value;
}
