/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * The functions that CPython is running in a thread: from _PyRuntime to the thread's state, along
 * its interpreter's frames, to their code objects, with UNWIND (--stacks). The thread itself is in
 * the fault, so nothing of that changes while it is read.
 */
#ifndef PAGEFAULT_PYTHON_BPF_H
#define PAGEFAULT_PYTHON_BPF_H

#ifdef UNWIND

BPF_HASH(pythons, u64, struct python_runtime, 4096); /* by program.shared, .libraries or .file */
BPF_TABLE("lru_hash", u32, struct python_thread, python_threads, 16384);
BPF_TABLE("lru_hash", u64, u8, sent_codes, 32768);

#define PYTHON_RECORDS ((2 * PYTHON_FRAMES + PYTHON_LOOPS + STACK_IPS - 1) / STACK_IPS)
#define CODE_MEMBER(w, name) member_of((w)->code, (w)->at.name - (w)->at.code_from, CODE_WORDS)
#define FRAME_MEMBER(w, at, name) member_of((w)->frames, (at) + (w)->at.name, FRAMES_WINDOW / 8)
#define USER_READ(to, size, address) bpf_probe_read_user(to, size, (void *)(address))

/* Whether the running process is a Python, and where its runtime is. */
static __always_inline int is_python(struct python_walk *w, struct program *p, u64 epoch)
{
	struct python_runtime *found;

	if (w->own == p->own && w->epoch == epoch)
		return w->at.address != 0;
	w->own = p->own;
	w->epoch = epoch;
	w->at.address = 0;
	found = pythons.lookup(&p->shared);
	/* One of a library is where that program's libraries are. */
	if (!found || (!found->in_executable && p->libraries != p->shared))
		found = pythons.lookup(&p->libraries);
	if (!found)
		found = pythons.lookup(&p->file);
	if (!found)
		return 0;
	w->at = *found;
	w->at.address += found->in_executable ? p->code_start : p->mmap_base;
	return 1;
}

/* gettid() of the running thread, in its own PID namespace. */
static __always_inline u32 innermost_tid(u64 task)
{
	u64 pid = 0;
	u32 level = 0, number = 0;

	READ(pid, task, O_TASK_THREAD_PID);
	READ(level, pid, O_PID_LEVEL);
	READ(number, pid, O_PID_NUMBERS + (u64)level * 16); /* struct upid */
	return number;
}

/* Read a PyThreadState; whether it is this thread's, and on its interpreter's list. */
static __always_inline int is_own_state(struct python_walk *w, u64 state)
{
	struct python_runtime *at = &w->at;
	u64 before, holder, member = 0;
	u32 id;

	if (USER_READ(w->thread, 8 * 22, state))
		return 0;
	id = member_of(w->thread, at->thread_id, THREAD_WORDS);
	if (!id || (id != w->seen.id && id != w->seen.forked))
		return 0;
	/* One that has been freed may look like this, but nothing points to it. */
	before = member_of(w->thread, at->thread_before, THREAD_WORDS);
	holder = before ? before + at->thread_next
			: member_of(w->thread, at->thread_interp, THREAD_WORDS) + at->threads;
	return !USER_READ(&member, 8, holder) && member == state;
}

/*
 * Search the interpreters for the running thread. PyThread_start_new_thread() and Py_NewInterpreter()
 * put what is new at the head of each list.
 */
u64 search_threads(u64 interpreter)
{
	u32 zero = 0, id;
	struct python_walk *w = python_walks.lookup(&zero);
	struct python_runtime *at;
	struct python_thread *t;
	u64 state = 0;

	if (!w)
		return 0;
	at = &w->at;
	t = &w->seen;
	t->interpreter = interpreter;
	t->state = t->newest = 0;
	t->interpreters = 0;
	for (u32 i = 0; i < PYTHON_THREADS; i++) {
		COUNTED(i);
		if (!state) {
			if (t->interpreters && USER_READ(&interpreter, 8, interpreter + at->next))
				break;
			if (!interpreter || USER_READ(&state, 8, interpreter + at->threads))
				break;
			if (!t->interpreters)
				t->newest = state;
			t->interpreters++;
			continue;
		}
		id = 0;
		if (USER_READ(&id, 4, state + at->thread_id))
			break;
		if (id && (id == t->id || id == t->forked)) {
			/* In two interpreters: it is not known which of them is running. */
			t->state = t->state && t->within != t->interpreters ? ~0ULL : state;
			/*
			 * A thread that 3.11 has not started yet has the id of the one that makes
			 * it, and comes before that one: the last holds.
			 */
			t->within = t->interpreters;
		}
		if (USER_READ(&state, 8, state + at->thread_next))
			break;
	}
	return 0;
}

static u64 (*call_search_threads)(u64 interpreter) = (void *)CALL_SEARCH_THREADS;

/* The running thread's state: read, and its address; 0 where it runs no Python code. */
static __always_inline u64 thread_state(struct python_walk *w, u64 task)
{
	u32 pid = (u32)bpf_get_current_pid_tgid();
	struct python_thread *known = python_threads.lookup(&pid), *t = &w->seen;
	u64 interpreter = 0, newest = 0;

	if (known && known->own == w->own) {
		*t = *known;
	} else {
		__builtin_memset(t, 0, sizeof(*t));
		t->own = w->own;
	}
	if (!t->id)
		t->id = innermost_tid(task);
	if (USER_READ(&interpreter, 8, w->at.address + w->at.interpreters) || !interpreter)
		return 0;
	if (t->interpreter == interpreter && t->interpreters == 1) {
		if (t->state) {
			if (is_own_state(w, t->state))
				return t->state;
		} else if (known && t->misses > PYTHON_PATIENCE && t->misses % PYTHON_PATIENCE &&
			   !USER_READ(&newest, 8, interpreter + w->at.threads) &&
			   newest == t->newest) {
			known->misses++; /* a thread of its own, and none has begun since */
			return 0;
		}
	}
	call_search_threads(interpreter);
	t->misses = t->state ? 0 : t->misses + 1;
	python_threads.update(&pid, t);
	if (t->state == ~0ULL) {
		w->end = PYTHON_SEVERAL;
		return 0;
	}
	return t->state && is_own_state(w, t->state) ? t->state : 0;
}

/* The innermost _PyInterpreterFrame of the running thread; 0 where there is none. */
u64 innermost_frame(u64 task)
{
	u32 zero = 0;
	struct python_walk *w = python_walks.lookup(&zero);
	u64 frame;

	if (!w || !thread_state(w, task))
		return 0;
	frame = member_of(w->thread, w->at.thread_frame, THREAD_WORDS);
	if (w->at.frame_within == NO_MEMBER || !frame)
		return frame;
	w->cframe = frame;
	if (USER_READ(&frame, 8, frame + w->at.frame_within)) {
		w->end = PYTHON_UNREADABLE;
		return 0;
	}
	return frame;
}

static u64 (*call_innermost_frame)(u64 task) = (void *)CALL_INNERMOST_FRAME;

/* The hash of a str object, which most have; else one of its first bytes. */
static __always_inline u64 hash_of(struct python_walk *w, u64 text)
{
	u64 hash = 0, size = sizeof(w->text);

	USER_READ(&hash, 8, text + TEXT_HASH);
	if (hash + 1)
		return hash;
	hash = 0;
	if (USER_READ(w->text, size, text))
		USER_READ(w->text, (4096 - (text & 4095)) & (size - 1), text);
	for (int i = 2; i < TEXT_WORDS; i++)
		hash = stack_mix(hash, w->text[i]);
	return hash;
}

/* Read a code object; a number for it, as another one may come to lie there, or 0. */
u64 read_code(u64 address)
{
	u32 zero = 0, version = 0;
	struct python_walk *w = python_walks.lookup(&zero);
	u64 file, hash, size;

	if (!w)
		return 0;
	size = w->at.code_bytes & (CODE_WORDS * 8 - 1);
	if (USER_READ(w->code, size, address + w->at.code_from))
		return 0;
	file = CODE_MEMBER(w, code_file);
	hash = stack_mix(stack_mix(w->whose, address), file);
	hash = stack_mix(hash, CODE_MEMBER(w, code_name));
	hash = stack_mix(hash, CODE_MEMBER(w, code_lines));
	hash = stack_mix(hash, (u32)CODE_MEMBER(w, code_line));
	if (w->at.code_version != NO_MEMBER)
		version = CODE_MEMBER(w, code_version);
	if (version)
		return stack_mix(hash, version) | 1;
	/* Of 3.11 nothing says that it is another one, if not its names. */
	if (file != w->file) {
		w->file = file;
		w->file_hash = hash_of(w, file);
	}
	return stack_mix(stack_mix(hash, w->file_hash), hash_of(w, CODE_MEMBER(w, code_name))) | 1;
}

static u64 (*call_read_code)(u64 address) = (void *)CALL_READ_CODE;

/* Read a _PyInterpreterFrame, with those before it on the data stack; where it is in `frames`. */
static __always_inline int read_frame(struct python_walk *w, u64 frame, u32 *at)
{
	u64 offset = frame - w->frames_at, size;

	if (offset >= w->frames_size) {
		/* Not before the page: reading what is not mapped costs an exception. */
		offset = frame & 4095;
		if (offset > FRAMES_WINDOW - FRAME_BYTES)
			offset = FRAMES_WINDOW - FRAME_BYTES;
		size = offset + FRAME_BYTES;
		COUNTED(size);
		if (size > FRAMES_WINDOW)
			return -1;
		w->frames_at = frame - offset;
		w->frames_size = offset + 8;
		if (USER_READ(w->frames, size, w->frames_at)) {
			w->frames_size = 0;
			return -1;
		}
	}
	*at = offset;
	return 0;
}

/* Add an address in the native frame of a call of the evaluation loop. */
static __always_inline void add_loop(struct python_walk *w, u64 address)
{
	u64 called = w->called;

	if (called < PYTHON_LOOPS) {
		w->loops[called & PYTHON_LOOPS] = address & USER_END;
		w->called = called + 1;
	}
}

/* A code object's number: it stays the same for as long as the thread is in its fault. */
static __always_inline u64 number_of_code(struct python_walk *w, u64 code)
{
	u32 line = (u32)(code >> 4 ^ code >> 9) & (KNOWN_CODES - 1);
	u64 number;

	COUNTED(line);
	line &= KNOWN_CODES - 1;
	if (w->known[line].code == code && w->known[line].walk == w->walk)
		return w->known[line].number;
	number = call_read_code(code);
	w->known[line].code = code;
	w->known[line].walk = w->walk;
	w->known[line].number = number;
	return number;
}

/* Add a frame to those in the scratch; its caller. */
u64 walk_frame(u64 frame)
{
	u32 zero = 0, at = 0;
	struct python_walk *w = python_walks.lookup(&zero);
	u64 code, number, position, count;

	if (!w || read_frame(w, frame, &at))
		return 0;
	count = w->count & 127;
	if ((u8)FRAME_MEMBER(w, at, frame_owner) >= PYTHON_SHIM) {
		if (count) {
			w->words[(2 * count - 1) & 255] |= PYTHON_ENTRY;
			add_loop(w, frame); /* it is a variable of _PyEval_EvalFrameDefault() */
		}
		w->hash = stack_mix(w->hash, PYTHON_ENTRY);
		w->end = PYTHON_LIMIT;
		return FRAME_MEMBER(w, at, frame_caller);
	}
	code = FRAME_MEMBER(w, at, frame_code) & ~7ULL; /* 3.14: tagged */
	number = number_of_code(w, code);
	if (!number)
		return 0;
	position = FRAME_MEMBER(w, at, frame_at) - code - w->at.code_start;
	position = (u32)((s64)position >> 1);
	if (w->at.frame_entry != NO_MEMBER && (u8)FRAME_MEMBER(w, at, frame_entry)) {
		position |= PYTHON_ENTRY;
		add_loop(w, w->cframe); /* so is this one of 3.11 */
		USER_READ(&w->cframe, 8, w->cframe + w->at.within_before);
	}
	w->codes[count] = code;
	w->words[2 * count] = number;
	w->words[2 * count + 1] = position;
	w->hash = stack_mix(stack_mix(w->hash, number), position);
	w->count = count + 1;
	w->end = PYTHON_LIMIT;
	return FRAME_MEMBER(w, at, frame_caller);
}

static u64 (*call_walk_frame)(u64 frame) = (void *)CALL_WALK_FRAME;

/* Walk the running thread's Python frames, which are in the scratch then; a hash of them, or 0. */
u64 walk_python(u64 none)
{
	u32 zero = 0;
	struct unwind *u = unwinds.lookup(&zero);
	struct python_walk *w = python_walks.lookup(&zero);
	u64 *epoch = rules_epoch.lookup(&zero), frame;

	if (!u || !w || !epoch)
		return 0;
	w->count = w->called = w->placed = w->cframe = 0;
	w->end = PYTHON_NONE;
	if (!is_python(w, &u->program, *epoch))
		return 0;
	w->walk++;
	w->frames_at = w->frames_size = w->file = 0;
	w->whose = stack_mix(stack_mix(u->program.own, u->mm), u->tgid);
	frame = call_innermost_frame(bpf_get_current_task());
	if (!frame)
		return w->end;
	w->hash = 1;
	w->end = PYTHON_LIMIT;
	for (u32 i = 0; i < PYTHON_STEPS; i++) {
		COUNTED(i);
		if (!frame) {
			w->end = PYTHON_WHOLE;
			break;
		}
		if (w->count >= PYTHON_FRAMES)
			break;
		w->end = PYTHON_UNREADABLE;
		frame = call_walk_frame(frame);
		if (w->end == PYTHON_UNREADABLE)
			break;
	}
	return stack_mix(w->hash, w->end);
}

static u64 (*call_walk_python)(u64 none) = (void *)CALL_WALK_PYTHON;

struct code_buffer {
	struct python_code head;
	u8 file[PYTHON_TEXT];
	u8 name[PYTHON_TEXT];
	u8 lines[COPY_BYTES - 2 * PYTHON_TEXT];
};

/* Read what there is up to the end of a page, and zeros after it. */
static __always_inline void read_text(u8 *to, u64 address)
{
	u32 size = (4096 - (address & 4095)) & (PYTHON_TEXT - 1);

	if (USER_READ(to, PYTHON_TEXT, address)) {
		COUNTED(size);
		USER_READ(to, size & (PYTHON_TEXT - 1), address);
	}
}

/* Send a code object of the frames in the scratch, by the frame's number. */
u64 send_code(u64 which)
{
	u32 zero = 0;
	struct python_walk *w = python_walks.lookup(&zero);
	struct copy_buffer *buffer = copy_buffers.lookup(&zero);
	struct code_buffer *c = (void *)buffer;
	u64 lines, size = 0;

	if (!w || !buffer)
		return 0;
	which &= 127;
	c->head.number = w->words[2 * which];
	size = w->at.code_bytes & (CODE_WORDS * 8 - 1);
	if (USER_READ(w->code, size, w->codes[which] + w->at.code_from))
		return 0;
	lines = CODE_MEMBER(w, code_lines);
	c->head.no_stack = 0;
	c->head.version = w->at.version;
	c->head.first_line = CODE_MEMBER(w, code_line);
	size = 0;
	USER_READ(&size, 8, lines + BYTES_SIZE);
	c->head.lines = size;
	c->head.offset = 0;
	read_text(c->file, CODE_MEMBER(w, code_file));
	read_text(c->name, CODE_MEMBER(w, code_name));
	lines += BYTES_DATA;
	for (int i = 0; i < COPY_PARTS; i++) {
		size = c->head.lines - c->head.offset;
		if (size > sizeof(c->lines))
			size = sizeof(c->lines);
		COUNTED(size);
		if (size > sizeof(c->lines))
			return 0;
		if (USER_READ(c->lines, size, lines + c->head.offset))
			size = 0; /* its lines are not known */
		c->head.size = size;
		size += __builtin_offsetof(struct code_buffer, lines);
		COUNTED(size);
		if (size > sizeof(*c))
			return 0;
		if (copies.ringbuf_output(c, size, 0)) {
			count(COUNT_COPIES_LOST);
			return 0;
		}
		c->head.offset += c->head.size;
		if (!c->head.size || c->head.offset >= c->head.lines)
			break;
	}
	return 1;
}

static u64 (*call_send_code)(u64 which) = (void *)CALL_SEND_CODE;

/* Send the Python frames in the scratch, as part of the stack of that number. */
u64 send_python(u64 number)
{
	u32 zero = 0;
	struct python_walk *w = python_walks.lookup(&zero);
	struct stack *s = stacks.lookup(&zero);
	struct stack_record *r;
	u64 sequence, code;
	u32 at, words;
	u8 yes = 1;

	if (!w || !s)
		return 0;
	if (w->end == PYTHON_NONE)
		return 1;
	for (u32 i = 0; i < PYTHON_LOOPS; i++) {
		if (i >= w->called)
			break;
		COUNTED(i);
		w->words[(2 * w->count + i) & 511] = w->loops[i & PYTHON_LOOPS];
	}
	words = 2 * w->count + w->called;
	for (u32 i = 0; i < PYTHON_FRAMES; i++) {
		if (i >= w->count)
			break;
		COUNTED(i);
		code = w->words[(2 * i) & 255];
		if (!sent_codes.lookup(&code) && call_send_code(i))
			sent_codes.update(&code, &yes);
	}
	for (u32 i = 0; i < PYTHON_RECORDS; i++) {
		at = i * STACK_IPS;
		if (i && at >= words)
			break;
		COUNTED(at);
		r = reserve(&sequence);
		if (!r) {
			count(COUNT_LOST_OTHER);
			return 0;
		}
		r->type = RECORD_PYTHON;
		r->kernel = w->called;
		r->user = w->count;
		r->first = i;
		r->time_ns = bpf_ktime_get_ns();
		r->tgid = s->head.tgid;
		r->tid = s->head.tid;
		r->mm = s->head.mm;
		r->stack = number;
		r->caller = w->end;
		r->program = w->at.address;
		__builtin_memcpy(r->ips, w->words + (at & 511), sizeof(r->ips));
		submit(r, sequence);
	}
	return 1;
}

static u64 (*call_send_python)(u64 number) = (void *)CALL_SEND_PYTHON;

#endif

static __always_inline void python_forked(u32 tgid, u64 child)
{
#ifdef UNWIND
	u32 pid = (u32)bpf_get_current_pid_tgid(), child_pid = 0;
	struct program *p = programs.lookup(&tgid);
	struct python_thread *known, t = {};

	READ(child_pid, child, O_TASK_PID);
	if (!p || !(pythons.lookup(&p->shared) || pythons.lookup(&p->libraries) ||
		    pythons.lookup(&p->file))) {
		python_threads.delete(&child_pid);
		return;
	}
	known = python_threads.lookup(&pid);
	t.own = p->own;
	t.forked = known && known->id ? known->id : innermost_tid(this_task());
	python_threads.update(&child_pid, &t);
#endif
}

#endif
