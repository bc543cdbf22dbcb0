/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * The hooks of system calls. Calls that change mappings or pages are reported at exit and, where
 * other threads may fault meanwhile, at entry. For `perf`, which sees no fault taken inside a
 * call, also what a call populated or wrote in another process.
 */
#ifndef PAGEFAULT_HOOKS_SYSCALLS_BPF_H
#define PAGEFAULT_HOOKS_SYSCALLS_BPF_H

static __always_inline void emit_call(u8 type, u64 id, u64 mm, struct call *c, u64 result)
{
	u64 sequence;
	struct syscall_record *r = reserve(&sequence);

	if (!r) {
		count(COUNT_LOST_OTHER);
		return;
	}
	CLEAR_BODY(r);
	r->type = type;
	r->marks = r->spare[0] = r->spare[1] = 0;
	r->time_ns = bpf_ktime_get_ns();
	r->tgid = id >> 32;
	r->tid = id;
	r->mm = mm;
	r->number = c->number;
	r->result = result;
	__builtin_memcpy(r->args, c->args, sizeof(r->args));
	submit(r, sequence);
}

/* Report a userfaultfd ioctl, if the call is one. `active`: a target makes it. */
static __always_inline void userfault_call(u64 frame, u64 result, u64 id, int active)
{
#ifdef O_UFFD_MM
	u32 zero = 0, owner;
	u64 *used = userfaults.lookup(&zero);
	u64 task = bpf_get_current_task();
	struct userfault u = {};
	struct pt_regs regs;
	struct call c;

	if (!used || !(active || *used))
		return;
	if (bpf_probe_read_kernel(&regs, sizeof(regs), (void *)frame))
		return;
	if (active && (long long)result >= 0 && makes_userfault(regs.orig_ax, regs.si))
		*used = 1;
	if (regs.orig_ax != CALL_IOCTL || !parse_userfault(regs.si, regs.dx, result, &u))
		return;
	u.mm = userfault_memory(task, regs.di);
	owner = owner_of(u.mm);
	if (!owner && active)
		owner = id >> 32;
	if (!is_active(owner))
		return;
	c.number = CALL_IOCTL;
	c.args[0] = u.command;
	c.args[1] = u.start;
	c.args[2] = u.length;
	c.args[3] = u.other;
	c.args[4] = c.args[5] = 0;
	emit_call(RECORD_SYSCALL, (u64)owner << 32 | (u32)id, u.mm, &c, 0);
#endif
}

#ifdef PROBE_PERF
/* Start a FILLED record: everything but `seen` and `entries`; 0 if the ring had no room. */
static __always_inline struct window_record *new_filled(u64 which, u64 *sequence, u64 id, u64 mm,
							u64 address, u32 level)
{
	struct window_record *w = claimed(which, sequence);

	if (!w)
		return 0;
	w->type = RECORD_FILLED;
	w->marks = w->spare = 0;
	w->level = level;
	w->time_ns = bpf_ktime_get_ns();
	w->tgid = id >> 32;
	w->tid = id;
	w->mm = mm;
	w->address = address;
	return w;
}

/* Report the window or huge page at `at`, as far as in [start, end); 0 if the ring had no room. */
static __always_inline int emit_filled(u64 which, u64 id, u64 mm, u64 address, u64 start, u64 end,
				       u32 level, struct walk *at)
{
	u64 sequence;
	struct window_record *w = new_filled(which, &sequence, id, mm, address, level);

	if (!w)
		return 0;
	w->seen = part_of(address, level == 1 ? WINDOW_PAGES : 512, start, end);
	if (level == 1) {
		bpf_probe_read_kernel(w->entries, sizeof(w->entries), (void *)at->entry_at);
	} else {
		__builtin_memset(w->entries, 0, sizeof(w->entries));
		w->entries[0] = at->entry;
	}
	submit(w, sequence);
	return 1;
}

/* Report up to which address [start, end) was reported. */
static __always_inline void emit_filled_end(u64 id, u64 mm, u64 start, u64 end, u64 until)
{
	u64 sequence, first;
	struct window_record *w;

	if (!claim(1, &first) || !(w = new_filled(first, &sequence, id, mm, until, 0))) {
		count(COUNT_LOST_OTHER);
		return;
	}
	w->seen = 0;
	__builtin_memset(w->entries, 0, sizeof(w->entries));
	w->entries[0] = start;
	w->entries[1] = end;
	submit(w, sequence);
}

/*
 * Report what is mapped now in [start, end), which a call has populated: up to FILLED_TABLES page
 * tables, and while at least half of the ring is free for records that cannot be had later.
 *
 * Room is claimed for a whole page table: a search for room in the inner loop gives the verifier
 * too many paths.
 */
static __always_inline void emit_all_filled(u64 id, u64 mm, u64 start, u64 end)
{
	u64 address = start & ~(WINDOW_BYTES - 1), next, windows, first;
	struct walk at;

	for (u32 table = 0; table < FILLED_TABLES; table++) {
		if (address >= end || is_half_full())
			break;
		COUNTED(table);
		at.level = 0;
		if (!walk_down(mm, address, &at) || !at.level || at.level > 2)
			break;
		next = (address & HUGE_PAGE) + HUGE_BYTES;
		if (at.level == 2) {
			if (is_present(at.entry) &&
			    (!claim(1, &first) || !emit_filled(first, id, mm, address & HUGE_PAGE,
							       start, end, 2, &at))) {
				count(COUNT_LOST_OTHER);
				break;
			}
			address = next;
			continue;
		}
		windows = (least(next, end) - address + WINDOW_BYTES - 1) / WINDOW_BYTES;
		if (!claim(windows, &first)) {
			count(COUNT_LOST_OTHER);
			break;
		}
		at.entry_at = window_at(&at);
		for (u32 i = 0; i < WINDOWS; i++) {
			if (i >= windows)
				break;
			COUNTED(i);
			if (!emit_filled(first + i, id, mm, address, start, end, 1, &at)) {
				count(COUNT_LOST_OTHER);
				return;
			}
			at.entry_at += WINDOW_PAGES * 8;
			address += WINDOW_BYTES;
		}
	}
	emit_filled_end(id, mm, start, end, address);
}

/* Whether a task is in the tracer's PID namespace, so that pids in its arguments are ours. */
static __always_inline int counts_as_we_do(u64 task)
{
	u32 level = 0, ours = 0;
	u64 pid = 0;

#ifdef PID_NAMESPACE
	ours = SETTINGS->namespace_level;
	if (!tid_of(task))
		return 0;
#endif
	READ(pid, task, O_TASK_THREAD_PID);
	if (!pid)
		return 0;
	READ(level, pid, O_PID_LEVEL);
	return level == ours;
}

/* Report a process_vm_writev() into a target's memory, if the call is one. */
static __always_inline void remote_write(u64 frame, u64 result)
{
	u64 left = result, bytes, task = bpf_get_current_task();
	struct pt_regs regs;
	struct call c;
	u32 tgid;

	if ((long long)result <= 0 ||
	    LOAD64(frame + __builtin_offsetof(struct pt_regs, orig_ax)) != CALL_PROCESS_VM_WRITEV)
		return;
	if (bpf_probe_read_kernel(&regs, sizeof(regs), (void *)frame))
		return;
	tgid = regs.di;
	if (!is_active(tgid) || is_compat(task) || !counts_as_we_do(task))
		return;
	c.number = CALL_PROCESS_VM_WRITEV;
	for (u32 i = 0; i < WRITTEN_PARTS; i += WRITTEN_AT_ONCE) {
		if (i >= regs.r8 || !left)
			break;
		COUNTED(i);
		bytes = read_parts(regs.r10, i, regs.r8, c.args);
		emit_call(RECORD_SYSCALL, (u64)tgid << 32, 0, &c, left);
		left = bytes < left ? left - bytes : 0;
	}
}
#endif

RAW_TRACEPOINT_PROBE(sys_exit)
{
	u64 id = current_id();
	int active = is_active(id >> 32);
	u64 task, mm = 0, start, end;
	struct call c;

	if (active) {
		task = bpf_get_current_task();
		if (read_call(ctx->args[0], task, &c)) {
			__sync_fetch_and_add(MAPPINGS, 1);
			READ(mm, task, O_TASK_MM);
			emit_call(RECORD_SYSCALL, id, mm, &c, ctx->args[1]);
			if (maps_code(&c))
				mapped_code(id >> 32);
#ifdef PROBE_PERF
			if (fills(&c, mm, ctx->args[1], &start, &end))
				emit_all_filled(id, mm, start, end);
#endif
			return 0;
		}
	}
	userfault_call(ctx->args[0], ctx->args[1], id, active);
#ifdef PROBE_PERF
	remote_write(ctx->args[0], ctx->args[1]);
#endif
	return 0;
}

/*
 * Whether one of the mm's users is the tracer's own pin, which takes no faults.
 * After an exec the command has another mm, and this one's address may be reused.
 */
static __always_inline int is_held(u64 mm)
{
	u32 zero = 0;
	u64 *pinned = held.lookup(&zero);
	struct command *own = command.lookup(&zero);

	return pinned && own && mm && *pinned == mm && own->mm == mm;
}

/*
 * While a call releases pages, other threads of the process may fault on them: the time of its
 * entry separates before from after. Without other users of the mm, its exit is enough.
 */
RAW_TRACEPOINT_PROBE(sys_enter)
{
	u64 id, task, mm = 0;
	u32 users = 0;
	struct call c;

	if (!may_release_pages(ctx->args[1]))
		return 0;
	id = current_id();
	if (!is_active(id >> 32))
		return 0;
	task = bpf_get_current_task();
	READ(mm, task, O_TASK_MM);
	READ(users, mm, O_MM_USERS);
	if (users < 2 || (users == 2 && is_held(mm)) || !read_call(ctx->args[0], task, &c))
		return 0;
	if (c.number == CALL_MMAP && !(c.args[3] & CALL_MAP_FIXED))
		return 0;
	emit_call(RECORD_CALL, id, mm, &c, 0);
	return 0;
}

#endif
