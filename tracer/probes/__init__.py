"""Compiling, loading and attaching bpf/: fentry, kprobe, perf. The only importer of bcc."""
