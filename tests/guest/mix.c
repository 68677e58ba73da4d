#include "mix.h"

#include <string.h>

void mix_fill(void *out, size_t n, uint64_t seed)
{
	uint64_t *words = out;

	for (size_t i = 0; i < n / 8; i++)
		words[i] = mix_next(&seed);
}

int mix_holds(const void *data, size_t n, uint64_t seed)
{
	const uint64_t *words = data;

	for (size_t i = 0; i < n / 8; i++)
		if (words[i] != mix_next(&seed))
			return 0;
	return 1;
}

uint64_t mix_hash(const void *data, size_t n)
{
	const uint64_t *words = data;
	uint64_t h = n;

	for (size_t i = 0; i < n / 8; i++) {
		h = (h ^ words[i]) * 0x9fb21c651e98df25u;
		h ^= h >> 35;
	}
	return h;
}

static const char *const words[] = {
    "account",   "active",   "address", "amount",   "archive",  "balance",  "branch",   "cancel",   "carrier",
    "catalogue", "charge",   "city",    "client",   "closed",   "contract", "country",  "credit",   "currency",
    "customer",  "daily",    "deliver", "deposit",  "discount", "district", "draft",    "east",     "estimate",
    "export",    "factory",  "field",   "final",    "freight",  "garden",   "gross",    "harbour",  "holiday",
    "house",     "import",   "index",   "insured",  "invoice",  "item",     "journey",  "kilogram", "label",
    "ledger",    "limit",    "market",  "material", "meadow",   "member",   "minimum",  "monthly",  "north",
    "number",    "office",   "open",    "order",    "origin",   "packet",   "partner",  "payment",  "pending",
    "period",    "picture",  "premium", "price",    "primary",  "product",  "profile",  "purchase", "quantity",
    "quarter",   "railway",  "receipt", "record",   "refund",   "region",   "renewal",  "request",  "reserve",
    "return",    "river",    "route",   "sample",   "season",   "section",  "service",  "session",  "shipment",
    "south",     "standard", "station", "status",   "stock",    "storage",  "street",   "subject",  "summary",
    "supplier",  "support",  "surface", "tariff",   "ticket",   "total",    "transfer", "transit",  "travel",
    "update",    "urgent",   "valid",   "value",    "vehicle",  "vendor",   "village",  "voucher",  "warehouse",
    "weekly",    "weight",   "west",    "window",   "winter",   "yearly",   "zone",     "annual",   "border",
    "bridge",    "contact",
};

#define WORDS (sizeof(words) / sizeof(words[0]))

/* Where the record is written; what does not fit is left away. Formatting by hand: it is most of the guest's work. */
struct pen {
	char *at, *end;
};

static void put(struct pen *pen, const char *text)
{
	while (*text && pen->at < pen->end)
		*pen->at++ = *text++;
}

static void put_number(struct pen *pen, uint64_t n)
{
	char digits[21], *p = digits + sizeof(digits) - 1;

	*p = 0;
	do
		*--p = (char)('0' + n % 10);
	while (n /= 10);
	put(pen, p);
}

void mix_record(char *out, size_t n, uint64_t number, uint64_t version)
{
	uint64_t lasting = mix_seed(number, 0), changing = mix_seed(number, version);
	struct pen pen = {out, out + n - 1};

	put(&pen, "{\"id\":");
	put_number(&pen, number);
	put(&pen, ",\"version\":");
	put_number(&pen, version);
	/* A quarter of the fields depends on the version, the rest is what the row has had since it was made. */
	for (uint64_t field = 0; pen.at < pen.end; field++) {
		uint64_t r = field % 4 == 0 ? mix_next(&changing) : mix_next(&lasting);

		put(&pen, ",\"");
		put(&pen, words[field % WORDS]);
		put(&pen, "_");
		put(&pen, words[field * 7 % WORDS]);
		put(&pen, "\":\"");
		put(&pen, words[r % WORDS]);
		put(&pen, " ");
		put(&pen, words[(r >> 8) % WORDS]);
		put(&pen, " ");
		put_number(&pen, (r >> 16) % 100000);
		put(&pen, "\"");
	}
	out[n - 1] = '}';
}
