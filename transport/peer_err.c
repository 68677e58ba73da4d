#include "transport/peer_err.h"

#include <stdio.h>
#include <string.h>

/* Valid UTF-8 from jansson stays what it is, but for C0, DEL and the C1 controls (0xc2 0x80..0x9f). */
const char *peer_err_printable(const char *text, char *out, size_t size)
{
	size_t n = 0;

	for (size_t i = 0; text[i] && n + 1 < size; i++) {
		const unsigned char c = (unsigned char)text[i];
		const unsigned char next = (unsigned char)text[i + 1];
		if (c < 0x20 || c == 0x7f) {
			out[n++] = ' ';
		} else if (c == 0xc2 && next >= 0x80 && next <= 0x9f) {
			out[n++] = ' ';
			i++;
		} else {
			out[n++] = (char)c;
		}
	}
	/* Full: what may be half a character goes. */
	if (n + 1 == size) {
		while (n > 0 && ((unsigned char)out[n - 1] & 0xc0) == 0x80)
			n--;
		if (n > 0 && ((unsigned char)out[n - 1] & 0x80))
			n--;
	}
	out[n] = '\0';
	return out;
}

/* Text that may hold bytes of files or of other programs; what is not UTF-8 may not break the message. */
static json_t *safe_string(const char *s)
{
	json_t *j = json_string(s);
	char ascii[1200];
	size_t n = 0;

	if (j)
		return j;
	for (; s[n] && n + 1 < sizeof(ascii); n++)
		ascii[n] = (unsigned char)s[n] < 0x80 ? s[n] : '?';
	ascii[n] = '\0';
	return json_string(ascii);
}

json_t *peer_err_to_json(const struct err *e)
{
	json_t *j = json_object();

	json_object_set_new(j, "class", json_string(err_class_name(e->cls)));
	json_object_set_new(j, "text", safe_string(e->text));
	if (e->remedy[0])
		json_object_set_new(j, "remedy", safe_string(e->remedy));
	return j;
}

int peer_err_from_json(const json_t *j, struct err *e)
{
	const char *cls = json_string_value(json_object_get(j, "class"));
	const char *text = json_string_value(json_object_get(j, "text"));
	const char *remedy = json_string_value(json_object_get(j, "remedy"));
	char clean[sizeof(e->text)];

	if (!cls || !text)
		return err_set(e, ERR_PROTOCOL, "the peer reported an error without saying which");
	enum err_class c = err_class_from_name(cls);
	err_set(e, c == ERR_NONE ? ERR_PROTOCOL : c, "%s", peer_err_printable(text, clean, sizeof(clean)));
	if (remedy && remedy[0])
		err_remedy(e, "%s", peer_err_printable(remedy, clean, sizeof(e->remedy)));
	return -1;
}
