"""bpf/ compiled, loaded and attached: fentry, kprobe, perf. The only importer of bcc."""
