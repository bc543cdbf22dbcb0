/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * The state of a walk through CPython's frames. What is read of the interpreter's structures is
 * found by offsets from user space (shared.h: struct python_runtime).
 */
#ifndef PAGEFAULT_PYTHON_H
#define PAGEFAULT_PYTHON_H

#define PYTHON_THREADS 256 /* thread states that are searched, with one for each interpreter */
#define PYTHON_STEPS 160   /* frames, and what only marks a C call, that are read of one stack */
#define PYTHON_SHIM 3      /* _frameowner: from here on it is no function's frame */
#define PYTHON_PATIENCE 64 /* faults until a thread without a state is believed to have none */
#define NO_MEMBER 0xffff

/* PyASCIIObject, PyBytesObject: Include/cpython/unicodeobject.h, bytesobject.h */
#define TEXT_HASH 24
#define BYTES_SIZE 16
#define BYTES_DATA 32

/* Words that are read of each: of PyThreadState, _PyInterpreterFrame, PyCodeObject, and of text. */
#define THREAD_WORDS 32
#define FRAME_BYTES 80
#define CODE_WORDS 16
#define TEXT_WORDS 16
/* Frames lie one behind another, the innermost last (Python's data stack): so much is read at once. */
#define FRAMES_WINDOW 1024
#define KNOWN_CODES 16

/* A thread of Python's, by its pid. */
struct python_thread {
	u64 own;          /* program.own: not known of another program */
	u64 state;        /* PyThreadState *; 0 where it has none */
	u64 interpreter;  /* the newest PyInterpreterState * when that was searched */
	u64 newest;       /* and its newest PyThreadState * */
	u64 interpreters; /* how many there were then */
	u64 within;       /* in which of them its state is */
	u64 misses;       /* faults without a state: it may not have its id yet */
	u32 id;           /* gettid() in its own PID namespace: PyThreadState.native_thread_id */
	u32 forked; /* the same of the thread that forked it, until the child has set its own */
};

struct python_walk {
	struct python_runtime at; /* of the program `own`; its address is absolute, 0 for none */
	u64 own;
	u64 epoch;
	struct python_thread seen;
	u64 thread[THREAD_WORDS];
	u64 frames[FRAMES_WINDOW / 8];
	u64 frames_at;   /* where these begin */
	u64 frames_size; /* bytes of it in which a frame may begin */
	u64 code[CODE_WORDS];
	u64 text[TEXT_WORDS];
	u64 codes[128];             /* PyCodeObject * of each frame */
	u64 words[512 + STACK_IPS]; /* the frames as they are sent, and then the loops */
	u64 loops[PYTHON_LOOPS +
		  1]; /* an address in the frame of each call of the evaluation loop */
	u64 count;    /* of frames */
	u64 called;   /* of loops */
	u64 placed;   /* … of which the native frames are known */
	u64 cframe;   /* _PyCFrame * */
	u64 hash;     /* of the frames so far */
	u64 end;      /* PYTHON_… */
	/* The last file's name, and its hash; code objects by address, of this walk. */
	u64 file;
	u64 file_hash;
	u64 walk;
	struct {
		u64 code, walk, number;
	} known[KNOWN_CODES];
	u64 whose; /* what distinguishes code objects at one address: a process's memory */
};

/* A member at an offset that user space chose, of words that were read. */
static __always_inline u64 member_of(u64 *words, u32 offset, u32 most)
{
	u32 i = offset >> 3;

	COUNTED(i);
	i &= most - 1;
	return words[i] >> (offset & 7) * 8;
}

#endif
