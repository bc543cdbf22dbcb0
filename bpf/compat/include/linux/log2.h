/* Stand-in: BCC defines its own bpf_log2; nothing of this file is used. */
