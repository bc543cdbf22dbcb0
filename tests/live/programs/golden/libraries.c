/* SPDX-License-Identifier: MIT */
/* Libraries: called by way of the PLT, and two that lie at the same addresses in turn. */
#include "golden.h"
#include <dlfcn.h>

void linked_calls(unsigned char *from, unsigned char *to);
typedef void calls(unsigned char *from, unsigned char *to);

OWN void linked_outer(void)
{
	long own[7];
	KEEP(own);
	linked_calls(fresh, stop);
	fresh = stop;
}

OWN void opened_outer(calls *call, unsigned char *from, unsigned char *to)
{
	long own[5];
	KEEP(own);
	call(from, to);
	AFTER_CALL;
}

/*
 * Two in turn, each where the one before it was, with no time between: half of the pages are the
 * first one's, half the second one's, and after the first page of each there is a pause.
 */
static void open_libraries(void)
{
	static const char *const names[][2] = {{"golden-one.so", "one_calls"},
					       {"golden-two.so", "two_calls"}};
	static void *there;
	char path[512];

	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s%s", folder, names[i][0]);
		void *library = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
		check(library != NULL, path);
		calls *call = (calls *)dlsym(library, names[i][1]);
		check(call != NULL, names[i][1]);
		if (there && (void *)call != there)
			say("missing reuse\n");
		there = (void *)call;
		unsigned char *end = i ? stop : fresh + (stop - fresh) / 2;
		opened_outer(call, fresh, fresh + PAGE);
		pause_for(150, 1000);
		opened_outer(call, fresh + PAGE, end);
		fresh = end;
		check(dlclose(library) == 0, "dlclose");
	}
}

SCENARIOS({"linked", linked_outer, 1}, {"opened", open_libraries, 2})
