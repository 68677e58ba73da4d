/*
 * xxh3.h - libxxhash, with the widest instructions that this CPU has, where the library comes with that choice.
 */
#ifndef VMFERRY_BASE_XXH3_H
#define VMFERRY_BASE_XXH3_H

#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#endif
