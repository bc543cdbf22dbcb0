/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * Walks the tracer's own page tables on request, to find the direct map's base
 * (tracer/kernel/paging.py).
 */
#ifndef PAGEFAULT_HOOKS_CALIBRATE_BPF_H
#define PAGEFAULT_HOOKS_CALIBRATE_BPF_H

/* Attached to sys_enter only while user space calibrates (tracer/kernel/paging.py). */
int hook__calibrate(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0;
	struct calibration *ask = calibration.lookup(&zero);
	struct walk found = {};
	u64 task = bpf_get_current_task();
	u64 mm = 0, pgd = 0, value = 0, nonce = 0, pid = 0;
	u32 level = 0;

	READ(nonce, ctx->args[0], __builtin_offsetof(struct pt_regs, di));
	if (!ask || !ask->nonce || ask->nonce != nonce)
		return 0;
	READ(mm, task, O_TASK_MM);
	READ(pgd, mm, O_MM_PGD);
	if (ask->symbol)
		READ(value, ask->symbol, 0);
	if (ask->direct_map)
		walk_page(ask->direct_map, pgd, ask->address, &found);
	ask->pgd = pgd;
	ask->value = value;
	ask->entry = found.entry;
	ask->level = found.level;
	/* The thread's PID namespace is that of the last of struct pid's numbers. */
	READ(pid, task, O_TASK_THREAD_PID);
	READ(level, pid, O_PID_LEVEL);
	READ(ask->namespace, pid, O_PID_NUMBERS + level * 16 + O_UPID_NS);
	ask->namespace_level = level;
	ask->nonce = 0;
	return 0;
}

#endif
