/* SPDX-License-Identifier: MIT */
/*
 * A small shared library: NAME_calls(from, to) faults in NAME_touches, by way of its own PLT. Its
 * FRAME is all in which another differs from it, whose functions lie where its own do.
 */
#include "golden.h"

#define PASTED(a, b) a##b
#define NAMED(a, b) PASTED(a, b)

void NAMED(NAME, _touches)(unsigned char *from, unsigned char *to);

OWN void NAMED(NAME, _touches)(unsigned char *from, unsigned char *to)
{
	char own[FRAME];
	KEEP(own);
	for (; from < to; from += PAGE)
		*(volatile unsigned char *)from = 1;
	KEEP(own);
}

OWN void NAMED(NAME, _calls)(unsigned char *from, unsigned char *to)
{
	char own[FRAME];
	KEEP(own);
	NAMED(NAME, _touches)(from, to);
	AFTER_CALL;
}
